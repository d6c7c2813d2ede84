"""How long the command line takes to begin: python -m benchmarks.startup [--out JSON]"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import keep

COMMANDS = {
    "import medcycle": ["-c", "import medcycle"],
    "medcycle --help": ["-m", "medcycle", "--help"],
    "medcycle config check mri2ct.yaml": ["-m", "medcycle", "config", "check", "mri2ct.yaml"],
    "python, nothing else": ["-c", "pass"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.rounds):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            times[name].append(time.perf_counter() - began)
    found = {name: round(statistics.median(values), 3) for name, values in times.items()}
    for name, seconds in found.items():
        print(f"{name}: {seconds:.3f} s")
    keep(options.out, "startup seconds", found)


if __name__ == "__main__":
    main()
