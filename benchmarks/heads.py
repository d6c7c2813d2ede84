"""The heads benchmark: MR -> CT from unpaired simulated heads, start to finish, with the table it prints.

    python -m benchmarks.heads --scans HEADS [--out runs/heads] [--processes 2] [section.key=value ...]

HEADS is the folder that the project's head simulator writes (train/mr, train/ct of other heads; test/mr, test/ct,
test/mask of four unseen heads). Trains mri2ct.yaml with the overrides below (benchmarks/heads.md says why), translates
the four test heads, scores them inside and outside their masks beside two baselines, and writes RUN/heads.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from medcycle.console import print_result
from medcycle.evaluation import ct_baselines, evaluate
from medcycle.inference import Translator, translate_paths
from medcycle.io import find_scans

# Why each: benchmarks/heads.md.
OVERRIDES = [
    "prepare.spacing=[3, 3, 3]",
    "sample.size=[80, 80]",
    "model.generator.filters=32",
    "model.generator.blocks=4",
    "train.batch_size=2",
    "train.samples_per_epoch=200",
    "train.epochs=20",
    "train.decay_epochs=20",
    "train.validation=0",
    "train.ema=0.99",
    "train.preview_every=500",
    "train.checkpoint_every=500",
]


def run_training(scans: Path, run: Path, processes: int, overrides: list[str]) -> float:
    """Train in processes of their own; seconds it took, or the rest of it where a run is gone on with."""
    settings = [f"domains.a.path={scans / 'train' / 'mr'}", f"domains.b.path={scans / 'train' / 'ct'}"]
    settings += [f"prepare.cache={run.parent / 'cache'}", *OVERRIDES, *overrides]
    launch = [sys.executable, "-m", "medcycle"]
    threads = max(1, (os.cpu_count() or 1) // processes)
    if processes > 1:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        launch += ["-m", "medcycle"]
    resume = ["--resume"] if list((run / "checkpoints").glob("step-*.pt")) else []
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    began = time.monotonic()
    command = [*launch, "train", "--config", "mri2ct.yaml", "--out", str(run), *resume, *settings]
    subprocess.run(command, check=True, env=environment)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, required=True, help="folder of the simulated heads")
    parser.add_argument("--out", type=Path, default=Path("runs/heads"), help="run folder")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="one CPU core each by default")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args()
    run: Path = arguments.out
    seconds = run_training(arguments.scans, run, arguments.processes, arguments.overrides)

    test = arguments.scans / "test"
    began = time.monotonic()
    translate_paths(Translator.load(run, to="ct"), test / "mr", run / "sct", overwrite=True)
    translation = (time.monotonic() - began) / len(find_scans(test / "mr"))
    result = evaluate(
        run / "sct",
        test / "ct",
        test / "mask",
        out=run / "evaluation",
        inputs=test / "mr",
        baselines=ct_baselines(find_scans(arguments.scans / "train" / "ct")),
    )
    print_result(result)
    import torch

    facts = {
        "training_minutes": round(seconds / 60, 1),
        "translation_seconds_per_head": round(translation, 1),
        "processes": arguments.processes,
        "overrides": [*OVERRIDES, *arguments.overrides],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    found = {key: value for key, value in result.to_dict().items() if key != "settings"}  # these are paths
    (run / "heads.json").write_text(json.dumps(facts | found, indent=2) + "\n", encoding="utf-8")
    print(f"training took {facts['training_minutes']} min; {run / 'heads.json'}, {run / 'evaluation' / 'report.html'}")


if __name__ == "__main__":
    main()
