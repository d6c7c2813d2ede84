"""The training step against the original's, written plainly: python -m benchmarks.step [--out JSON] [--rounds 7]

The plain reference is tests/training/original_step.py on tests/networks/original.py: separate calls, float32, eager,
stock layers. Every round times one step of each, one after the other, so that whatever else the machine does meets all
of them; ratios are of the medians. That both compute the same is for the tests (tests/training/test_original.py).
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported

import torch

from benchmarks.machine import ROOT, keep
from medcycle.networks import build_discriminator, build_generator
from medcycle.networks.layers import initialize
from medcycle.training.graph import WARM_UP, Stepper
from medcycle.training.runtime import SideBySide
from medcycle.training.step import CycleGAN, LossSettings

CASES: dict[str, dict[str, Any]] = {
    "256x256, 3 channels, 9 blocks, 64 filters": {"size": (256, 256), "channels": 3, "blocks": 9, "filters": 64},
    "128x128, 1 channel, 6 blocks, 64 filters": {"size": (128, 128), "channels": 1, "blocks": 6, "filters": 64},
    "64x64x64, 1 channel, 6 blocks, 32 filters": {"size": (64, 64, 64), "channels": 1, "blocks": 6, "filters": 32},
}
Step = Callable[[], dict[str, float]]


def plain_module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain_step(case: dict[str, Any], device: str, images: list[torch.Tensor]) -> Step:
    networks, step = plain_module("tests/networks/original.py"), plain_module("tests/training/original_step.py")
    ndim = len(case["size"])
    torch.manual_seed(0)
    nets = [networks.resnet(case["filters"], case["blocks"], case["channels"], ndim=ndim) for _ in "ab"]
    nets += [networks.patchgan(64, case["channels"], ndim=ndim) for _ in "ab"]
    for number, net in enumerate(nets):
        networks.initialized(net, number)
    state = step.OriginalStep(*(net.to(device) for net in nets))
    return lambda: state.step(*images)


def our_step(case: dict[str, Any], device: str, images: list[torch.Tensor], precision: str) -> Step:
    common = {"ndim": len(case["size"])}
    sizes = {"in_channels": case["channels"], "out_channels": case["channels"], "filters": case["filters"]}
    nets = [build_generator("resnet", **sizes, blocks=case["blocks"], **common) for _ in "ab"]
    nets += [build_discriminator("patchgan", channels=case["channels"], **common) for _ in "ab"]
    for number, net in enumerate(nets):
        torch.manual_seed(number)
        initialize(net)
    gan = CycleGAN(*(net.to(device) for net in nets), precision=precision)
    if device == "cpu" and torch.get_num_threads() > 1:
        gan.both = SideBySide(torch.get_num_threads() // 2)
    stepper = Stepper(gan, LossSettings(), 1 if device == "cpu" else None, tell=print)

    def step() -> dict[str, float]:
        return {name: float(value) for name, value in stepper(*images).items()}

    return step


def seconds(step: Step, device: str) -> float:
    began = time.perf_counter()
    step()  # reads the losses: the device has finished
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(name: str, case: dict[str, Any], device: str, rounds: int, precisions: list[str]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    shape = (1, case["channels"], *case["size"])
    images = [(torch.rand(shape, generator=generator) * 2 - 1).to(device) for _ in "ab"]
    steps = {"plain": plain_step(case, device, images)}
    steps |= {precision: our_step(case, device, images, precision) for precision in precisions}
    times: dict[str, list[float]] = {key: [] for key in steps}
    for step in steps.values():
        for _ in range(1 if device == "cpu" else WARM_UP + 1):
            step()  # the first allocate, choose kernels, and are recorded on a GPU
    for _ in range(rounds):
        for key, step in steps.items():
            times[key].append(seconds(step, device))
    medians = {key: statistics.median(values) for key, values in times.items()}
    del steps
    gc.collect()
    return {
        "case": name,
        "seconds": {key: round(value, 4) for key, value in medians.items()},
        "times the plain step": {key: round(medians["plain"] / medians[key], 2) for key in precisions},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", help="cases whose name holds this")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    precisions = ["fp32", "bf16"]
    rows = []
    print(f"{'':<44}{'plain':>9}" + "".join(f"{p:>9}{'x':>7}" for p in precisions))
    for name, case in CASES.items():
        if options.only and options.only not in name:
            continue
        row = measure(name, case, options.device, options.rounds, precisions)
        rows.append(row)
        cells = "".join(f"{row['seconds'][p]:8.3f}s{row['times the plain step'][p]:7.2f}" for p in precisions)
        print(f"{name:<44}{row['seconds']['plain']:8.3f}s{cells}", flush=True)
    keep(options.out, "steps", rows, options.device)


if __name__ == "__main__":
    main()
