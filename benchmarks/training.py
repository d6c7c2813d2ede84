"""A training as users start it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


def run_training(config: str, run: Path, settings: list[str]) -> float:
    """Train, unless that is done; one that was stopped goes on. Minutes it took (its last part)."""
    done = run / "minutes.txt"
    if not done.is_file():
        resume = ["--resume"] if (run / "config.yaml").is_file() else []
        command = [sys.executable, "-m", "medcycle", "train", "--config", config, "--out", str(run), *resume, *settings]
        began = time.monotonic()
        subprocess.run(command, check=True, env=os.environ | {"OMP_WAIT_POLICY": "passive"}, stdout=subprocess.DEVNULL)
        done.write_text(f"{(time.monotonic() - began) / 60:.1f}\n", encoding="utf-8")
    return float(done.read_text(encoding="utf-8"))
