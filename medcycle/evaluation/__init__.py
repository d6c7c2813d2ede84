"""How good is a translation? Figures under their protocol's name, baselines, and a report to look at."""

from __future__ import annotations

from medcycle.evaluation.anatomy import anatomy
from medcycle.evaluation.baselines import constant, ct_baselines, histogram_matching, pooled_histogram
from medcycle.evaluation.evaluate import evaluate
from medcycle.evaluation.frechet import frechet_distance, full_kernel_distance, inception_score, kernel_distance
from medcycle.evaluation.masked import basic, outside_mae, synthrad2023, synthrad2025
from medcycle.evaluation.report import write_training_report
from medcycle.evaluation.result import METRICS, Result

__all__ = [
    "METRICS",
    "Result",
    "anatomy",
    "basic",
    "constant",
    "ct_baselines",
    "evaluate",
    "frechet_distance",
    "full_kernel_distance",
    "histogram_matching",
    "inception_score",
    "kernel_distance",
    "outside_mae",
    "pooled_histogram",
    "synthrad2023",
    "synthrad2025",
    "write_training_report",
]
