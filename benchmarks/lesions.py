"""Lesions removed and invented (Cohen 2018): python -m benchmarks.lesions [--out JSON] [section.key=value ...]

Phantom heads in two situations: only the MR to train on have lesions, or only the CT. In each, classic.yaml and
mri2ct.yaml ("new"; the command's overrides are its own) are trained, small, and translate unseen MR with and without
lesions. Prints the shares of lesions kept and invented beside the masked error; benchmarks/lesions.md says what counts.
"""

from __future__ import annotations

import argparse
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import keep
from benchmarks.training import RESNET, UNET, run_training
from medcycle.data import body_mask
from medcycle.data.lesions import HEALTHY, ILL, add_lesions, brain_mask, write_lesion_cohort
from medcycle.evaluation.lesions import Contrast, invented_lesions, lesion_contrasts
from medcycle.inference import Translator, translate_paths
from medcycle.io import find_scans, read_volume

SMALL = [
    *("prepare.spacing=[3, 3, 3]", "sample.size=[64, 72]", "sample.axes=axial"),
    *("model.discriminator.filters=32", "model.discriminator.layers=2", "train.learning_rate=4e-4", "train.ema=0.998"),
    *("train.samples_per_epoch=200", "train.epochs=8", "train.decay_epochs=7", "train.validation=0"),
    *("train.preview_every=10000", "train.checkpoint_every=1000", "train.threads=1"),
]
MODELS = {"classic": ("classic.yaml", [RESNET]), "new": ("mri2ct.yaml", [UNET, "model.generator.downs=3"])}
SITUATIONS = {"in MR": (ILL, HEALTHY), "in CT": (HEALTHY, ILL)}  # which have lesions in training: MR, CT
KINDS = {"dark": -1, "bright": 1}  # in CT: cysts and bleeds
PLACES = 5  # draws of places for lesions in each healthy head


def measure(scans: Path, sct: dict[str, Path]) -> dict[str, Any]:
    """Kept, invented and masked errors of translated test scans.

    Args:
        scans: from `write_lesion_cohort`.
        sct: folders of the test scans with and without lesions, translated, by the ends of their folders' names.

    Returns:
        For the "dark" and the "bright" lesions: how many "lesions", the share "kept", the share of healthy places
        "invented", "contrast" (made over true, mean) and "blobs" in a healthy head. "all": the share of lesions kept,
        of places where either was invented, and blobs of either kind. "mae" in the mask of the scans with lesions, HU.
    """
    test = scans / "test"
    names = [path.name for path in find_scans(test / "numbers")]

    def hu(folder: Path, name: str) -> Any:
        return read_volume(folder / name).array[0]

    lesions: list[Contrast] = []
    places: list[float] = []
    errors = []
    for name in names:
        tissues, spacing = hu(test / "tissues", name).astype(np.int16), read_volume(test / "tissues" / name).spacing
        brain, healthy, ill = brain_mask(tissues), hu(test / f"ct-{HEALTHY}", name), hu(test / f"ct-{ILL}", name)
        made, without = hu(sct[ILL], name), hu(sct[HEALTHY], name)
        numbers = hu(test / "numbers", name)
        lesions += lesion_contrasts(made, ill, numbers, brain, spacing, healthy).values()
        for seed in range(PLACES):
            _, numbers = add_lesions(tissues, seed, int(numbers.max()), spacing=spacing[0])
            found = lesion_contrasts(without, healthy, numbers, brain, spacing, healthy)
            places += [contrast.made for contrast in found.values()]
        errors.append(float(np.abs(made - ill)[body_mask(tissues)].mean()))

    result: dict[str, Any] = {}
    for kind, sign in KINDS.items():
        mine = [contrast for contrast in lesions if contrast.true * sign > 0]
        true, made = (statistics.mean(values) for values in zip(*mine, strict=True))
        blobs = 0
        for name in names:
            images = hu(sct[HEALTHY], name), hu(test / f"ct-{HEALTHY}", name)
            tissues = read_volume(test / "tissues" / name)
            blobs += len(invented_lesions(*images, brain_mask(tissues.array[0]), tissues.spacing, true))
        result[kind] = {
            "lesions": len(mine),
            "kept": sum(contrast.seen for contrast in mine) / len(mine),
            "invented": sum(Contrast(true, place).seen for place in places) / len(places),
            "contrast": made / true,
            "blobs": blobs / len(names),
        }
    dark, bright = (result[kind] for kind in KINDS)
    result["all"] = {
        "lesions": len(lesions),
        "kept": sum(contrast.seen for contrast in lesions) / len(lesions),
        "places": len(places),
        "invented": dark["invented"] + bright["invented"],  # a place cannot be both
        "blobs": dark["blobs"] + bright["blobs"],
    }
    return result | {"mae": statistics.mean(errors)}


def one(scans: Path, out: Path, model: str, situation: str, overrides: list[str]) -> dict[str, Any]:
    """Train, translate, measure."""
    run = out / f"{model}-{situation}".replace(" ", "-")
    mr, ct = SITUATIONS[situation]
    settings = [f"domains.a.path={scans / 'train' / f'mr-{mr}'}", f"domains.b.path={scans / 'train' / f'ct-{ct}'}"]
    config, sizes = MODELS[model]
    settings += [f"prepare.cache={out / 'cache'}", *sizes, *SMALL, *overrides]
    minutes = run_training(config, run, settings)
    translator = Translator.load(run, to="ct")
    sct = {end: run / f"sct-{end}" for end in (HEALTHY, ILL)}
    for end, folder in sct.items():
        translate_paths(translator, scans / "test" / f"mr-{end}", folder, overwrite=True)
    found = measure(scans, sct)
    return {"model": model, "situation": situation, "minutes": minutes, **found}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line a model, kinds of lesions side by side."""

    def percent(row: dict[str, Any], share: str) -> str:
        return f"**{row['all'][share]:.0%}** ({', '.join(f'{row[kind][share]:.0%}' for kind in KINDS)})"

    kinds = ", ".join(KINDS)
    lines = [
        f"| model | lesions in training | kept ({kinds}) | invented ({kinds}) | contrast, made / true ({kinds}) "
        "| blobs a healthy head | MAE, HU | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["model"], row["situation"], percent(row, "kept"), percent(row, "invented")]
        cells += [", ".join(f"{row[kind]['contrast']:.1f}" for kind in KINDS), f"{row['all']['blobs']:.0f}"]
        lines.append(f"| {' | '.join(cells)} | {row['mae']:.0f} | {row['minutes']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/lesions"), help="folder of scans and runs")
    parser.add_argument("--at-once", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--both", action="append", default=[], metavar="section.key=value", help="of both models")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="of the new model")
    options = parser.parse_args()
    scans: Path = options.work / "scans"
    if not scans.is_dir():
        write_lesion_cohort(options.work / "scans.part").rename(scans)  # an interrupted writing is begun again
    own = {"classic": [], "new": options.overrides}
    jobs = [(scans, options.work, model, where, own[model] + options.both) for where in SITUATIONS for model in MODELS]
    with ThreadPoolExecutor(options.at_once) as pool:
        rows = list(pool.map(lambda job: one(*job), jobs))
    print(table(rows))
    keep(options.out, "lesions", {"overrides": options.overrides, "overrides of both": options.both, "runs": rows})


if __name__ == "__main__":
    main()
