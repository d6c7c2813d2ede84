"""Random samples from the cache: python -m benchmarks.data [--out JSON]

Cohorts of 10 and of 200 prepared volumes (256 x 256 x 40, made on the spot in a temporary folder, 2 GiB of disk for the
larger), random 256 x 256 planes drawn in two threads as in training; then how long a step waits for its batch.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.machine import keep
from medcycle.data import BatchLoader, UnpairedSampler

SIZE = (256, 256)
PLANES = 40


@dataclass(frozen=True)
class Scan:
    """What the sampler needs of an entry of the cache, memory-mapped as that is."""

    name: str
    array: npt.NDArray[np.float32]
    foreground: npt.NDArray[np.float32]
    points: npt.NDArray[np.int64]


def make_scans(folder: Path, count: int) -> list[Scan]:
    rng = np.random.default_rng(0)
    plane = rng.uniform(-1, 1, (PLANES, 1, *SIZE)).astype(np.float32)
    scans = []
    for number in range(count):
        path = folder / f"{number}.npy"
        np.save(path, plane + np.float32(number * 1e-3))
        mapped = np.load(path, mmap_mode="r")
        scans.append(Scan(f"scan {number}", mapped, np.ones(PLANES, np.float32), rng.integers(0, PLANES, (64, 3))))
    return scans


def own_memory() -> int:
    """Bytes that are the process's own: what it has of files belongs to the system, which takes it back at need."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]


def measure(scans: Sequence[Scan], samples: int, rounds: int) -> dict[str, Any]:
    sampler = UnpairedSampler(scans, scans, size=SIZE)
    rates = []
    before = own_memory()
    with BatchLoader(sampler, 1, workers=2) as loader:
        for _ in range(len(scans) * PLANES // 2):  # so that the system holds the files, as in training
            next(loader)
        for _ in range(rounds):
            began = time.perf_counter()
            for _ in range(samples // 2):  # a batch is a sample of each domain
                next(loader)
            rates.append(samples / (time.perf_counter() - began))
    return {
        "volumes": len(scans),
        "samples a second": round(statistics.median(rates)),
        "ms a sample": round(1000 / statistics.median(rates), 3),
        "memory of its own, MiB": round((own_memory() - before) / 2**20, 1),
    }


def waiting(scans: Sequence[Scan], step_seconds: float) -> float:
    """Share of the time that a step of that length waits for its batch."""
    waited, steps = 0.0, 100
    with BatchLoader(UnpairedSampler(scans, scans, size=SIZE), 1, workers=1) as loader:
        next(loader)
        for _ in range(steps):
            time.sleep(step_seconds)
            began = time.perf_counter()
            next(loader)
            waited += time.perf_counter() - began
    return waited / (waited + steps * step_seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to make the temporary files")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        scans = make_scans(Path(name), 200)
        rows = [measure(scans[:count], options.samples, options.rounds) for count in (10, 200)]
        share = waiting(scans[:10], 0.007)
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()))
    print(f"a step of 7 ms waits {share:.1%} of the time, with {os.cpu_count()} cores")
    keep(options.out, "data", {"cohorts": rows, "waiting of a 7 ms step": round(share, 4)})


if __name__ == "__main__":
    main()
