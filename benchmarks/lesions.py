"""Lesions removed and invented (Cohen 2018): python -m benchmarks.lesions [--out JSON] [section.key=value ...]

Phantom heads in two situations: only the MR to train on have lesions, or only the CT. In each, quick.yaml as it is
("classic") and with the overrides (of the command, else NEW) is trained and translates unseen MR with and without
lesions. Prints the shares of lesions kept and invented beside the masked error; benchmarks/lesions.md says what counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import keep
from medcycle.data.lesions import HEALTHY, ILL, write_lesion_cohort
from medcycle.evaluation.lesions import Contrast, invented_lesions, lesion_contrasts
from medcycle.inference import Translator, translate_paths
from medcycle.io import find_scans, read_volume

SMALL = [
    *("sample.size=[64, 72]", "train.samples_per_epoch=200", "train.epochs=5", "train.decay_epochs=5"),
    *("train.validation=0", "train.preview_every=10000", "train.checkpoint_every=10000"),
]
NEW = ["prepare.stretch=[-250, 250]", "loss.structure.mind=5"]
SITUATIONS = {"in MR": (ILL, HEALTHY), "in CT": (HEALTHY, ILL)}  # which have lesions in training: MR, CT
KINDS = {"dark": -1, "bright": 1}  # in CT: cysts and bleeds


def run_training(scans: Path, run: Path, situation: str, overrides: list[str]) -> float:
    """Train in a process of its own, unless that is done; seconds it took."""
    mr, ct = SITUATIONS[situation]
    settings = [f"domains.a.path={scans / 'train' / f'mr-{mr}'}", f"domains.b.path={scans / 'train' / f'ct-{ct}'}"]
    settings += [f"prepare.cache={run.parent / 'cache'}", *SMALL, *overrides]
    began = time.monotonic()
    if not (run / "mr_to_ct.safetensors").is_file():
        command = [sys.executable, "-m", "medcycle", "train", "--config", "quick.yaml", "--out", str(run), *settings]
        subprocess.run(command, check=True, env=os.environ | {"OMP_WAIT_POLICY": "passive"}, capture_output=True)
    return time.monotonic() - began


def measure(scans: Path, sct: dict[str, Path]) -> dict[str, Any]:
    """Kept, invented and masked errors of translated test scans.

    Args:
        scans: from `write_lesion_cohort`.
        sct: folders of the test scans with and without lesions, translated, by the ends of their folders' names.

    Returns:
        For "dark" lesions, "bright" ones and "all": "kept" and "invented", shares of the "lesions" there are; "mae",
        HU, of the scans with lesions; and the "contrasts" of every lesion, true and made, HU.
    """
    test = scans / "test"

    def hu(folder: Path, name: str) -> Any:
        return read_volume(folder / name).array[0]

    names = [path.name for path in find_scans(test / "numbers")]
    contrasts: list[Contrast] = []
    errors = []
    for name in names:
        made, true = hu(sct[ILL], name), hu(test / f"ct-{ILL}", name)
        spacing = read_volume(test / "brain" / name).spacing
        found = lesion_contrasts(
            made,
            true,
            hu(test / "numbers", name),
            hu(test / "brain", name),
            spacing,
            healthy=hu(test / f"ct-{HEALTHY}", name),
        )
        contrasts += found.values()
        errors.append(float(np.abs(made - true)[hu(test / "mask", name) > 0].mean()))
    result: dict[str, Any] = {}
    for kind, sign in KINDS.items():
        mine = [contrast for contrast in contrasts if contrast.true * sign > 0]
        if mine:
            typical = statistics.mean(contrast.true for contrast in mine)
            blobs = [
                invented_lesions(
                    hu(sct[HEALTHY], name),
                    hu(test / f"ct-{HEALTHY}", name),
                    hu(test / "brain", name),
                    read_volume(test / "brain" / name).spacing,
                    typical,
                )
                for name in names
            ]
            count, kept = sum(map(len, blobs)), sum(contrast.kept for contrast in mine)
            result[kind] = {"lesions": len(mine), "kept": kept / len(mine), "invented": count / len(mine)}
    total = len(contrasts)
    result["all"] = {"lesions": total} | {
        share: sum(found[share] * found["lesions"] for found in result.values()) / total
        for share in ("kept", "invented")
    }
    result["mae"] = statistics.mean(errors)
    result["contrasts"] = [[round(value, 1) for value in contrast] for contrast in contrasts]
    return result


def one(scans: Path, out: Path, model: str, situation: str, overrides: list[str]) -> dict[str, Any]:
    """Train, translate, measure."""
    run = out / f"{model}-{situation}".replace(" ", "-")
    seconds = run_training(scans, run, situation, overrides)
    translator = Translator.load(run, to="ct")
    sct = {end: run / f"sct-{end}" for end in (HEALTHY, ILL)}
    for end, folder in sct.items():
        translate_paths(translator, scans / "test" / f"mr-{end}", folder, overwrite=True)
    found = measure(scans, sct)
    return {"model": model, "situation": situation, "minutes": round(seconds / 60, 1), **found}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line a model, kinds of lesions side by side."""

    def percent(row: dict[str, Any], share: str) -> str:
        kinds = [f"{row[kind][share]:.0%}" if kind in row else "-" for kind in KINDS]
        return f"**{row['all'][share]:.0%}** ({', '.join(kinds)})"

    kinds = ", ".join(KINDS)
    head = f"| model | lesions in training | kept ({kinds}) | invented ({kinds}) | MAE, HU | minutes |"
    lines = [head, "|---|---|---|---|---|---|"]
    for row in rows:
        cells = (row["model"], row["situation"], percent(row, "kept"), percent(row, "invented"))
        lines.append(f"| {' | '.join(cells)} | {row['mae']:.0f} | {row['minutes']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/lesions"), help="folder of scans and runs")
    parser.add_argument("--at-once", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = parser.parse_args()
    scans: Path = options.work / "scans"
    if not scans.is_dir():
        write_lesion_cohort(options.work / "scans.part").rename(scans)  # an interrupted writing is begun again
    models: dict[str, list[str]] = {"classic": [], "new": options.overrides or NEW}
    jobs = [(scans, options.work, model, where, more) for model, more in models.items() for where in SITUATIONS]
    with ThreadPoolExecutor(options.at_once) as pool:
        rows = list(pool.map(lambda job: one(*job), jobs))
    print(table(rows))
    keep(options.out, "lesions", {"overrides": models["new"], "runs": rows})


if __name__ == "__main__":
    main()
