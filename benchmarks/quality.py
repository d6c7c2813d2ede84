"""Whether the fast step learns as well as the plain one: python -m benchmarks.quality --scans HEADS [--out JSON]

The heads benchmark, small (3 mm, 16 filters, 4 blocks, 1,000 steps of one sample), trained with three seeds each in
float32, one direction after the other in one thread (the original's arithmetic, as tests/training/test_original.py
shows step by step), and as medcycle trains by itself: bf16 and both directions side by side. Masked MAE of the
four test heads; the two means should differ by no more than seeds do.
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

from benchmarks.machine import keep
from medcycle.evaluation import evaluate
from medcycle.inference import Translator, translate_paths

SETTINGS = [
    *("prepare.spacing=[3, 3, 3]", "sample.size=[80, 80]", "model.generator.filters=16", "model.generator.blocks=4"),
    *("prepare.invert=true", "sample.match_position=true", "model.generator.upsample=resize"),
    *("train.batch_size=1", "train.samples_per_epoch=100", "train.epochs=5", "train.decay_epochs=5"),
    *("train.validation=0", "train.ema=0.99", "train.preview_every=10000", "train.checkpoint_every=1000"),
]
KINDS = {
    "plain": ["train.precision=fp32", "train.memory=split", "train.threads=1"],
    "fast": ["train.precision=bf16", "train.memory=batched", "train.threads=2"],
}


def one(scans: Path, out: Path, kind: str, seed: int) -> dict[str, Any]:
    run = out / f"{kind}-{seed}"
    settings = [f"domains.a.path={scans / 'train' / 'mr'}", f"domains.b.path={scans / 'train' / 'ct'}"]
    settings += [f"prepare.cache={out / 'cache'}", f"train.seed={seed}", *SETTINGS, *KINDS[kind]]
    began = time.monotonic()
    if not (run / "mr_to_ct.safetensors").is_file():
        command = [sys.executable, "-m", "medcycle", "train", "--config", "classic.yaml", "--out", str(run), *settings]
        subprocess.run(command, check=True, env=os.environ | {"OMP_WAIT_POLICY": "passive"}, capture_output=True)
    minutes = (time.monotonic() - began) / 60
    test = scans / "test"
    translate_paths(Translator.load(run, to="ct", precision="fp32"), test / "mr", run / "sct", overwrite=True)
    found = evaluate(run / "sct", test / "ct", test / "mask")
    return {"kind": kind, "seed": seed, "minutes": round(minutes, 1), "mae": round(found.mean["mae"], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, required=True, help="folder of the simulated heads")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"))
    parser.add_argument("--at-once", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    jobs = [(options.scans, options.work, kind, seed) for seed in range(3) for kind in KINDS]
    with ThreadPoolExecutor(options.at_once) as pool:
        rows = list(pool.map(lambda job: one(*job), jobs))
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()))
    found: dict[str, Any] = {"runs": rows}
    for kind in KINDS:
        errors = [row["mae"] for row in rows if row["kind"] == kind]
        found[kind] = {"mean": round(statistics.mean(errors), 1), "from": min(errors), "to": max(errors)}
        print(f"{kind}: mean {found[kind]['mean']} HU, {min(errors)} to {max(errors)}")
    keep(options.out, "masked MAE of 4 heads, HU", found)


if __name__ == "__main__":
    main()
