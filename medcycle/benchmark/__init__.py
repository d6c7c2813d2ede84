"""Published benchmarks from start to finish: data, training, translation, figures beside the published ones."""

from __future__ import annotations

from medcycle.benchmark.run import run_benchmark
from medcycle.benchmark.schedule import parse_budget

__all__ = ["parse_budget", "run_benchmark"]
