"""What keeps the anatomy: MR -> CT from unpaired simulated heads, one change at a time, with the table it prints.

    python -m benchmarks.anatomy --scans HEADS [--only classic "new (mri2ct.yaml)"] [--seeds 3] [--steps 3000]

HEADS is the folder that the project's head simulator writes (train/mr, train/ct of other heads; test/mr, test/ct,
test/mask of four unseen heads). Every variant trains with the same number of steps, sizes and samples; the four test
heads are translated and scored. A run that is there already is not trained again. benchmarks/anatomy.md tells the rest.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.machine import keep
from benchmarks.training import RESNET, UNET, run_training
from medcycle.evaluation import ct_baselines, evaluate
from medcycle.inference import Translator, translate_paths
from medcycle.io import find_scans
from medcycle.training.card import last_figures

# 2 CPU cores, five heads of 2 mm, thousands of steps instead of hundreds of thousands: small networks, whole planes.
SIZES = [
    *("prepare.spacing=[2, 2, 2]", "sample.size=[112, 112]", UNET, "model.discriminator.filters=32"),
    *("train.ema=0.998", "train.learning_rate=3e-4", "train.threads=1"),
    *("train.samples_per_epoch=100", "train.validation=0"),
    *("train.preview_every=1000", "train.checkpoint_every=1000", "train.log_every=100"),
]
INSTANCE = ["model.discriminator.norm=instance", "model.discriminator.spectral=false"]
CLASSIC_LOSSES = [*INSTANCE, "loss.cycle=10", "loss.structure.mind=0"]
NO_PREPARATION = ["prepare.stretch=null", "prepare.floor=-1", "prepare.cavities=false"]
NETS_3D = [
    "model.generator={kind: unet, filters: 8, downs: 3, norm: group, upsample: resize}",
    "model.discriminator.filters=16",
]
# Configuration and overrides; after "new", each changes one thing of it.
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "classic": ("classic.yaml", [RESNET]),
    "classic, inverted MR": (
        "mri2ct.yaml",
        [RESNET, *CLASSIC_LOSSES, *NO_PREPARATION, "sample.axes=axial", "train.calibrate=false"],
    ),
    "new (mri2ct.yaml)": ("mri2ct.yaml", []),
    "without calibration": ("mri2ct.yaml", ["train.calibrate=false"]),
    "axial planes only": ("mri2ct.yaml", ["sample.axes=axial"]),
    "axial planes with their neighbours (2.5D)": ("mri2ct.yaml", ["sample.axes=axial", "sample.context=1"]),
    "without stretch": ("mri2ct.yaml", ["prepare.stretch=null"]),
    "without floor": ("mri2ct.yaml", ["prepare.floor=-1"]),
    "without cavities": ("mri2ct.yaml", ["prepare.cavities=false"]),
    "without MIND": ("mri2ct.yaml", ["loss.structure.mind=0"]),
    "cycle 4": ("mri2ct.yaml", ["loss.cycle=4"]),
    "cycle 1.25": ("mri2ct.yaml", ["loss.cycle=1.25"]),
    "without spectral norm": ("mri2ct.yaml", INSTANCE),
    "masked losses": ("mri2ct.yaml", ["loss.body_only=true"]),
    "PatchNCE instead of MIND": ("mri2ct.yaml", ["loss.structure.mind=0", "loss.structure.patch_nce=0.4"]),
    "gradient correlation instead of MIND": (
        "mri2ct.yaml",
        ["loss.structure.mind=0", "loss.structure.gradient_correlation=1"],
    ),
    "mutual information instead of MIND": (
        "mri2ct.yaml",
        ["loss.structure.mind=0", "loss.structure.mutual_information=0.5"],
    ),
    "and the outline": ("mri2ct.yaml", ["loss.structure.outline=1"]),
    "and loss.values": ("mri2ct.yaml", ["loss.values=0.25"]),
    "without identity": ("mri2ct.yaml", ["loss.identity=0"]),
    "contrast curve, without identity": ("mri2ct.yaml", ["loss.identity=0", "loss.contrast.weight=50"]),
    "relative position": ("mri2ct.yaml", ["model.generator.position=true"]),
    "resnet": ("mri2ct.yaml", [RESNET]),
    "resnet with self-attention": ("mri2ct.yaml", [RESNET, "model.generator.attention=true"]),
    "mask-guided resnet": ("mri2ct.yaml", [RESNET, "model.generator.kind=masked", "loss.mask=0.1"]),
    "transformer U-Net": ("mri2ct.yaml", ["model.generator={kind: vit, filters: 16, downs: 3, layers: 4, heads: 4}"]),
    "transposed convolutions": ("mri2ct.yaml", ["model.generator.upsample=transposed"]),
    "pixel discriminators": ("mri2ct.yaml", ["model.discriminator={kind: pixel, filters: 32}"]),
    "discriminators of two scales": ("mri2ct.yaml", ["model.discriminator.scales=2"]),
    "R1": ("mri2ct.yaml", ["loss.r1=1"]),
    "3D patches (mri2ct-3d.yaml)": ("mri2ct-3d.yaml", ["sample.size=[48, 48, 48]", *NETS_3D]),
}


def one(scans: Path, work: Path, name: str, seed: int, steps: int, more: list[str]) -> dict[str, Any]:
    """Train one variant (unless it has been), translate the test heads and score them."""
    config, overrides = VARIANTS[name]
    run = work / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}-{steps}-{seed}"
    epochs = steps // 100
    settings = [f"domains.a.path={scans / 'train' / 'mr'}", f"domains.b.path={scans / 'train' / 'ct'}"]
    settings += [f"prepare.cache={work / 'cache'}", f"train.seed={seed}", *SIZES]
    settings += [f"train.epochs={epochs - epochs // 2}", f"train.decay_epochs={epochs // 2}", *overrides, *more]
    minutes = run_training(config, run, settings)
    scored = run / "score.json"  # found again by a later call for more variants
    if scored.is_file():
        return dict(json.loads(scored.read_text(encoding="utf-8")))
    test = scans / "test"
    translate_paths(Translator.load(run, to="ct", precision="fp32"), test / "mr", run / "sct", overwrite=True)
    score = functools.partial(evaluate, run / "sct", test / "ct", test / "mask", inputs=test / "mr")
    baselines = ct_baselines(find_scans(scans / "train" / "ct"))
    found = score(metrics="synthrad2023", out=run / "evaluation", baselines=baselines).mean
    found |= score(metrics="anatomy", out=run / "evaluation-anatomy").mean
    means = {key: round(float(value), 3) for key, value in found.items()}
    row = {"variant": name, "seed": seed, "steps": steps, "minutes": minutes, **means, **signs(run)}
    scored.write_text(json.dumps(row), encoding="utf-8")
    return row


def signs(run: Path) -> dict[str, float]:
    """What a training knew of itself at its end, without pairs: its score, and how many alarms were not over."""
    last = last_figures(run / "metrics.csv")
    score = next(float(value) for name, value in last.items() if name.endswith("_score"))
    return {"score": round(score, 3), "alarms": sum(float(v) for name, v in last.items() if name.startswith("alarm_"))}


def table(rows: list[dict[str, Any]]) -> str:
    """The variants as a Markdown table: means over the seeds."""
    columns = {"MAE": "mae", "air": "mae_air", "soft": "mae_soft", "bone": "mae_bone", "Dice of bone": "dice_bone"}
    columns |= {"HD95 of bone (mm)": "hd95_bone", "SSIM": "ssim", "MAE outside": "mae_outside", "min": "minutes"}
    lines = ["| | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for name in dict.fromkeys(row["variant"] for row in rows):
        of_name = [row for row in rows if row["variant"] == name]
        cells = []
        for key in columns.values():
            values = [row[key] for row in of_name if key in row]
            digits = 2 if key in ("dice_bone", "ssim") else 1
            spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{digits}f}{spread}" if values else "")
        lines.append(f"| {name} | {len(of_name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, required=True, help="folder of the simulated heads")
    parser.add_argument("--work", type=Path, default=Path("runs/anatomy"), help="folder of the runs")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3000, help="a multiple of 100")
    parser.add_argument("--at-once", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value", help="overrides for all variants")
    parser.add_argument("--out", type=Path, help="JSON of the figures")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    jobs = [(name, seed, options.steps, options.set) for seed in range(options.seeds) for name in options.only]
    with ThreadPoolExecutor(options.at_once) as pool:
        rows = list(pool.map(lambda job: one(options.scans, options.work, *job), jobs))
    print(table(rows))
    keep(options.out, "means over 4 unseen heads", rows)


if __name__ == "__main__":
    main()
