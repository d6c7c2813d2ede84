"""The long fuzz run: damaged scans of every kind are read, and each is read or refused, or the run fails.

    python -m benchmarks.fuzz [--cases 20000] [--seed 0] [--start 0] [--workers 2] [--out FILE.json]

Each case is made again by its number: python tests/fuzz/fuzz_cases.py SEED INDEX FOLDER. Linux only (it measures memory
in /proc).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "fuzz"))

from fuzz_reading import WELL, Outcome, run  # a folder of tests is no package


def summary(outcomes: list[Outcome], seconds: float) -> dict[str, object]:
    """Counts by outcome, by kind of scan, and by the reason of refusal."""
    families: dict[str, Counter[str]] = {}
    for one in outcomes:
        families.setdefault(one.seed.split("-")[0], Counter())[one.kind] += 1
    reasons = Counter(one.reason for one in outcomes if one.kind == "refused")
    slowest = max(outcomes, key=lambda one: one.seconds)
    largest = max(outcomes, key=lambda one: one.mebibytes)
    return {
        "cases": len(outcomes),
        "outcomes": dict(Counter(one.kind for one in outcomes)),
        "by_format": {name: dict(families[name]) for name in sorted(families)},
        "slowest": {"index": slowest.index, "seconds": slowest.seconds},
        "largest": {"index": largest.index, "mebibytes_grown": largest.mebibytes},
        "minutes": round(seconds / 60, 1),
        "versions": {name: version(name) for name in ("nibabel", "simpleitk", "pydicom", "pillow", "tifffile", "numpy")}
        | {"python": platform.python_version()},
        "refused_because": dict(reasons.most_common(60)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the summary as JSON")
    arguments = parser.parse_args()
    began = time.monotonic()
    stop = arguments.start + arguments.cases
    outcomes = run(arguments.seed, arguments.start, stop, workers=arguments.workers, progress=_show)
    bad = [one for one in outcomes if one.kind not in WELL]
    for one in bad:
        print(f"\n--- case {arguments.seed} {one.index} ({one.seed}): {one.kind}\n{one.reason}")
    found = {"seed": arguments.seed, "start": arguments.start} | summary(outcomes, time.monotonic() - began)
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(1 if bad else 0)


def _show(done: int) -> None:
    print(f"\r{done} cases", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
