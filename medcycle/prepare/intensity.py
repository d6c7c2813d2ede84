"""Intensities: one linear map from [low, high] to [-1, 1] and back, and how each modality chooses low and high."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

STRETCHED = (-0.6, 0.5)  # where stretched soft tissue begins and ends
PICTURE_RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}


def percentile_range(array: Floats, foreground: Mask, percentiles: Sequence[float]) -> tuple[float, float]:
    """The two percentiles of the values inside the foreground, as (low, high).

    Where these coincide (a nearly binary image) the extremes of the whole image are taken instead, so that a map
    exists; for a constant image low equals high and :func:`normalize` gives air everywhere.

    Args:
        array: (channel, i, j, k).
        foreground: (i, j, k).
        percentiles: two numbers in [0, 100].
    """
    values = array[:, foreground] if foreground.any() else array
    low, high = (float(p) for p in np.percentile(values, percentiles))
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        low, high = float(array.min()), float(array.max())
    return low, high


def normalize(array: Floats, low: float, high: float) -> Floats:
    """Map [low, high] linearly to [-1, 1]; what lies beyond is clipped. With high == low everything is -1 (air)."""
    if high <= low:
        return np.full(array.shape, -1, dtype=np.float32)
    result = array - np.float32(low)
    result *= np.float32(2.0 / (high - low))
    result -= np.float32(1)
    return np.clip(result, -1, 1, out=result)


def denormalize(array: Floats, low: float, high: float) -> Floats:
    """The inverse of :func:`normalize` for values in [-1, 1]; others are clipped first."""
    result = np.clip(array, -1, 1).astype(np.float32)
    result += np.float32(1)
    result *= np.float32((high - low) / 2)
    result += np.float32(low)
    return result


def stretch(array: Floats, window: tuple[float, float], soft: tuple[float, float], *, back: bool = False) -> Floats:
    """Give the HU of soft tissue more of the range [-1, 1] than their share of the window, piecewise linearly.

    Linearly, 0.1 of [-1, 1] is 150 HU of a window of 3,000, three times what tells all soft tissues apart.

    Args:
        array: normalized to [-1, 1] over the window.
        window: HU at -1 and 1.
        soft: HU that are moved to STRETCHED, inside the window.
        back: undo it.
    """
    low, high = window
    linear = [2 * (hu - low) / (high - low) - 1 for hu in (low, *soft, high)]
    knots = (linear, (-1.0, *STRETCHED, 1.0))
    mapped: Floats = np.interp(array, *(knots[::-1] if back else knots)).astype(np.float32)
    return mapped


def clipped_share(array: Floats, foreground: Mask, low: float, high: float) -> float:
    """Share of the foreground's values that lie outside [low, high] and so cannot be restored."""
    values = array[:, foreground] if foreground.any() else array
    return float(np.mean((values < low) | (values > high)))


def correct_bias(array: Floats, foreground: Mask, spacing: Sequence[float], where: str = "volume") -> Floats:
    """Divide each channel by its smooth bias field, found by N4 (Tustison et al., IEEE TMI 2010).

    The field is fitted to the foreground on a grid of about 4 mm, where it is as smooth as at full size, and applied
    to all voxels. The correction is part of the prepared image: restoring does not put the field back. A single plane
    is corrected in 2D; where nothing is left to fit to, the array is returned as it is.

    Args:
        array: (channel, i, j, k).
        foreground: (i, j, k), where the field is fitted.
        spacing: mm along i, j, k.
        where: what the scan is called in messages.

    Raises:
        ScanError: N4 cannot correct it.
    """
    import SimpleITK

    sitk: Any = SimpleITK  # ships no types

    axes = [axis for axis, n in enumerate(foreground.shape) if n > 1]  # N4 fails on an axis of one voxel
    if len(axes) < 2:
        return array
    sizes, steps = [foreground.shape[a] for a in axes], [float(spacing[a]) for a in axes]
    shrink = [max(1, min(round(4.0 / s), n // 4)) for s, n in zip(steps, sizes, strict=True)]
    mask = sitk.GetImageFromArray(foreground.reshape(sizes).astype(np.uint8).T)
    mask.SetSpacing(steps)
    coarse = sitk.Shrink(mask, shrink)
    if not sitk.GetArrayViewFromImage(coarse).any():
        return array
    result = np.empty_like(array)
    for channel, values in enumerate(array):
        # N4 works on the logarithm: shift so that nothing is below a small positive value
        lowest = float(values.min())
        image = sitk.GetImageFromArray(np.ascontiguousarray((values - lowest).reshape(sizes).T))
        image.SetSpacing(steps)
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetMaximumNumberOfIterations([40, 40, 30])
        try:
            n4.Execute(sitk.Shrink(image, shrink), coarse)
            field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T.reshape(values.shape)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ScanError(
                f"{where}: N4 cannot correct its bias field ({reason}). Remove the scan, or set prepare.n4: false."
            ) from error
        result[channel] = (values - lowest) * np.exp(-field) + lowest
    return result
