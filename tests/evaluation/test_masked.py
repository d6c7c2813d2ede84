"""The metrics against plain implementations written here from the protocols' definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from scipy.signal import fftconvolve
from skimage.metrics import structural_similarity

from medcycle.errors import ScanError
from medcycle.evaluation.masked import basic, outside_mae, synthrad2023, synthrad2025


def pair(shape, seed=0, noise=120.0):
    """A CT-like reference beyond both ends of the range, a prediction, and an irregular mask."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(0, 900, shape).astype(np.float32)
    prediction = (reference + rng.normal(20, noise, shape)).astype(np.float32)
    mask = rng.random(shape) < 0.6
    mask[tuple(slice(n // 3, n // 2) for n in shape)] = True
    return prediction, reference, mask


def plain_mae_psnr(prediction, reference, mask, low, high):
    absolute, squared, count = 0.0, 0.0, 0
    for index in np.ndindex(*mask.shape):
        if mask[index]:
            p, r = float(prediction[index]), float(reference[index])
            absolute += abs(p - r)
            squared += (min(max(p, low), high) - min(max(r, low), high)) ** 2
            count += 1
    return absolute / count, 10 * math.log10((high - low) ** 2 / (squared / count))


def prepared(image, mask, low, high):
    return np.where(mask, np.clip(image.astype(np.float64), low, high), low) - low


def plain_window_statistics(x, y):
    """Means, sample variances and covariance of every 7^n window that lies inside the image."""
    axes = tuple(range(x.ndim, 2 * x.ndim))
    a, b = (sliding_window_view(v, (7,) * x.ndim) for v in (x, y))
    count = 7**x.ndim - 1
    ux, uy = a.mean(axes), b.mean(axes)
    da, db = a - np.expand_dims(ux, axes), b - np.expand_dims(uy, axes)
    return ux, uy, (da * da).sum(axes) / count, (db * db).sum(axes) / count, (da * db).sum(axes) / count


def box_sums(x):
    """Sums of every 7^n window by an integral image: plain enough, and small enough for a 97^3 volume."""
    for axis in range(x.ndim):
        total = np.cumsum(x, axis=axis)
        total = np.concatenate([np.zeros_like(total.take([0], axis)), total], axis)
        n = total.shape[axis]
        x = total.take(range(7, n), axis) - total.take(range(n - 7), axis)
    return x


def plain_ms_ssim(prediction, reference, mask, low=-1024.0, high=3071.0):
    """SynthRAD2025's MS-SSIM, step by step, in any number of dimensions."""
    x, y = prepared(prediction, mask, low, high), prepared(reference, mask, low, high)
    m = mask.astype(float)
    before = [max(97 - n, 0) // 2 for n in x.shape]
    after = [max(97 - n, 0) - b for n, b in zip(x.shape, before, strict=True)]
    x, y, m = (np.pad(v, list(zip(before, after, strict=True)), mode="edge") for v in (x, y, m))
    dimensions, count = x.ndim, 7.0**x.ndim
    c1, c2 = (0.01 * (high - low)) ** 2, (0.03 * (high - low)) ** 2
    result = 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
        ux, uy = box_sums(x) / count, box_sums(y) / count
        vx = (box_sums(x * x) / count - ux**2) * count / (count - 1)
        vy = (box_sums(y * y) / count - uy**2) * count / (count - 1)
        vxy = (box_sums(x * y) / count - ux * uy) * count / (count - 1)
        sx, sy = np.sqrt(np.clip(vx, 0, None)), np.sqrt(np.clip(vy, 0, None))
        luminance = np.clip((2 * ux * uy + c1) / (ux**2 + uy**2 + c1), 0, None)
        contrast = np.clip((2 * sx * sy + c2) / (vx + vy + c2), 0, None)
        structure = np.clip((vxy + c2 / 2) / (sx * sy + c2 / 2), 0, None)
        scale = luminance**weight * contrast**weight * structure**weight
        result *= scale[m[(slice(3, -3),) * dimensions] > 0].mean()
        kernel = np.ones((2,) * dimensions) / 2**dimensions
        step = (slice(None, None, 2),) * dimensions
        x, y, m = fftconvolve(x, kernel, mode="same")[step], fftconvolve(y, kernel, mode="same")[step], m[step]
    return float(result)


@pytest.mark.parametrize(
    ("protocol", "low", "high"), [(synthrad2023, -1024.0, 3000.0), (synthrad2025, -1024.0, 3071.0)]
)
def test_mae_and_psnr_equal_a_plain_loop(protocol, low, high):
    prediction, reference, mask = pair((9, 8, 10))
    reference[mask.nonzero()[0][0], 0, 0] = 5000  # beyond the range: counts in full for MAE, clipped for PSNR
    mae, psnr = plain_mae_psnr(prediction, reference, mask, low, high)
    figures = protocol(prediction, reference, mask)
    assert figures["mae"] == pytest.approx(mae, rel=1e-12)
    assert figures["psnr"] == pytest.approx(psnr, rel=1e-12)


@pytest.mark.parametrize("shape", [(14, 12, 13), (40, 33, 21), (25, 31)])
def test_ssim_2023_equals_scikit_image_cropped_and_masked(shape):
    prediction, reference, mask = pair(shape, seed=1)
    x, y = prepared(prediction, mask, -1024, 3000), prepared(reference, mask, -1024, 3000)
    _, ssim_map = structural_similarity(x, y, win_size=7, use_sample_covariance=True, data_range=4024, full=True)
    core = (slice(3, -3),) * len(shape)
    assert synthrad2023(prediction, reference, mask)["ssim"] == pytest.approx(
        ssim_map[core][mask[core]].mean(), abs=1e-9
    )


def test_ssim_2023_equals_a_plain_window_loop():
    prediction, reference, mask = pair((12, 11, 13), seed=2)
    x, y = prepared(prediction, mask, -1024, 3000), prepared(reference, mask, -1024, 3000)
    ux, uy, vx, vy, vxy = plain_window_statistics(x, y)
    c1, c2 = (0.01 * 4024) ** 2, (0.03 * 4024) ** 2
    ssim_map = (2 * ux * uy + c1) * (2 * vxy + c2) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))
    expected = ssim_map[mask[3:-3, 3:-3, 3:-3]].mean()
    assert synthrad2023(prediction, reference, mask)["ssim"] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("shape", [(97, 97, 97), (30, 41, 104), (101, 96, 98), (120, 60), (97, 133)])
def test_ms_ssim_2025_equals_the_plain_protocol(shape):
    prediction, reference, _ = pair(shape, seed=3, noise=400)
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    mask = sum(((g - n / 2) / n) ** 2 for g, n in zip(grid, shape, strict=True)) < 0.2
    expected = plain_ms_ssim(prediction, reference, mask)
    assert 0 < expected < 0.99
    assert synthrad2025(prediction, reference, mask)["ms_ssim"] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("shape", [(15, 14, 16), (40, 33)])
def test_basic_equals_numpy_and_scikit_image_on_the_whole_image(shape):
    prediction, reference, _ = pair(shape, seed=4)
    prediction, reference = prediction.astype(np.float64), reference.astype(np.float64)
    figures = basic(prediction, reference, np.ones(shape), 4095)
    error = prediction - reference
    ssim = structural_similarity(prediction, reference, win_size=7, data_range=4095)
    assert figures == pytest.approx(
        {
            "mae": np.abs(error).mean(),
            "rmse": np.sqrt((error**2).mean()),
            "bias": error.mean(),
            "psnr": 10 * np.log10(4095**2 / (error**2).mean()),
            "ssim": ssim,
        },
        rel=1e-9,
    )


def test_basic_averages_the_channels_of_a_colour_picture():
    prediction, reference, _ = pair((3, 20, 24), seed=5)
    mask = np.zeros((20, 24))
    mask[5:15, 6:17] = 1
    figures = basic(prediction, reference, mask, 255)
    apart = [basic(p, r, mask, 255) for p, r in zip(prediction, reference, strict=True)]
    for key in ("mae", "bias", "ssim"):
        assert figures[key] == pytest.approx(np.mean([one[key] for one in apart]))
    assert figures["rmse"] ** 2 == pytest.approx(np.mean([one["rmse"] ** 2 for one in apart]))


@pytest.mark.parametrize("protocol", [synthrad2023, synthrad2025])
def test_what_lies_outside_the_mask_does_not_count(protocol):
    prediction, reference, mask = pair((20, 18, 16))
    wild = np.where(mask, prediction, 3000).astype(np.float32)
    assert protocol(wild, reference, mask) == protocol(prediction, reference, mask)
    assert protocol(prediction, reference, mask) != protocol(prediction, reference, np.ones_like(mask))


def test_outside_mae_sees_only_the_outside():
    prediction, reference, mask = pair((6, 5, 4))
    expected = np.abs(prediction[~mask].astype(float) - reference[~mask]).mean()
    assert outside_mae(prediction, reference, mask) == pytest.approx(expected)
    assert math.isnan(outside_mae(prediction, reference, np.ones_like(mask)))


def test_the_mask_is_what_is_above_zero():
    prediction, reference, mask = pair((12, 12, 12))
    signed = np.where(mask, 7.0, -3.0)
    assert synthrad2023(prediction, reference, signed) == synthrad2023(prediction, reference, mask)


def test_one_voxel_far_from_the_border_is_a_mask():
    prediction, reference, _ = pair((9, 9, 9))
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4] = True
    figures = synthrad2023(prediction, reference, mask)
    assert figures["mae"] == pytest.approx(abs(float(prediction[4, 4, 4]) - float(reference[4, 4, 4])))
    assert 0 <= figures["ssim"] <= 1


def test_figures_without_a_whole_window_are_nan_and_the_others_stand():
    prediction, reference, _ = pair((12, 12, 12))
    border = np.zeros((12, 12, 12), bool)
    border[:2] = True
    for figures in (synthrad2023(prediction, reference, border), basic(prediction, reference, border, 4095)):
        assert math.isnan(figures["ssim"])
        assert math.isfinite(figures["mae"])
        assert math.isfinite(figures["psnr"])
    assert math.isnan(synthrad2025(prediction, reference, border)["ms_ssim"])
    thin = tuple(array[:, :, :5] for array in pair((12, 12, 12)))
    assert math.isnan(synthrad2023(*thin)["ssim"])


def test_a_volume_of_one_plane_scores_as_the_picture():
    prediction, reference, mask = pair((30, 26))
    flat = synthrad2023(prediction, reference, mask)
    assert synthrad2023(prediction[..., None], reference[..., None], mask[..., None]) == flat


@pytest.mark.parametrize("shape", [(20, 22, 24), (40, 44)])
def test_equal_images_are_perfect(shape):
    _, reference, _ = pair(shape)
    everywhere = np.ones(shape)
    assert synthrad2023(reference, reference, everywhere) == {"mae": 0, "psnr": math.inf, "ssim": pytest.approx(1)}
    assert synthrad2025(reference, reference, everywhere)["ms_ssim"] == pytest.approx(1)


def test_constant_images_give_finite_figures():
    low, high = np.full((16, 16, 16), -1000.0), np.full((16, 16, 16), 40.0)
    everywhere = np.ones(low.shape)
    for protocol in (synthrad2023, synthrad2025):
        assert protocol(low, high, everywhere)["mae"] == 1040
        assert all(math.isfinite(value) for value in protocol(low, high, everywhere).values())
    flat = basic(low, high, everywhere, 0.0)  # a constant reference in an arbitrary unit spans nothing
    assert math.isnan(flat["psnr"])
    assert math.isnan(flat["ssim"])


def test_what_cannot_be_compared_is_refused():
    prediction, reference, mask = pair((8, 8, 8))
    with pytest.raises(ScanError, match="mask is empty"):
        synthrad2023(prediction, reference, np.zeros_like(mask))
    with pytest.raises(ScanError, match="differ"):
        synthrad2025(prediction[:7], reference, mask)
    with pytest.raises(ScanError, match="differ"):
        synthrad2023(prediction, reference, mask[0])
    prediction[0, 0, 0] = np.nan
    with pytest.raises(ScanError, match="NaN"):
        basic(prediction, reference, mask, 1)
