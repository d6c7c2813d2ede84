"""Translation of a whole volume against the bare generator: python -m benchmarks.translate [--out JSON]

The volume is read from a NIfTI file, prepared, translated plane by plane and written; the bare generator sees as many
random planes in the same batches and nothing else. Both are timed in turn, and the share is of the medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported

import numpy as np
import torch

from benchmarks.machine import keep
from medcycle.device import autocast, resolve_precision
from medcycle.inference import Translator
from medcycle.io import write_volume
from medcycle.model import DomainInfo, Model
from medcycle.networks import build_generator
from medcycle.prepare import Preparation
from medcycle.volume import Volume

SIZE = (256, 256, 180)


def make_model(filters: int, blocks: int) -> Model:
    torch.manual_seed(0)
    arguments = {"in_channels": 1, "out_channels": 1, "ndim": 2, "filters": filters, "blocks": blocks}
    mr = Preparation(modality="mr", spacing=None, invert=False)
    return Model(
        build_generator("resnet", **arguments),
        {"kind": "resnet", **arguments},
        DomainInfo("mr", mr),
        DomainInfo("ct", Preparation(modality="ct", spacing=None)),
        {"axes": "axial", "size": SIZE[:2]},
        {},
    )


def make_scan(path: Path) -> Path:
    """Body in every plane, so that none is passed over as air."""
    rng = np.random.default_rng(0)
    i, j = np.meshgrid(np.linspace(-1, 1, SIZE[0]), np.linspace(-1, 1, SIZE[1]), indexing="ij")
    body = (i**2 / 0.7 + j**2 / 0.9 < 1)[..., None] * (200 + 40 * np.sin(np.linspace(0, 9, SIZE[2])))
    array = np.maximum(body + rng.normal(0, 4, SIZE), 0).astype(np.float32)
    write_volume(Volume(array[None], np.diag([1.0, 1.0, 1.0, 1.0]), "a.u."), path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--ending", default=".nii", help="of the files: .nii, .nii.gz, .mha, ...")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    translator = Translator(make_model(options.filters, options.blocks), device=options.device)
    times: dict[str, list[float]] = {"whole": [], "bare": []}
    with tempfile.TemporaryDirectory() as name:
        scan = make_scan(Path(name) / f"scan{options.ending}")
        bare(translator, 2 * translator.batch_size)  # the first batches choose kernels
        for number in range(options.rounds):
            began = time.perf_counter()
            translator.file(scan, Path(name) / f"out{number}{options.ending}")
            times["whole"].append(time.perf_counter() - began)
            times["bare"].append(bare(translator, SIZE[2]))
    whole, alone = (statistics.median(times[key]) for key in ("whole", "bare"))
    found: dict[str, Any] = {
        "volume": f"{' x '.join(map(str, SIZE))}{options.ending}",
        "generator": f"resnet, {options.filters} filters, {options.blocks} blocks, {translator.precision}",
        "seconds": {"whole": round(whole, 2), "bare": round(alone, 2)},
        "planes a second": {"whole": round(SIZE[2] / whole, 2), "bare": round(SIZE[2] / alone, 2)},
        "share of the bare generator's throughput": round(alone / whole, 3),
    }
    for key, value in found.items():
        print(f"{key}: {value}")
    keep(options.out, "translation", found, options.device)


def bare(translator: Translator, planes: int) -> float:
    """Seconds that the generator alone takes for so many planes."""
    device, network = translator.device, translator.model.network
    images = torch.rand((translator.batch_size, 1, *SIZE[:2]), device=device) * 2 - 1
    began = time.perf_counter()
    with torch.inference_mode(), autocast(device, resolve_precision(translator.precision, device)):
        for start in range(0, planes, len(images)):
            network(images[: planes - start])
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
