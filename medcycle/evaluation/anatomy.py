"""Whether a synthetic CT shows the anatomy that is there: errors by tissue, overlap and distance of structures, edges.

A whole-image error can be low while the skull lies in the wrong place; these figures cannot.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from medcycle.evaluation.masked import checked

BONE = 250.0  # HU, above which a voxel is bone
AIR = -300.0  # HU, below which a voxel inside the body is air

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def anatomy(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, mask: npt.ArrayLike, spacing: npt.ArrayLike
) -> dict[str, float]:
    """Errors by tissue and agreement of structures, inside the mask.

    Args:
        prediction: HU, shape (i, j, k) or (i, j).
        reference: HU, the same shape.
        mask: the same shape; what is above 0 is scored.
        spacing: mm between voxels along each axis.

    Returns:
        "mae" (HU); "mae_air", "mae_soft", "mae_bone" (HU) over the voxels whose reference is below -300, between, and
        above 250 HU; "dice_bone" and "dice_air" (Dice 1945) of the voxels above 250 and below -300 HU in both images;
        "hd95_bone" and "hd95_air" (mm), the 95th percentile of the distances from each one's surface to the other's,
        the larger of both (Huttenlocher 1993); "gradient_correlation" (Pearson) of the gradients' magnitudes. A figure
        is NaN where the reference has no such tissue; a distance also where the prediction has none.

    Raises:
        ScanError: shapes that differ, an empty mask, values that are not finite.
    """
    x, y, inside = checked(prediction, reference, mask, channels=False)
    step = np.asarray(spacing, np.float64)[: x.ndim]
    error = np.abs(x - y)
    air, bone = inside & (y < AIR), inside & (y > BONE)
    figures = {
        "mae": _mean(error, inside),
        "mae_air": _mean(error, air),
        "mae_soft": _mean(error, inside & ~air & ~bone),
        "mae_bone": _mean(error, bone),
    }
    for name, mine, theirs in (("bone", inside & (x > BONE), bone), ("air", inside & (x < AIR), air)):
        figures[f"dice_{name}"] = _dice(mine, theirs)
        figures[f"hd95_{name}"] = _hd95(mine, theirs, step)
    figures["gradient_correlation"] = _correlation(_edges(x, step)[inside], _edges(y, step)[inside])
    return figures


def _mean(error: Array, where: Mask) -> float:
    return float(error[where].mean()) if where.any() else math.nan


def _dice(mine: Mask, theirs: Mask) -> float:
    """2 |A and B| / (|A| + |B|)."""
    return float(2 * (mine & theirs).sum() / (mine.sum() + theirs.sum())) if theirs.any() else math.nan


def _hd95(mine: Mask, theirs: Mask, spacing: Array) -> float:
    if not (mine.any() and theirs.any()):
        return math.nan
    from scipy.ndimage import binary_erosion, distance_transform_edt

    # Nothing outside the box that holds both matters; a voxel of margin makes borders of the image surfaces too.
    box = tuple(
        slice(int(places.min()), int(places.max()) + 1)
        for places in (np.where(mine | theirs)[n] for n in range(mine.ndim))
    )
    a, b = (np.pad(mask[box], 1) for mask in (mine, theirs))
    edges = [mask & ~binary_erosion(mask) for mask in (a, b)]
    ways = [distance_transform_edt(~edges[1 - n], sampling=spacing)[edges[n]] for n in (0, 1)]
    return max(float(np.percentile(distances, 95)) for distances in ways)


def _edges(image: Array, spacing: Array) -> Array:
    """Magnitude of the gradient, HU / mm; along an axis of a single voxel there is none."""
    axes = [axis for axis, n in enumerate(image.shape) if n > 1]
    squares = [np.square(np.gradient(image, spacing[axis], axis=axis)) for axis in axes]
    magnitude: Array = np.sqrt(np.sum([np.zeros_like(image), *squares], axis=0))
    return magnitude


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / scale) if scale > 0 else math.nan
