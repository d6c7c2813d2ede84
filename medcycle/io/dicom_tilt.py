"""The tilt of a CT gantry taken out: slices that shift sideways as they rise, moved back onto a right-angled grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medcycle.io.dicom_stack import Vector

_DECIMALS = 3  # shifts are taken to a thousandth of a pixel, so that rounded positions do not widen the grid
_TOWARDS = ("left", "right"), ("posterior", "anterior"), ("superior", "inferior")  # LPS+ axes: growing, falling


def straighten(
    array: npt.NDArray[np.float32], shifts: Vector, affine: Vector, air: float
) -> tuple[npt.NDArray[np.float32], Vector]:
    """Move every slice in its plane to where it lies in the patient, by linear interpolation between its pixels.

    Args:
        array: (columns, rows, slices), the slices as acquired.
        shifts: (slices, 2) mm by which each lies off the normal through the first, along columns' and rows' indices.
        affine: (4, 4) LPS+, the right-angled grid that begins at the first slice's first pixel.
        air: the value outside the slices.

    Returns:
        The array on a grid wide enough for all slices, (columns + a, rows + b, slices), and that grid's affine.
    """
    spacing = np.linalg.norm(affine[:3, :2], axis=0)
    moves = np.round(shifts / spacing, _DECIMALS)  # pixels
    low, high = np.floor(moves.min(axis=0)).astype(int), np.ceil(moves.max(axis=0)).astype(int)
    columns, rows, count = array.shape
    result = np.empty((columns + high[0] - low[0], rows + high[1] - low[1], count), dtype=np.float32)
    for k in range(count):
        moved = _moved(array[:, :, k], moves[k, 0] - low[0], result.shape[0], air)
        result[:, :, k] = _moved(moved.T, moves[k, 1] - low[1], result.shape[1], air).T
    grid = affine.copy()
    grid[:3, 3] += affine[:3, :2] @ low
    return result, grid


def _moved(plane: npt.NDArray[np.float32], move: float, length: int, air: float) -> npt.NDArray[np.float32]:
    """A plane moved by `move` >= 0 pixels along its first axis into one of `length` pixels."""
    whole = int(move)
    share = move - whole
    result = np.full((length, plane.shape[1]), air, dtype=np.float32)
    result[whole : whole + len(plane)] = plane
    if share > 0:
        before = np.vstack([np.full((1, plane.shape[1]), air, dtype=np.float32), result[:-1]])
        result = ((1 - share) * result + share * before).astype(np.float32)
    return result


def direction(shifts: Vector, affine: Vector, height: float) -> tuple[float, str]:
    """The tilt in degrees, and which way the slices move as they rise along the normal, in words.

    Args:
        shifts: as for :func:`straighten`.
        affine: as for :func:`straighten`.
        height: mm from the first slice to the last.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    way = axes[:, :2] @ shifts[-1]
    angle = float(np.degrees(np.arctan2(np.linalg.norm(shifts[-1]), height)))
    main = int(abs(way).argmax())
    return angle, _TOWARDS[main][0 if way[main] > 0 else 1]
