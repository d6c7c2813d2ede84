"""What an evaluation found, and how its figures are called, ordered and printed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figures = dict[str, float]


@dataclass(frozen=True)
class Column:
    """How a figure is printed: its label, unit ("" for none, "*" for the images' own), direction and decimals."""

    label: str
    unit: str
    better: str
    decimals: int


COLUMNS = {
    "mae": Column("MAE", "*", "lower", 1),
    "rmse": Column("RMSE", "*", "lower", 1),
    "bias": Column("Bias", "*", "zero", 1),
    "psnr": Column("PSNR", "dB", "higher", 2),
    "ssim": Column("SSIM", "", "higher", 4),
    "ms_ssim": Column("MS-SSIM", "", "higher", 4),
    "mae_outside": Column("MAE outside the mask", "*", "lower", 1),
}
ARROWS = {"lower": "↓", "higher": "↑", "zero": "→ 0"}

METRICS = {
    "synthrad2023": "SynthRAD2023, range [-1024, 3000] HU: MAE over the mask, not clipped; PSNR of the clipped images "
    "over the mask, L = 4024; SSIM with air outside the mask, 7³ uniform window, mean over the mask without the outer "
    "3 voxels.",
    "synthrad2025": "SynthRAD2025, range [-1024, 3071] HU: MAE over the mask, not clipped; PSNR of the clipped images "
    "over the mask, L = 4095; MS-SSIM over five scales with air outside the mask, 7³ uniform window, masked mean at "
    "every scale.",
    "basic": "MAE, RMSE, bias (prediction - reference), PSNR and SSIM (7-voxel uniform window, mean over the mask "
    "without the outer 3 voxels) on the images as they are, nothing clipped.",
}


@dataclass(frozen=True)
class Result:
    """What an evaluation found.

    Attributes:
        metrics: the protocol's name.
        cases: case -> figure -> value. NaN is "not defined", infinity is PSNR of equal images.
        mean: of the finite values over the cases.
        std: their sample standard deviation; NaN with fewer than two.
        baselines: the same means for predictions that know nothing, by name.
        unit: of the images, for printing.
        settings: what was compared how, for printing.
        notes: what a reader of the figures must know.
        files: what was written.
    """

    metrics: str
    cases: dict[str, Figures]
    mean: Figures
    std: Figures
    baselines: dict[str, Figures] = field(default_factory=dict)
    unit: str = "HU"
    settings: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """The figures to print: all but an error outside of masks that leave nothing outside."""
        return [key for key, value in self.mean.items() if key != "mae_outside" or math.isfinite(value)]

    def header(self) -> list[str]:
        """Column titles: the case, then each figure with its unit and an arrow to where better lies."""
        titles = ["case"]
        for key in self.columns:
            column = COLUMNS[key]
            unit = self.unit if column.unit == "*" else column.unit
            titles.append(f"{column.label}{f' ({unit})' if unit else ''} {ARROWS[column.better]}")
        return titles

    def rows(self) -> list[list[str]]:
        """The cases, printed; then "mean ± sd", then the baselines."""
        printed = [[name, *(text(key, figures[key]) for key in self.columns)] for name, figures in self.cases.items()]
        if len(self.cases) > 1:
            printed.append(["mean ± sd", *(self.mean_text(key) for key in self.columns)])
        for name, figures in self.baselines.items():
            printed.append([name, *(text(key, figures[key]) for key in self.columns)])
        return printed

    def mean_text(self, key: str) -> str:
        """The mean of a figure and its spread, as printed."""
        spread = self.std[key]
        return text(key, self.mean[key]) + (f" ± {text(key, spread)}" if math.isfinite(spread) else "")

    def to_dict(self) -> dict[str, Any]:
        """As metrics.json holds it: figures that are not finite become null."""

        def finite(figures: Figures) -> dict[str, float | None]:
            return {key: value if math.isfinite(value) else None for key, value in figures.items()}

        return {
            "metrics": self.metrics,
            "cases": {name: finite(figures) for name, figures in self.cases.items()},
            "mean": finite(self.mean),
            "std": finite(self.std),
            "baselines": {name: finite(figures) for name, figures in self.baselines.items()},
            "unit": self.unit,
            "settings": self.settings,
            "notes": self.notes,
        }


def text(key: str, value: float) -> str:
    """A figure as printed."""
    if math.isnan(value):
        return "n/a"
    return f"{value:.{COLUMNS[key].decimals}f}" if math.isfinite(value) else "∞"
