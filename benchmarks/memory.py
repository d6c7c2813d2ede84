"""What a step takes of memory, counted before training and measured: python -m benchmarks.memory [--out JSON]

Each case is run in a process of its own on the CPU, one step; the count is that of medcycle.training.memory, without
its margin; the measured figure is the growth of the process's resident memory at its peak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import keep

CASES: dict[str, dict[str, Any]] = {
    "256x256, 3 channels, 9 blocks, 64 filters": {"size": [256, 256], "channels": 3, "blocks": 9, "filters": 64},
    "512x512, 1 channel, 9 blocks, 64 filters": {"size": [512, 512], "channels": 1, "blocks": 9, "filters": 64},
    "64x64x64, 1 channel, 6 blocks, 32 filters": {"size": [64] * 3, "channels": 1, "blocks": 6, "filters": 32},
    "128x128x128, 1 channel, 6 blocks, 32 filters": {"size": [128] * 3, "channels": 1, "blocks": 6, "filters": 32},
}


def one(case: dict[str, Any], checkpointing: bool) -> dict[str, float]:
    """In a process of its own: GiB by the count and by the system."""
    import torch

    from medcycle.networks import build_discriminator, build_generator
    from medcycle.training.memory import MARGIN, set_checkpointing, step_bytes
    from medcycle.training.step import CycleGAN, LossSettings, training_step

    common = {"ndim": len(case["size"])}
    sizes = {"in_channels": case["channels"], "out_channels": case["channels"], "filters": case["filters"]}

    def make() -> CycleGAN:
        nets = [build_generator("resnet", **sizes, blocks=case["blocks"], **common) for _ in "ab"]
        nets += [build_discriminator("patchgan", channels=case["channels"], **common) for _ in "ab"]
        return CycleGAN(*nets, pool=0, precision="bf16")

    channels = case["channels"], case["channels"]
    counted = step_bytes(make, checkpointing, (1, channels, tuple(case["size"])))
    assert counted is not None
    gan = make()
    set_checkpointing(gan, checkpointing)
    images = [torch.rand((1, case["channels"], *case["size"])) * 2 - 1 for _ in "ab"]
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    training_step(gan, images[0], images[1], LossSettings())
    return {"counted": counted / MARGIN / 2**30, "measured": (_status("VmHWM") - before) / 2**20}


def _status(key: str) -> int:
    """A line of /proc/self/status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="cases whose name holds this")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, checkpointing = json.loads(options.one)
        print(json.dumps(one(CASES[name], checkpointing)))
        return
    rows = []
    for name in CASES:
        if options.only and options.only not in name:
            continue
        for plan, checkpointing in (("split", False), ("checkpointed", True)):
            command = [sys.executable, "-m", "benchmarks.memory", "--one", json.dumps([name, checkpointing])]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rows.append({"case": name, "memory": plan} | {key: round(value, 2) for key, value in found.items()})
            print(f"{name:<46}{plan:<14}counted {found['counted']:5.2f} GiB, measured {found['measured']:5.2f} GiB")
    keep(options.out, "memory of a step, GiB", rows)


if __name__ == "__main__":
    main()
