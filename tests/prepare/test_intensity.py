"""The linear map, its inverse, and N4."""

from __future__ import annotations

import numpy as np
import pytest

from medcycle.errors import ScanError
from medcycle.prepare.intensity import clipped_share, correct_bias, denormalize, normalize, percentile_range


def test_normalize_against_the_plain_formula():
    array = np.linspace(-2000, 4000, 101, dtype=np.float32).reshape(1, 101, 1, 1)
    expected = np.clip((array + 1024) / 4095 * 2 - 1, -1, 1)
    np.testing.assert_allclose(normalize(array, -1024, 3071), expected, atol=1e-6)
    np.testing.assert_allclose(denormalize(expected, -1024, 3071), np.clip(array, -1024, 3071), atol=1e-3)
    assert (denormalize(np.float32([-3, 3]), 0, 10) == [0, 10]).all()
    assert array[0, 0] == -2000  # the input is left alone


def test_no_range_gives_air():
    assert (normalize(np.ones((1, 2, 2, 2), np.float32), 5, 5) == -1).all()


def test_percentiles_without_a_foreground_are_the_images():
    array = np.arange(101, dtype=np.float32).reshape(1, 101, 1, 1)
    nothing = np.zeros(array.shape[1:], bool)
    assert percentile_range(array, nothing, (10, 90)) == pytest.approx((10, 90))
    assert clipped_share(array, nothing, 10, 90) == pytest.approx(20 / 101)


def test_n4_removes_a_smooth_field():
    rng = np.random.default_rng(0)
    grid = np.indices((20, 20, 20)) / 19 - 0.5
    inside = (grid**2).sum(axis=0) < 0.2
    tissue = np.where(grid[0] > 0.1, 700.0, 400.0) * inside
    field = np.exp(0.8 * grid[1])
    image = (tissue * field + rng.normal(0, 3, tissue.shape))[None].astype(np.float32)
    corrected = correct_bias(image, inside, (8.0, 8.0, 8.0))
    white = inside & (tissue == 400)

    def spread(values):
        return float(values.std() / values.mean())

    assert spread(image[0][white]) > 0.15
    assert spread(corrected[0][white]) < 0.05
    assert corrected.shape == image.shape
    assert corrected.dtype == np.float32


@pytest.mark.parametrize("shape", [(40, 40, 1), (1, 40, 40), (40, 1, 40)])
def test_n4_of_a_single_plane(shape):
    grid = np.indices(shape) / 39 - 0.5
    inside = (grid**2).sum(axis=0) - 0.25 * (3 - np.count_nonzero(np.array(shape) > 1)) < 0.2
    rng = np.random.default_rng(0)
    field = np.exp(0.8 * (grid[1] if shape[1] > 1 else grid[0]))
    image = (400 * inside * field + rng.normal(0, 3, shape))[None].astype(np.float32)
    corrected = correct_bias(image, inside, (4.0, 4.0, 4.0))
    assert corrected.shape == image.shape
    before, after = image[0][inside], corrected[0][inside]
    assert after.std() / after.mean() < before.std() / before.mean() / 2


def test_n4_without_anything_to_fit_to():
    image = np.random.default_rng(0).random((1, 12, 12, 12), np.float32)
    assert correct_bias(image, np.zeros((12, 12, 12), bool), (1, 1, 1)) is image
    assert correct_bias(image[:, :, :1, :1], np.ones((12, 1, 1), bool), (1, 1, 1)).shape == (1, 12, 1, 1)


def test_what_n4_refuses_is_a_scan_error(monkeypatch):
    import SimpleITK

    def fail(*_):
        raise RuntimeError("Exception thrown in SimpleITK\nitk::ERROR: no inverse")

    monkeypatch.setattr(SimpleITK.N4BiasFieldCorrectionImageFilter, "Execute", fail)
    image = np.random.default_rng(0).random((1, 12, 12, 12), np.float32)
    with pytest.raises(ScanError, match=r"^head\.nii: N4 cannot .*no inverse.*prepare\.n4: false"):
        correct_bias(image, image[0] > 0.1, (4, 4, 4), "head.nii")
