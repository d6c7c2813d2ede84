"""The two baselines that know nothing of anatomy."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.exposure import match_histograms

from medcycle.errors import ScanError
from medcycle.evaluation.baselines import constant, ct_baselines, histogram_matching, pooled_histogram
from medcycle.io import write_volume
from medcycle.volume import Volume

AFFINE = np.diag([2.0, 2, 3, 1])


def ct(seed, shape=(12, 11, 10)):
    return Volume(np.rint(np.random.default_rng(seed).normal(0, 700, (1, *shape))), AFFINE, "HU")


def mr(seed=9, shape=(13, 12, 9)):
    return Volume(np.rint(np.random.default_rng(seed).gamma(2, 100, (1, *shape))), AFFINE)


def test_a_constant_keeps_the_grid():
    scan = mr()
    guess = constant(scan)
    assert guess.unit == "HU"
    assert guess.space == scan.space
    np.testing.assert_array_equal(guess.affine, scan.affine)
    assert (guess.array == 40).all()


def test_histogram_matching_equals_scikit_image_on_the_pooled_scans():
    cts = [ct(1), ct(2, (5, 6, 7))]
    pooled = np.concatenate([np.clip(volume.array.ravel(), -1024, 3071) for volume in cts])
    expected = match_histograms(mr().array[0].ravel(), pooled).reshape(mr().array.shape)
    matched = histogram_matching(mr(), pooled_histogram(cts))
    assert matched.unit == "HU"
    np.testing.assert_allclose(matched.array, expected, atol=1e-3)


def test_histogram_matching_keeps_the_order_of_grey_values():
    scan = mr()
    matched = histogram_matching(scan, pooled_histogram([ct(3)]))
    order = np.argsort(scan.array.ravel(), kind="stable")
    assert (np.diff(matched.array.ravel()[order]) >= 0).all()


def test_training_cts_may_be_files(tmp_path):
    path = write_volume(ct(4), tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(pooled_histogram([path]), pooled_histogram([ct(4)]))
    functions = ct_baselines([path])
    assert list(functions) == ["constant 40 HU", "histogram matching"]
    assert all(function(mr()).unit == "HU" for function in functions.values())


def test_no_training_ct_is_an_error():
    with pytest.raises(ScanError, match="at least one training CT"):
        pooled_histogram([])
