"""What a measurement was made on, and the file it is kept in."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, device, threads, versions, commit; nothing that names the host."""
    import numpy
    import torch

    import medcycle

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "not set"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "medcycle": medcycle.__version__,
        "commit": commit.stdout.strip(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    amx = any("amx_bf16" in line for line in lines if line.startswith("flags"))
    return (names or [platform.machine()])[0] + (" with AMX" if amx else "")


def keep(path: Path | None, name: str, found: Any, device: str = "cpu") -> None:
    """Write what was found, with the machine, as JSON; `path` None writes nothing."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(device), name: found}, indent=2) + "\n", encoding="utf-8")
