"""Distances of feature sets against plain implementations of their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcycle.errors import ScanError
from medcycle.evaluation.frechet import (
    frechet_distance,
    full_kernel_distance,
    inception_score,
    kernel_distance,
    kid_subset_size,
)


def by_matrix_root(x, y):
    """Heusel 2017, eq. 6, as it is written."""
    from scipy.linalg import sqrtm

    root = sqrtm(np.cov(x.T) @ np.cov(y.T))
    shift = np.square(x.mean(0) - y.mean(0)).sum()
    return shift + np.trace(np.cov(x.T)) + np.trace(np.cov(y.T)) - 2 * np.trace(root).real


def features(seed, n, d, scale=1.0, shift=0.0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) * scale + shift


@pytest.mark.parametrize(("n", "m", "d"), [(40, 50, 5), (9, 200, 8), (200, 9, 8), (60, 61, 1 + 1)])
def test_frechet_equals_the_definition_with_a_matrix_root(n, m, d):
    x, y = features(1, n, d), features(2, m, d, 1.7, 0.5)
    assert frechet_distance(x, y) == pytest.approx(by_matrix_root(x, y), rel=1e-6)


def test_frechet_of_known_normals():
    """Diagonal covariances have the closed form |m1 - m2|^2 + sum (s1 - s2)^2."""
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))  # covariance 8/7 on the diagonal
    unit = corners * math.sqrt(7 / 8)
    x, y = unit * [1, 2, 3], unit * [4, 2, 1] + [1, 0, -2]
    assert frechet_distance(x, y) == pytest.approx(1 + 4 + 9 + 0 + 4)


def test_frechet_with_fewer_pictures_than_features():
    """The singular covariances of 6 and 7 pictures: the eigenvalues of the product itself are the oracle."""
    x, y = features(3, 6, 20), features(4, 7, 20, shift=0.2)
    eigenvalues = np.linalg.eigvals(np.cov(x.T) @ np.cov(y.T)).real
    root = np.sqrt(np.clip(eigenvalues, 0, None))[eigenvalues > 1e-9 * eigenvalues.max()].sum()
    shift = np.square(x.mean(0) - y.mean(0)).sum()
    expected = shift + np.trace(np.cov(x.T)) + np.trace(np.cov(y.T)) - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-8)
    doubled, twice = np.hstack([x, x]), np.hstack([y, y])  # linearly dependent features
    assert frechet_distance(doubled, twice) == pytest.approx(2 * expected, rel=1e-8)


@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(2, 12), st.integers(1, 15))
def test_frechet_is_a_distance(seed, n, m, d):
    x, y = features(seed, n, d), features(seed + 1, m, d, shift=0.3)
    size = np.square(x).sum() + np.square(y).sum()
    assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-12 * size)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-7, abs=1e-12 * size)
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(frechet_distance(x, y), rel=1e-7, abs=1e-11 * size)
    assert frechet_distance(x, x + 2.0) == pytest.approx(4 * d, rel=1e-6)


def mmd(x, y):
    """Binkowski 2018, eq. 4, pair by pair."""

    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    total = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    total += sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return total - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_kernel_distance_equals_the_definition():
    x, y = features(5, 7, 4), features(6, 9, 4, shift=0.4)
    assert full_kernel_distance(x, y) == pytest.approx(mmd(x, y), rel=1e-10)
    # One picture left out of x each time: the mean over many draws of subsets is that of all the subsets.
    rng = np.random.RandomState(3)
    draws = [(rng.choice(7, 5, replace=False), rng.choice(9, 5, replace=False)) for _ in range(4)]
    expected = [mmd(x[i], y[j]) for i, j in draws]
    mean, std = kernel_distance(x, y, subsets=4, subset_size=5, seed=3)
    assert mean == pytest.approx(np.mean(expected), rel=1e-10)
    assert std == pytest.approx(np.std(expected), rel=1e-10)


def test_kernel_distance_is_unbiased_and_repeatable():
    x, y = features(7, 60, 5, 0.5), features(8, 80, 5, 0.5, 0.2)
    whole = full_kernel_distance(x, y)
    mean, std = kernel_distance(x, y, subsets=3000, subset_size=20)
    assert abs(mean - whole) < 4 * std / math.sqrt(3000)
    assert kernel_distance(x, y) == kernel_distance(x, y)
    assert kernel_distance(x, y) != kernel_distance(x, y, seed=1)
    # The default is as large as the smaller set allows: all of x, and the x part does not vary.
    assert kid_subset_size(60, 80) == 60
    assert kid_subset_size(3000, 2000) == 1000
    assert kernel_distance(x, y)[0] == kernel_distance(x, y, subset_size=60)[0]
    same, no_spread = kernel_distance(x, y[:60])
    assert same == pytest.approx(full_kernel_distance(x, y[:60]))
    assert math.isnan(no_spread)
    # Of one distribution it scatters round 0, below it too.
    around = [full_kernel_distance(*features(seed, 60, 5, 0.5).reshape(2, 30, 5)) for seed in range(60)]
    assert min(around) < 0 < max(around)
    assert abs(np.mean(around)) < 4 * np.std(around) / math.sqrt(60)


def test_inception_score_by_hand():
    sure = np.eye(4)
    assert inception_score(sure, 1) == (pytest.approx(4.0), 0.0)
    assert inception_score(np.full((6, 4), 0.25), 2) == (pytest.approx(1.0), 0.0)
    # Two parts: the first sure of two classes (2), the second of one (1).
    assert inception_score(sure[[0, 1, 2, 2]], 2) == (pytest.approx(1.5), pytest.approx(0.5))
    p = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    marginal = p.mean(0)
    by_hand = math.exp(sum(float(row @ np.log(row / marginal)) for row in p) / 3)
    assert inception_score(p, 1)[0] == pytest.approx(by_hand)


def test_inception_score_keeps_every_picture():
    """7 pictures in 3 parts are cut at 2 and 4, as the original implementation does; none is dropped."""
    p = np.random.default_rng(0).dirichlet(np.ones(5), 7)
    parts = [inception_score(part, 1)[0] for part in (p[:2], p[2:4], p[4:])]
    assert inception_score(p, 3) == (pytest.approx(np.mean(parts)), pytest.approx(np.std(parts)))


def test_what_cannot_be_compared_is_refused():
    x = features(0, 5, 3)
    for measure in (frechet_distance, kernel_distance, full_kernel_distance):
        with pytest.raises(ScanError, match="at least 2"):
            measure(x, x[:1])
        with pytest.raises(ScanError, match=r"\(5, 3\) and \(5, 2\)"):
            measure(x, x[:, :2])
        with pytest.raises(ScanError, match="NaN"):
            measure(x, np.where(x > 0, x, np.nan))
    with pytest.raises(ScanError, match="2 to 5"):
        kernel_distance(x, x, subset_size=6)
    with pytest.raises(ScanError, match="probabilities"):
        inception_score(x)
    with pytest.raises(ScanError, match="1 to 3 parts"):
        inception_score(np.eye(3))
