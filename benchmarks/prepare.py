"""Memory of preparing many scans: python -m benchmarks.prepare [--scans 200] [--workers 2] [--out JSON]

Makes MR of that many simulated heads in a temporary folder and prepares them in processes of their own, histograms
standardized (one pass to fit, one to prepare), then finds them again in the cache. All the while the memory (resident
set) of this process and of its workers is sampled; the table says how high it was up to each scan.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil

from medcycle.data import make_head, render_mr
from medcycle.io import write_volume
from medcycle.prepare import Preparation, fit_landmarks, prepare_cohort

SHAPE, SPACING = (96, 96, 60), 2.4
EVERY = 20  # scans between two lines of the table
PAUSE = 0.02  # seconds between two samples
MIB = 2**20


def write_scan(job: tuple[int, Path]) -> Path:
    """The MR of the head with that seed as NIfTI."""
    seed, path = job
    return write_volume(render_mr(make_head(seed, SHAPE, SPACING), seed, spacing=SPACING), path)


class Memory:
    """The highest sum of what this process and its children held, in bytes, since it was last asked."""

    def __init__(self) -> None:
        self._me = psutil.Process()
        self._highest = (0, 0)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def highest(self) -> tuple[int, int]:
        """(this process and its workers, this process alone) at the moment of the highest sum."""
        self._look()
        with self._lock:
            found, self._highest = self._highest, (0, 0)
        return found

    def _watch(self) -> None:
        while not self._over.wait(PAUSE):
            self._look()

    def _look(self) -> None:
        own = both = self._me.memory_info().rss
        for child in self._me.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # ended in between
                both += child.memory_info().rss
        with self._lock:
            self._highest = max(self._highest, (both, own))


def measure(work: Callable[[Any], object]) -> dict[str, Any]:
    """Do the work, which gets a function to call at each scan; how high the memory was between two calls, in MiB."""
    rows: list[tuple[float, float]] = []
    with Memory() as memory:
        began = time.monotonic()

        def progress(*_: object) -> None:
            both, own = memory.highest()
            rows.append((round(both / MIB, 1), round(own / MIB, 1)))

        work(progress)
        seconds = time.monotonic() - began
    return {"seconds": round(seconds, 1), "all": [row[0] for row in rows], "parent": [row[1] for row in rows]}


def table(passes: dict[str, dict[str, Any]], every: int) -> list[dict[str, Any]]:
    """For every few scans, the highest memory of each pass since the row before."""
    rows = []
    count = max(len(found["all"]) for found in passes.values())
    for stop in range(every, count + 1, every):
        row: dict[str, Any] = {"scans": stop}
        for name, found in passes.items():
            for whose in ("all", "parent"):
                row[f"{name}, {whose}"] = max(found[whose][stop - every : stop], default=0.0)
        rows.append(row)
    return rows


def run(folder: Path, scans: Sequence[Path], workers: int) -> dict[str, dict[str, Any]]:
    """The three passes: fit, prepare, and find again."""
    how = Preparation(modality="mr", foreground=True)
    cache = folder / "cache"
    fitted: list[Preparation] = []
    passes = {"fit": measure(lambda p: fitted.append(fit_landmarks(scans, how, cache, workers=workers, progress=p)))}
    for name in ("prepare", "find again"):
        passes[name] = measure(lambda p: prepare_cohort(scans, fitted[0], cache, workers=workers, progress=p))
    return passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ProcessPoolExecutor(arguments.workers) as pool:
            jobs = [(seed, folder / f"head{seed:04d}.nii.gz") for seed in range(arguments.scans)]
            scans = list(pool.map(write_scan, jobs))
        passes = run(folder, scans, arguments.workers)
    rows = table(passes, min(EVERY, arguments.scans))
    names = list(rows[0])
    print("  ".join(f"{name:>18}" for name in names))
    for row in rows:
        print("  ".join(f"{row[name]:>18}" for name in names))
    found = {
        "scans": arguments.scans,
        "shape": SHAPE,
        "workers": arguments.workers,
        "mebibytes": rows,
        "seconds": {name: found["seconds"] for name, found in passes.items()},
        "highest_until_20th": {name: max(found["all"][:EVERY], default=0.0) for name, found in passes.items()},
        "highest_after_20th": {name: max(found["all"][EVERY:], default=0.0) for name, found in passes.items()},
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "nibabel": nib.__version__},
    }
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
