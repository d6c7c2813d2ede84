"""What an evaluation found, and how its figures are called, ordered and printed."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

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
    "mae_air": Column("MAE of inner air", "*", "lower", 1),
    "mae_soft": Column("MAE of soft tissue", "*", "lower", 1),
    "mae_bone": Column("MAE of bone", "*", "lower", 1),
    "dice_bone": Column("Dice of bone", "", "higher", 3),
    "dice_air": Column("Dice of inner air", "", "higher", 3),
    "hd95_bone": Column("HD95 of bone", "mm", "lower", 1),
    "hd95_air": Column("HD95 of inner air", "mm", "lower", 1),
    "gradient_correlation": Column("gradient correlation", "", "higher", 3),
    "fid": Column("FID", "", "lower", 3),
    "kid": Column("KID", "", "lower", 5),
    "kid_sd": Column("KID, sd over subsets", "", "", 5),
    "inception_score": Column("IS", "", "higher", 3),
    "inception_score_sd": Column("IS, sd over parts", "", "", 3),
    "frechet_distance": Column("Fréchet distance", "", "lower", 3),
    "kernel_distance": Column("kernel distance", "", "lower", 5),
    "kernel_distance_sd": Column("kernel distance, sd over subsets", "", "", 5),
    "pixel_accuracy": Column("per-pixel accuracy", "", "higher", 4),
    "class_accuracy": Column("per-class accuracy", "", "higher", 4),
    "class_iou": Column("class IoU", "", "higher", 4),
    "change": Column("change", "% of range", "", 3),
    "change_input": Column("change of the input", "% of range", "", 3),
    "change_ratio": Column("change / input's", "", "lower", 3),
    "warping_error": Column("warping error", "", "lower", 6),
    "warping_error_input": Column("warping error of the input", "", "", 6),
}
ARROWS = {"lower": " ↓", "higher": " ↑", "zero": " → 0", "": ""}

METRICS = {
    "synthrad2023": "SynthRAD2023, range [-1024, 3000] HU: MAE over the mask, not clipped; PSNR of the clipped images "
    "over the mask, L = 4024; SSIM with air outside the mask, 7³ uniform window, mean over the mask without the outer "
    "3 voxels.",
    "synthrad2025": "SynthRAD2025, range [-1024, 3071] HU: MAE over the mask, not clipped; PSNR of the clipped images "
    "over the mask, L = 4095; MS-SSIM over five scales with air outside the mask, 7³ uniform window, masked mean at "
    "every scale.",
    "anatomy": "MAE over the mask and, by the reference's HU, over inner air (below -300), soft tissue and bone (above "
    "250); Dice and the 95th percentile of surface distances of bone and of inner air, thresholded in both images; "
    "Pearson correlation of the gradients' magnitudes.",
    "basic": "MAE, RMSE, bias (prediction - reference), PSNR and SSIM (7-voxel uniform window, mean over the mask "
    "without the outer 3 voxels) on the images as they are, nothing clipped.",
    "fid": "Distances of two folders of 8-bit pictures that need no partners: FID (Heusel 2017), KID (Binkowski 2018) "
    "and the Inception score of the predictions (Salimans 2016), on the Inception network of 2015, pictures resized to "
    "299 x 299 bilinearly; without that network the Fréchet and kernel distances of another, under its name.",
    "cityscapes": "Cityscapes label pictures (Zhu 2017, section 5.1.1): accuracy over all pixels, mean accuracy and "
    "mean intersection over union of the 19 training classes; void pixels of the reference are left out; the total is "
    "taken from the pixels of all pictures together.",
    "flicker": "How much the frames of a clip change, against the input's: the mean absolute difference of successive "
    "frames, each clip on its own range; and the warping error (Lai 2018): the mean squared difference of successive "
    "frames after the input's motion is undone, where the motion is certain, on a range from 0 to 1.",
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
        total: the figures of all cases taken together, where that is not their mean.
        labels: figure -> what it is called here, where that depends on how it was found.
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
    total: Figures = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
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
            label = self.labels.get(key, column.label)
            titles.append(f"{label}{f' ({unit})' if unit else ''}{ARROWS[column.better]}")
        return titles

    def rows(self) -> list[list[str]]:
        """The cases, printed; then "mean ± sd" and "total", then the baselines."""
        printed = [[name, *(text(key, figures[key]) for key in self.columns)] for name, figures in self.cases.items()]
        if len(self.cases) > 1:
            printed.append(["mean ± sd", *(self.mean_text(key) for key in self.columns)])
        others = ({"total": self.total} if self.total else {}) | self.baselines
        for name, figures in others.items():
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
            **({"total": finite(self.total)} if self.total else {}),
            "unit": self.unit,
            "settings": self.settings,
            "notes": self.notes,
        }


def summary(cases: list[Figures]) -> tuple[Figures, Figures]:
    """Mean and sample standard deviation of the finite values of each figure, NaN where there are too few."""
    mean, std = {}, {}
    for key in cases[0]:
        values = np.array([case[key] for case in cases])
        values = values[np.isfinite(values)]
        mean[key] = float(values.mean()) if values.size else math.nan
        std[key] = float(values.std(ddof=1)) if values.size > 1 else math.nan
    return mean, std


def write_result(result: Result, out: Path, pages: dict[str, str] | None = None) -> Result:
    """Write metrics.csv, metrics.json and other texts (name -> content), each put in place whole.

    Returns:
        The result with `files`.

    Raises:
        ScanError: the folder cannot be written.
    """
    from medcycle.io.files import write_file

    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["case", *result.mean])
    rows = result.cases | ({"total": result.total} if result.total else {})
    writer.writerows([[name, *(figures[key] for key in result.mean)] for name, figures in rows.items()])
    contents = {
        "metrics.csv": table.getvalue(),
        "metrics.json": json.dumps(result.to_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n",
        **(pages or {}),
    }
    for name, content in contents.items():
        write_file(out / name, content)
    return replace(result, files=[out / name for name in contents])


def text(key: str, value: float) -> str:
    """A figure as printed."""
    if math.isnan(value):
        return "n/a"
    return f"{value:.{COLUMNS[key].decimals}f}" if math.isfinite(value) else "∞"
