"""Standard histograms: landmarks meet the standard, contrasts become alike, and everything comes back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medcycle.errors import ConfigError
from medcycle.prepare import Preparation, PreparedState, nyul
from medcycle.volume import Volume

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
MR = Preparation(modality="mr", orientation=None, percentiles=(1.0, 99.0))


def head(contrast, seed=0, scale=900.0):
    """A ball of tissues in [0.2, 1] in air, whose brightness is `scale` times a function of the tissue."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 24)] * 3, indexing="ij"))
    inside = np.linalg.norm(grid, axis=0) < 0.8
    tissue = rng.choice([0.2, 0.45, 0.7, 1.0], grid.shape[1:], p=[0.2, 0.3, 0.4, 0.1]) + rng.normal(
        0, 0.02, inside.shape
    )
    array = np.where(inside, contrast(np.clip(tissue, 0.05, 1.1)), 0) * scale
    return Volume(array.astype(np.float32)[None], AFFINE)


CONTRASTS = [lambda t: t, lambda t: t**1.8 + 0.1, lambda t: np.sqrt(t)]


def test_landmarks_are_the_percentiles_of_the_body():
    array = np.arange(1001, dtype=np.float32).reshape(1, 1001, 1, 1)
    mask = np.ones((1001, 1, 1), bool)
    found = nyul.landmarks(array, mask, (0.0, 100.0), (0.0, 1000.0))
    np.testing.assert_allclose(found, np.linspace(0, 1000, 11))
    mask[501:] = False
    np.testing.assert_allclose(nyul.landmarks(array, mask, (0.0, 100.0), (0.0, 500.0)), np.linspace(0, 500, 11))


def test_the_standard_is_the_mean_of_the_scans_each_on_its_own_scale():
    one = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    two = [100, 140, 140, 140, 140, 150, 150, 150, 150, 190, 200]
    expected = (np.array(one) / 5 - 1 + (np.array(two) - 100) / 50 - 1) / 2
    np.testing.assert_allclose(nyul.standard([one, two]), expected, atol=1e-6)
    assert nyul.standard([one, two]) == nyul.standard([two, one])
    assert nyul.standard([[3] * 11]) is None
    assert nyul.standard([one, [3] * 11]) == nyul.standard([one])


def test_a_scan_is_mapped_as_by_a_plain_interpolation():
    own = np.array([0, 50, 90, 130, 200, 300, 420, 500, 640, 800, 1000.0])
    wanted = np.array([-1, -0.9, -0.7, -0.6, -0.3, -0.1, 0, 0.2, 0.5, 0.8, 1])
    values = np.random.default_rng(0).uniform(-100, 1100, (1, 6, 5, 4)).astype(np.float32)
    np.testing.assert_allclose(nyul.to_standard(values, own, wanted), np.interp(values, own, wanted), atol=1e-6)
    np.testing.assert_allclose(nyul.to_standard(own.reshape(1, 11, 1, 1), own, wanted).ravel(), wanted, atol=1e-6)


numbers = st.lists(st.floats(0, 1, width=32), min_size=9, max_size=9).map(sorted)


@given(numbers, numbers, st.floats(1, 1e5), st.floats(-1e3, 1e3))
def test_any_landmarks_give_a_rising_map_that_is_undone(own, wanted, span, low):
    own = [low, *(low + span * v for v in own), low + span]
    wanted = [-1.0, *(2 * v - 1 for v in wanted), 1.0]
    values = np.linspace(own[0], own[-1], 301, dtype=np.float32).reshape(1, 301, 1, 1)
    there = nyul.to_standard(values, own, wanted)
    assert (np.abs(there) <= 1).all()
    assert (np.diff(there.ravel()) >= 0).all()
    # float32 costs 6e-8 of a number; a slope is at most a thousand times that of the line from end to end
    lost = 6e-8 * 1000 * max(1, abs(low) / span + 1)
    assert (there.ravel()[0], there.ravel()[-1]) == pytest.approx((-1, 1), abs=2 * lost)
    np.testing.assert_allclose(nyul.from_standard(there, own, wanted), values, rtol=0, atol=4 * span * lost)


def test_contrasts_become_alike():
    scans = [head(contrast, seed) for seed, contrast in enumerate(CONTRASTS)]
    fitted = MR.standardized([MR.landmarks_of(scan) for scan in scans])

    def spread(how):
        bodies = [one.array[0][one.foreground] for one in map(how, scans)]
        return max(stats.wasserstein_distance(bodies[0], other) for other in bodies[1:])

    assert spread(fitted) < 0.2 * spread(MR)
    for scan in scans:
        body = fitted(scan)
        quantiles = np.percentile(body.array[0][body.foreground], np.linspace(1, 99, 11))
        np.testing.assert_allclose(quantiles, fitted.landmarks, atol=0.02)


@pytest.mark.parametrize("invert", [False, True])
def test_own_scale_brings_every_value_back(invert):
    how = Preparation(modality="mr", orientation="LPS", percentiles=(0.0, 100.0), foreground=invert, invert=invert)
    how = how.standardized([how.landmarks_of(head(contrast)) for contrast in CONTRASTS])
    scan = head(CONTRASTS[1], seed=5)
    prepared = how(scan)
    state = PreparedState.from_dict(json.loads(json.dumps(prepared.state.to_dict())))
    restored = Preparation.from_dict(json.loads(json.dumps(how.to_dict()))).restore(
        prepared.array, state, own_scale=True, foreground=prepared.foreground if invert else None
    )
    inside = np.linalg.norm(np.indices((24, 24, 24)).reshape(3, -1).T - 11.5, axis=1).reshape(24, 24, 24) < 7
    np.testing.assert_allclose(restored.array[0][inside], scan.array[0][inside], atol=0.05)
    np.testing.assert_allclose(restored.affine, scan.affine)


def test_a_scan_of_two_values_and_a_constant_plane():
    two = Volume(np.where(np.indices((12, 12, 12))[0] % 6 > 2, 500, 0)[None].astype(np.float32), AFFINE)
    how = MR.standardized([MR.landmarks_of(head(CONTRASTS[0]))])
    assert set(np.unique(how(two).array)) == {-1, 1}
    plane = Volume(np.full((1, 8, 8), 3, np.float32), np.eye(4))
    assert (how(plane).array == -1).all()
    assert how(plane).state.landmarks == ()


def test_only_mr_is_standardized():
    ct = Preparation(modality="ct")
    assert ct.standardized([range(11)]) is ct
    assert MR.standardized([]).landmarks is None
    for wrong in ([-1, 1], [0] * 11, [-1, *[0.5, 0.4] * 4, 0, 1], [-1, *[np.nan] * 9, 1]):
        with pytest.raises(ConfigError, match="landmarks"):
            Preparation(modality="mr", landmarks=tuple(wrong))
