"""Image metrics inside a mask, each under the name of the protocol that defines it.

The same pair of images scores very differently under different masks, ranges and windows, so every protocol here is a
function of its own and nothing in it can be tuned. All are plain NumPy in float64; the local windows are 7 voxels
along every axis (7^2 for a plane), uniform, with the sample covariance, as `skimage.metrics.structural_similarity`'s.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SYNTHRAD2023_RANGE = (-1024.0, 3000.0)  # HU
SYNTHRAD2025_RANGE = (-1024.0, 3071.0)  # HU
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang 2003, section 3.2, finest scale first
MS_SSIM_SIZE = 97  # voxels an axis: halved four times it leaves exactly one window
WINDOW = 7  # voxels
RADIUS = WINDOW // 2
K1, K2 = 0.01, 0.03  # Wang 2004


def synthrad2023(prediction: npt.ArrayLike, reference: npt.ArrayLike, mask: npt.ArrayLike) -> dict[str, float]:
    """The image metrics of the SynthRAD2023 challenge (Huijben et al. 2024): range [-1024, 3000] HU.

    Args:
        prediction: HU, shape (i, j, k) or (i, j).
        reference: HU, the same shape.
        mask: the same shape; what is above 0 is scored.

    Returns:
        "mae" (HU, over the mask, not clipped), "psnr" (dB, both clipped to the range, over the mask) and "ssim" (both
        clipped, set to -1024 outside the mask, shifted to start at 0; the mean over the mask of the map without its
        outer 3 voxels). A figure is NaN where it is not defined: an SSIM when no voxel of the mask is 3 voxels away
        from the border, say; PSNR is infinite for equal images.

    Raises:
        ScanError: shapes that differ, an empty mask, values that are not finite.
    """
    x, y, inside = checked(prediction, reference, mask, channels=False)
    low, high = SYNTHRAD2023_RANGE
    p, r = x[inside], y[inside]
    return {
        "mae": float(np.abs(p - r).mean()),
        "psnr": _psnr(np.clip(p, low, high), np.clip(r, low, high), high - low),
        "ssim": _ssim(_from_zero(x, inside, low, high), _from_zero(y, inside, low, high), inside, high - low),
    }


def synthrad2025(prediction: npt.ArrayLike, reference: npt.ArrayLike, mask: npt.ArrayLike) -> dict[str, float]:
    """The image metrics of the SynthRAD2025 challenge (Thummerer et al. 2025): range [-1024, 3071] HU.

    Arguments, errors and undefined figures as in :func:`synthrad2023`.

    Returns:
        "mae" (HU) and "psnr" (dB) as in 2023 over this range, and "ms_ssim" over five scales (see :func:`_ms_ssim`).
    """
    x, y, inside = checked(prediction, reference, mask, channels=False)
    low, high = SYNTHRAD2025_RANGE
    p, r = x[inside], y[inside]
    return {
        "mae": float(np.abs(p - r).mean()),
        "psnr": _psnr(np.clip(p, low, high), np.clip(r, low, high), high - low),
        "ms_ssim": _ms_ssim(_from_zero(x, inside, low, high), _from_zero(y, inside, low, high), inside, high - low),
    }


def basic(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, mask: npt.ArrayLike, data_range: float
) -> dict[str, float]:
    """Plain figures for any unit: nothing is clipped and the windows of the SSIM see the image outside the mask too.

    Args:
        prediction: shape (*space) or (channel, *space).
        reference: the same shape.
        mask: shape (*space); what is above 0 is scored, in every channel.
        data_range: the width of the value range (255 for 8 bits), for PSNR and SSIM.

    Returns:
        "mae", "rmse", "bias" (mean of prediction - reference) in the images' unit, "psnr" (dB), "ssim" (mean over
        channels). PSNR and SSIM are NaN where the data range is 0 (a constant reference).

    Raises:
        ScanError: as in :func:`synthrad2023`.
    """
    x, y, inside = checked(prediction, reference, mask)
    error = (x - y)[..., inside]
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": math.sqrt(float(np.square(error).mean())),
        "bias": float(error.mean()),
        "psnr": _psnr(x[..., inside], y[..., inside], data_range),
        "ssim": float(np.mean([_ssim(a, b, inside, data_range) for a, b in _channels(x, y, inside)])),
    }


def outside_mae(prediction: npt.ArrayLike, reference: npt.ArrayLike, mask: npt.ArrayLike) -> float:
    """Mean absolute error outside the mask (NaN when nothing is): streaks in the air, which masked metrics miss."""
    x, y, inside = checked(prediction, reference, mask)
    return float(np.abs(x - y)[..., ~inside].mean()) if not inside.all() else math.nan


def checked(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, mask: npt.ArrayLike, channels: bool = True
) -> tuple[Array, Array, Mask]:
    """Both images in float64 and the mask as booleans, refused with a reason when they cannot be compared."""
    x, y = np.asarray(prediction, np.float64), np.asarray(reference, np.float64)
    inside = np.asarray(mask) > 0
    if x.shape != y.shape or inside.shape not in ((x.shape, x.shape[1:]) if channels else (x.shape,)):
        raise ScanError(
            f"shapes {x.shape} (prediction), {y.shape} (reference) and {inside.shape} (mask) differ; all three must "
            "lie on one grid. Resample them to the reference's grid first."
        )
    if not inside.any():
        raise ScanError(
            "the mask is empty: no voxel of it is above 0, so there is nothing to score. Give another mask."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ScanError(
            "the prediction or the reference holds NaN or infinite values. Replace them (by air, say) first."
        )
    return x, y, inside


def _channels(x: Array, y: Array, inside: Mask) -> list[tuple[Array, Array]]:
    return [(x, y)] if x.ndim == inside.ndim else list(zip(x, y, strict=True))


def _from_zero(image: Array, inside: Mask, low: float, high: float) -> Array:
    """Clipped to the range, air outside the mask, shifted so that air is 0."""
    return np.where(inside, np.clip(image, low, high) - low, 0.0)


def _psnr(prediction: Array, reference: Array, data_range: float) -> float:
    """10 log10(L^2 / mean squared error) in dB."""
    error = float(np.square(prediction - reference).mean())
    if data_range <= 0:
        return math.nan
    return 10 * math.log10(data_range**2 / error) if error > 0 else math.inf


def _ssim(x: Array, y: Array, inside: Mask, data_range: float) -> float:
    """Mean over the mask, without the outer 3 voxels, of the SSIM map (Wang 2004, eq. 13)."""
    thick = tuple(axis for axis, n in enumerate(inside.shape) if n == 1)  # a volume of one plane is a picture
    moments = _moments(x.squeeze(thick), y.squeeze(thick), inside.squeeze(thick))
    if moments is None or data_range <= 0:
        return math.nan
    ux, uy, vx, vy, vxy = moments
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = (2 * ux * uy + c1) / (ux * ux + uy * uy + c1)
    return float((luminance * (2 * vxy + c2) / (vx + vy + c2)).mean())


def _ms_ssim(x: Array, y: Array, inside: Mask, data_range: float) -> float:
    """The masked multi-scale SSIM of SynthRAD2025.

    At every scale the map (luminance * contrast * structure) ** weight, each factor clipped at 0 from below and
    C3 = C2 / 2, is averaged over the mask without the outer 3 voxels; the result is the product over the scales. It
    differs from Wang 2003 (eq. 7) in that the luminance counts at every scale and the exponent lies inside the mean.
    Images are edge-padded to 97 voxels an axis; each next scale is a 2^n mean sampled at every second voxel.
    """
    short = [max(MS_SSIM_SIZE - n, 0) for n in x.shape]
    pad = [(n // 2, n - n // 2) for n in short]
    x, y, inside = np.pad(x, pad, mode="edge"), np.pad(y, pad, mode="edge"), np.pad(inside, pad, mode="edge")
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    product = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        if scale:
            x, y, inside = _halved(x), _halved(y), inside[tuple(slice(None, None, 2) for _ in x.shape)]
        moments = _moments(x, y, inside)
        if moments is None:
            return math.nan
        ux, uy, vx, vy, vxy = moments
        deviations = np.sqrt(np.maximum(vx, 0)) * np.sqrt(np.maximum(vy, 0))
        luminance = (2 * ux * uy + c1) / (ux * ux + uy * uy + c1)
        contrast = (2 * deviations + c2) / (vx + vy + c2)
        structure = (vxy + c2 / 2) / (deviations + c2 / 2)
        similarity = np.maximum(luminance, 0) * np.maximum(contrast, 0) * np.maximum(structure, 0)
        product *= min(float((similarity**weight).mean()), 1.0)
    return product


def _halved(image: Array) -> Array:
    """Mean of each even voxel and its neighbours one step before it; there is air (0) before the first, as upstream."""
    for axis in range(image.ndim):
        line = np.moveaxis(image, axis, 0)
        even = line[::2] / 2
        even[1:] += line[1 : 2 * len(even) - 1 : 2] / 2
        image = np.moveaxis(even, 0, axis)
    return image


def _moments(x: Array, y: Array, inside: Mask) -> tuple[Array, Array, Array, Array, Array] | None:
    """Window means, sample variances and covariance (ux, uy, vx, vy, vxy) at the voxels of the mask that are scored.

    Scored are those at least 3 voxels from every border; None if there are none. Only the box around them, with the
    3 voxels that their windows reach, is filtered: exact, and several times faster for a head in its air.
    """
    from scipy import ndimage

    core: Any = tuple(slice(RADIUS, n - RADIUS) for n in x.shape)
    if min(x.shape) < WINDOW or not inside[core].any():
        return None
    box = ndimage.find_objects(inside[core].astype(np.uint8))[0]  # begins 3 voxels early in the whole image's count
    scored = inside[core][box]
    reach = tuple(slice(side.start, side.stop + 2 * RADIUS) for side in box)
    x, y = x[reach], y[reach]

    def mean(image: Array) -> Array:
        inner = tuple(slice(RADIUS, n - RADIUS) for n in image.shape)
        means: Array = ndimage.uniform_filter(image, WINDOW, mode="constant")[inner][scored]
        return means

    ux, uy = mean(x), mean(y)
    unbiased = WINDOW**x.ndim / (WINDOW**x.ndim - 1)
    vx, vy, vxy = mean(x * x) - ux * ux, mean(y * y) - uy * uy, mean(x * y) - ux * uy
    return ux, uy, unbiased * vx, unbiased * vy, unbiased * vxy
