"""Planes of a case as PNG files in memory: input, prediction, reference and absolute error, in radiological view."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.volume import Volume

Image = npt.NDArray[np.float32]
HU_WINDOW = (-200.0, 1000.0)  # shows soft tissue and bone at once
LONGEST = 360  # pixels on the long side of a panel
ERROR_STEPS = (
    1,
    2,
    4,
    8,
    10,
    20,
    40,
    60,
    80,
    100,
    200,
    400,
    600,
    800,
    1000,
    1200,
    1600,
    2000,
    4000,
    8000,
    20000,
    40000,
)
ERROR_COLOURS = "inferno"


@dataclass(frozen=True)
class CasePlanes:
    """The planes of one case that the report may show.

    Attributes:
        name: the case.
        score: its error, by which the best and the worst are found.
        planes: one entry a direction: its name, and panel -> image (rows, columns[, 3]) of square pixels. Panels
            are "input" (if given), "prediction", "reference", "error", and "mask".
        unit: of prediction and reference.
    """

    name: str
    score: float
    planes: list[tuple[str, dict[str, Image]]]
    unit: str


def case_planes(
    name: str,
    score: float,
    reference: Volume,
    prediction: Image,
    inside: npt.NDArray[np.bool_],
    source: Image | None,
) -> CasePlanes:
    """Cut the planes through the middle of the mask; all arrays lie on the reference's grid, (channel, *space)."""
    images: dict[str, Image] = {} if source is None else {"input": source}
    error = np.abs(prediction - reference.array).mean(0, keepdims=True)
    images |= {"prediction": prediction, "reference": reference.array, "error": error}
    images["mask"] = inside[None].astype(np.float32)
    if len(reference.space) == 2 or 1 in reference.space:
        flat = {key: _pixels(array.reshape(array.shape[0], *_plane(reference.space))) for key, array in images.items()}
        return CasePlanes(name, score, [("picture", flat)], reference.unit)

    from nibabel.orientations import apply_orientation, io_orientation

    turn = io_orientation(reference.affine)
    spacing = np.empty(3)
    spacing[turn[:, 0].astype(int)] = reference.spacing
    upright = {key: np.stack([apply_orientation(c, turn) for c in array]) for key, array in images.items()}
    middle = [round(float(np.mean(where))) for where in np.nonzero(upright["mask"][0])]
    planes = []
    for axis, direction in ((2, "axial"), (1, "coronal"), (0, "sagittal")):
        size = np.delete(spacing, axis)
        panels = {}
        for key, array in upright.items():
            # Radiological view: anterior or superior up, the patient's right (or anterior) on the left.
            cut = np.take(array, middle[axis], axis + 1)[:, ::-1, ::-1]
            panels[key] = _pixels(cut, (float(size[0]), float(size[1])))
        planes.append((direction, panels))
    return CasePlanes(name, score, planes, reference.unit)


def _plane(space: tuple[int, ...]) -> tuple[int, ...]:
    long = tuple(n for n in space if n != 1)
    return long if len(long) == 2 else space[:2]


def _pixels(plane: Image, spacing: tuple[float, float] = (1.0, 1.0)) -> Image:
    """(channel, i, j) to (rows, columns[, channel]) of square pixels, the long side `LONGEST` pixels."""
    from PIL import Image as Pillow

    extent = np.array(plane.shape[1:]) * spacing
    columns, rows = np.maximum(1, np.rint(LONGEST * extent / extent.max())).astype(int)
    channels = [
        np.asarray(Pillow.fromarray(np.ascontiguousarray(c.T)).resize((columns, rows), Pillow.Resampling.BILINEAR))
        for c in plane
    ]
    return channels[0] if len(channels) != 3 else np.stack(channels, -1)


def grey_window(case: CasePlanes, panel: str) -> tuple[float, float]:
    """The values shown as black and white: fixed for HU and 8 bits, the reference's percentiles else."""
    if panel != "input" and case.unit == "HU":
        return HU_WINDOW
    if panel != "input" and case.unit == "uint8":
        return 0.0, 255.0
    key = "input" if panel == "input" else "reference"
    values = np.concatenate([panels[key].ravel() for _, panels in case.planes])
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return low, max(high, low + 1e-6)


def error_limit(cases: list[CasePlanes]) -> float:
    """The error at the bright end of the colour bar: round, and exceeded by at most 2 % of the pixels in the masks."""
    errors = [p["error"][p["mask"] > 0.5] for case in cases for _, p in case.planes]
    high = float(np.percentile(np.concatenate(errors), 98)) if any(e.size for e in errors) else 0.0
    scale = 1.0 if high >= 1 else 1e-6  # images between 0 and 1
    return next((scale * step for step in ERROR_STEPS if scale * step >= high), high)


def grey_png(image: Image, window: tuple[float, float]) -> bytes:
    """Grey or RGB PNG of an image, `window` from black to white."""
    low, high = window
    return _png(np.rint(255 * np.clip((image - low) / (high - low), 0, 1)).astype(np.uint8))


def error_png(image: Image, limit: float, mask: Image) -> bytes:
    """Error in colour from 0 to `limit`, with the mask's outline."""
    colours = _error_colours(np.clip(image / limit, 0, 1))
    inside = mask > 0.5
    inner = inside.copy()
    for axis in (0, 1):
        for step in (1, -1):
            inner &= np.roll(inside, step, axis)
    colours[inside & ~inner] = (110, 190, 220)
    return _png(colours)


def bar_png(error: bool) -> bytes:
    """A vertical colour bar, high values up: of the error, or grey."""
    ramp = np.linspace(1, 0, 256, dtype=np.float32)[:, None]
    return _png(_error_colours(ramp) if error else np.rint(255 * ramp).astype(np.uint8))


def _error_colours(values: Image) -> npt.NDArray[np.uint8]:
    from matplotlib import colormaps

    colours: npt.NDArray[np.uint8] = colormaps[ERROR_COLOURS](values, bytes=True)[..., :3].copy()
    return colours


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """A PNG as the value of an `src` attribute, so that a page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def curve_png(name: str, steps: Any, values: Any) -> bytes:
    """A small line plot of one training figure; values that are not finite leave gaps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.1, 2.3), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    x, y = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    axes.plot(x, np.where(np.isfinite(y), y, np.nan), color="#1f6f8b", linewidth=1.3, marker="o" if x.size < 3 else "")
    axes.set_title(name.replace("$", r"\$"), fontsize=9, loc="left", color="#1c2a33")
    axes.tick_params(labelsize=7, colors="#5b6b75", length=2)
    axes.grid(color="#e4eaee", linewidth=0.6)
    axes.spines[:].set_visible(False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
