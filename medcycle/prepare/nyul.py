"""One histogram for all MR scans of a domain: standardization by landmarks (Nyul & Udupa, MRM 42:1072, 1999).

A scan's landmarks are evenly spaced percentiles of its body. Each scan's are put on the scale where the first is -1 and
the last 1; their mean over the training scans is the domain's standard. A scan is then mapped piecewise linearly, its
landmarks onto the standard ones, which is undone as exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

COUNT = 11
APART = 1e-3  # of the range; landmarks nearer than this to the one before are left out, so that every slope is finite


def landmarks(
    array: Floats, foreground: Mask, percentiles: tuple[float, float], limits: tuple[float, float]
) -> tuple[float, ...]:
    """COUNT values of a scan, rising: the limits, and percentiles of the foreground evenly spaced between.

    Args:
        array: (channel, i, j, k).
        foreground: (i, j, k).
        percentiles: the two, in [0, 100], that the limits are.
        limits: the first landmark and the last.
    """
    values = array[:, foreground] if foreground.any() else array
    wanted = np.linspace(percentiles[0], percentiles[1], COUNT)[1:-1]
    inner: npt.NDArray[np.float64] = np.clip(np.percentile(values, wanted), *limits)
    return (limits[0], *(float(v) for v in inner), limits[1])


def standard(scans: Iterable[Sequence[float]]) -> tuple[float, ...] | None:
    """The standard landmarks, from -1 to 1, of the landmarks of many scans; None where no scan has two values."""
    rows = [np.array(one) for one in scans if one[-1] > one[0]]
    if not rows:
        return None
    mean: npt.NDArray[np.float64] = np.mean([2 * (row - row[0]) / (row[-1] - row[0]) - 1 for row in rows], axis=0)
    return tuple(float(v) for v in np.round(mean, 6))  # the order of the scans must not show in the last digits


def to_standard(array: Floats, own: Sequence[float], wanted: Sequence[float]) -> Floats:
    """Map a scan's values to [-1, 1], its landmarks `own` onto the standard ones; what lies beyond is clipped."""
    return _piecewise(array, *_knots(own, wanted))


def from_standard(array: Floats, own: Sequence[float], wanted: Sequence[float]) -> Floats:
    """The inverse of :func:`to_standard` for values in [-1, 1]; others are clipped first."""
    values, places = _knots(own, wanted)
    return _piecewise(array, places, values)


def _knots(own: Sequence[float], wanted: Sequence[float]) -> tuple[list[float], list[float]]:
    """The corners of the map: pairs of landmarks that rise on both sides, the first and the last always among them."""
    gap, gap_wanted = APART * (own[-1] - own[0]), APART * (wanted[-1] - wanted[0])
    xs, ys = [own[0]], [wanted[0]]
    for x, y in zip(own[1:-1], wanted[1:-1], strict=True):
        if min(x - xs[-1], own[-1] - x) > gap and min(y - ys[-1], wanted[-1] - y) > gap_wanted:
            xs.append(x)
            ys.append(y)
    return [*xs, own[-1]], [*ys, wanted[-1]]


def _piecewise(array: Floats, xs: Sequence[float], ys: Sequence[float]) -> Floats:
    result = np.empty(array.shape, dtype=np.float32)
    for plane, values in zip(result.reshape(-1, *array.shape[2:]), array.reshape(-1, *array.shape[2:]), strict=True):
        plane[...] = np.interp(values, xs, ys)  # works in float64: a plane at a time
    return result
