"""Grids: reorient and resample an array, and bring it back to the grid it came from.

A grid is a shape and an affine from voxel index to RAS+ millimetres. Reorienting only permutes and flips axes, so its
inverse is exact; a change of spacing is trilinear, each new voxel at its true place in the patient, in both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]
Space = tuple[int, ...]

SAME_SPACING = 1e-3  # relative; headers store float32 and decimals, so 0.9999998 mm means 1 mm


def reorient(array: Floats, affine: Affine, orientation: str) -> tuple[Floats, Affine]:
    """Flip and permute the axes so that they point nearest to the anatomical codes given, such as "RAS".

    Args:
        array: (channel, i, j, k).
        affine: voxel -> RAS+ mm.
        orientation: three axis codes, each naming the direction of growing index.

    Returns:
        The array and affine on the new grid; every value keeps its place in the patient.
    """
    from monai.transforms import Orientation

    turned: Any = Orientation(axcodes=orientation, labels=None)(_tracked(array, affine))
    return np.ascontiguousarray(turned.numpy()), np.asarray(turned.affine, dtype=np.float64)


def resample(array: Floats, affine: Affine, spacing: Sequence[float | None]) -> tuple[Floats, Affine]:
    """Resample to the spacing given (mm; None keeps an axis), trilinearly, edge values beyond the outer voxels.

    Along an axis that becomes coarser the image is smoothed first by the Gaussian that turns the old voxel's point
    spread into the new one's (full widths at half maximum as the spacings: Cardoso et al., MICCAI 2015, section 2).
    The centre of the first voxel stays where it is.

    Returns:
        The same array and affine if no spacing changes by more than 0.1 %.
    """
    old = np.linalg.norm(affine[:3, :3], axis=0)
    new = np.array([o if s is None else s for s, o in zip(spacing, old, strict=True)])
    if np.allclose(new, old, rtol=SAME_SPACING, atol=0):
        return array, affine
    from monai.transforms import Spacing

    smooth = _tracked(_anti_alias(array, old, new), affine)
    # align_corners only chooses how MONAI writes coordinates down; False also holds for axes of a single voxel
    step = Spacing(pixdim=new.tolist(), mode="bilinear", padding_mode="border", align_corners=False, dtype=np.float32)
    result: Any = step(smooth)
    return np.ascontiguousarray(result.numpy()), np.asarray(result.affine, dtype=np.float64)


def crop(
    array: Floats, mask: npt.NDArray[np.bool_], affine: Affine, margin: float
) -> tuple[Floats, npt.NDArray[np.bool_], Affine]:
    """The box that holds the mask and `margin` mm round it, as far as the frame reaches.

    Args:
        array: (channel, i, j, k).
        mask: (i, j, k), not empty.
        affine: voxel -> RAS+ mm.
        margin: mm.

    Returns:
        Array, mask and affine of the box.
    """
    reach = np.ceil(margin / np.linalg.norm(affine[:3, :3], axis=0)).astype(int)
    starts, box = np.zeros(3, dtype=int), []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        starts[axis] = max(0, inside[0] - reach[axis])
        box.append(slice(int(starts[axis]), int(inside[-1] + reach[axis]) + 1))
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ starts
    return np.ascontiguousarray(array[(slice(None), *box)]), np.ascontiguousarray(mask[tuple(box)]), moved


def bring_back(array: Floats, affine: Affine, space: Space, target: Affine, air: float) -> Floats:
    """Put an array on another grid of the same patient: the inverse of :func:`reorient` and :func:`resample`.

    Where the grids share their voxels (reorientation, crop) the values are moved, not interpolated. Otherwise they are
    interpolated trilinearly, without smoothing: fine detail that the network drew is not blurred again.

    Args:
        array: (channel, i, j, k) on the grid of `affine`.
        affine: voxel -> RAS+ mm of `array`.
        space: shape of the wanted grid, three numbers.
        target: voxel -> RAS+ mm of the wanted grid.
        air: value for wanted voxels whose centre lies outside all voxels of `array`.
    """
    index = np.linalg.inv(affine) @ target  # wanted index -> index in `array`
    moved = _exact_move(array, index, space, air)
    if moved is not None:
        return moved
    from monai.transforms import SpatialResample

    step = SpatialResample(mode="bilinear", padding_mode="border", align_corners=False, dtype=np.float32)
    back = step(_tracked(array, affine), dst_affine=_double(target), spatial_size=space)
    result: Floats = np.ascontiguousarray(back.numpy())
    result[:, outside(index, space, array.shape[1:])] = air
    return result


def _exact_move(array: Floats, index: Affine, space: Space, air: float) -> Floats | None:
    """`array` moved as `index` (wanted -> present index) says, or None if that takes interpolation.

    Flipped and permuted, and set into air (or cut) where the wanted grid reaches further (or less far).
    """
    turn = np.rint(index)
    if np.abs(index - turn).max() > 1e-3 or not (np.abs(turn[:3, :3]).sum(axis=0) == 1).all():
        return None
    axes = np.abs(turn[:3, :3]).argmax(axis=0)  # present axis that each wanted axis runs along
    if sorted(axes) != [0, 1, 2]:
        return None
    turned = array.transpose(0, *(1 + axes))
    wanted, present = [slice(None)], [slice(None)]
    for n, axis in enumerate(axes):
        sign, start = int(turn[axis, n]), int(turn[axis, 3])
        # wanted index w lies on present index start + sign * w, which must be in 0 .. last
        last = array.shape[1 + axis] - 1
        ends = sorted((-start * sign, (last - start) * sign))
        first, stop = max(ends[0], 0), min(ends[1] + 1, space[n])
        if first >= stop:
            return np.full((len(array), *space), air, dtype=np.float32)
        ends = sorted((start + sign * first, start + sign * (stop - 1)))
        wanted.append(slice(first, stop))
        present.append(slice(ends[0], ends[1] + 1))
    flips = tuple(slice(None, None, int(turn[axis, n])) for n, axis in enumerate(axes))
    piece = turned[tuple(present)][(slice(None), *flips)]
    if piece.shape[1:] == tuple(space):
        return np.ascontiguousarray(piece)
    result = np.full((len(array), *space), air, dtype=np.float32)
    result[tuple(wanted)] = piece
    return result


def outside(index: Affine, space: Space, present: Space) -> npt.NDArray[np.bool_]:
    """Where a voxel (i, j, k) of the wanted grid has its centre outside the present grid's voxels.

    These reach half a voxel past their centres.
    """
    beyond = np.zeros(space, dtype=bool)
    i, j, k = np.ogrid[tuple(slice(n) for n in space)]
    for row, length in zip(index[:3], present, strict=True):
        place = row[0] * i + row[1] * j + row[2] * k + row[3]
        beyond |= (place < -0.5 - 1e-3) | (place > length - 0.5 + 1e-3)
    return beyond


def _anti_alias(array: Floats, old: npt.NDArray[np.float64], new: npt.NDArray[np.float64]) -> Floats:
    from scipy import ndimage

    variance = np.maximum(new**2 - old**2, 0) / (8 * np.log(2))  # mm^2
    sigma = np.where(new > old * (1 + SAME_SPACING), np.sqrt(variance) / old, 0)
    if not sigma.any():
        return array
    smooth: Floats = ndimage.gaussian_filter(array, (0, *sigma), mode="nearest", truncate=3)
    return smooth


def _tracked(array: Floats, affine: Affine) -> Any:
    """A MONAI MetaTensor."""
    import torch
    from monai.data import MetaTensor

    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array)), affine=_double(affine))


def _double(affine: Affine) -> Any:
    """A torch tensor, float64."""
    import torch

    return torch.from_numpy(np.array(affine, dtype=np.float64))
