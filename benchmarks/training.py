"""A training as users start it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

# Generators small enough for a CPU core; the discriminators have filters to match.
RESNET = "model.generator={kind: resnet, filters: 16, blocks: 4, upsample: resize}"
UNET = "model.generator={kind: unet, filters: 16, downs: 4, upsample: resize}"


def run_training(config: str, run: Path, settings: list[str]) -> float:
    """Train, unless that is done; one that was stopped goes on. Minutes it took, all parts together.

    Raises:
        SystemExit: the folder holds a training with other settings.
    """
    said, parts, done = run / "settings.json", run / "parts.txt", run / "done.txt"
    wanted = json.dumps([config, *settings])
    run.mkdir(parents=True, exist_ok=True)
    if said.is_file() and said.read_text(encoding="utf-8") != wanted:
        raise SystemExit(f"{run}: was trained with other settings (settings.json); take another --work")
    said.write_text(wanted, encoding="utf-8")
    if not done.is_file():
        resume = ["--resume"] if (run / "config.yaml").is_file() else []
        command = [sys.executable, "-m", "medcycle", "train", "--config", config, "--out", str(run), *resume, *settings]
        began = time.monotonic()
        try:
            subprocess.run(
                command, check=True, env=os.environ | {"OMP_WAIT_POLICY": "passive"}, stdout=subprocess.DEVNULL
            )
        finally:
            with parts.open("a", encoding="utf-8") as file:
                file.write(f"{(time.monotonic() - began) / 60:.2f}\n")
        done.touch()
    return round(sum(map(float, parts.read_text(encoding="utf-8").split())), 1)
