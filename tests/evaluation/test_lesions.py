from __future__ import annotations

import math

import numpy as np
import pytest

from medcycle.errors import ScanError
from medcycle.evaluation.lesions import Contrast, _local_contrast, invented_lesions, lesion_contrasts

SHAPE, SPACING = (34, 36, 26), (2.5, 2.5, 3.0)
BALLS = (((8, 9, 7), 6.0), ((23, 25, 15), 12.0), ((9, 27, 18), 8.0))  # voxels, mm


def distance(
    centre: tuple[int, ...], spacing: tuple[float, ...] = SPACING, shape: tuple[int, ...] = SHAPE
) -> np.ndarray:
    """From a voxel to all others, mm."""
    grids = np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij")
    return np.sqrt(sum(((g - c) * s) ** 2 for g, c, s in zip(grids, centre, spacing, strict=True)))


@pytest.fixture
def healthy() -> np.ndarray:
    """Tissue of 30 HU with structure and noise."""
    rng = np.random.default_rng(0)
    return 30 + 12 * rng.standard_normal(SHAPE) + 25 * np.sin(np.arange(SHAPE[0]) / 4)[:, None, None]


@pytest.fixture
def numbers() -> np.ndarray:
    found = np.zeros(SHAPE, np.int16)
    for number, (centre, radius) in enumerate(BALLS, 1):
        found[distance(centre) <= radius] = number
    return found


@pytest.fixture
def tissue() -> np.ndarray:
    return np.ones(SHAPE)


def shares(prediction: np.ndarray, reference: np.ndarray, healthy: np.ndarray, numbers: np.ndarray) -> float:
    found = lesion_contrasts(prediction, reference, numbers, np.ones(SHAPE), SPACING, healthy)
    assert sorted(found) == [1, 2, 3]
    return sum(contrast.seen for contrast in found.values()) / len(found)


@pytest.mark.parametrize("hu", [-25.0, 40.0])
def test_an_oracle_keeps_all_and_invents_none_and_an_eraser_keeps_none(healthy, numbers, tissue, hu) -> None:
    ill = healthy + hu * (numbers > 0)
    assert shares(ill, ill, healthy, numbers) == 1
    assert shares(healthy, ill, healthy, numbers) == 0
    assert invented_lesions(healthy, healthy, tissue, SPACING, hu) == []
    # A shift of everything and noise of the model's own change neither.
    other = np.random.default_rng(1).standard_normal(SHAPE)
    assert shares(ill + 20 + 10 * other, ill, healthy, numbers) == 1
    assert shares(healthy + 20 + 10 * other, ill, healthy, numbers) == 0
    assert invented_lesions(healthy + 20 + 10 * other, healthy, tissue, SPACING, hu) == []
    # One that is inverted is not kept, nor one of less than half its contrast.
    assert shares(healthy - hu * (numbers > 0), ill, healthy, numbers) == 0
    assert shares(healthy + 0.45 * hu * (numbers > 0), ill, healthy, numbers) == 0
    assert shares(healthy + 0.55 * hu * (numbers == 2), ill, healthy, numbers) == pytest.approx(1 / 3)


@pytest.mark.parametrize("hu", [-25.0, 40.0])
def test_every_painted_lesion_is_told_once_where_it_is(healthy, numbers, tissue, hu) -> None:
    blobs = invented_lesions(healthy + hu * (numbers > 0), healthy, tissue, SPACING, hu)
    assert len(blobs) == 3
    for centre, radius in BALLS:
        near = [blob for blob in blobs if distance(centre)[blob.place] < 0.5 * radius]
        assert len(near) == 1
        assert near[0].contrast * hu > 0
        assert abs(near[0].contrast) == pytest.approx(abs(hu), rel=0.15)
        assert near[0].radius == pytest.approx(radius, abs=3)
    assert invented_lesions(healthy + hu * (numbers > 0), healthy, tissue, SPACING, -hu) == []
    assert invented_lesions(healthy + 0.4 * hu * (numbers > 0), healthy, tissue, SPACING, hu) == []


def test_painted_everywhere_is_told(healthy, tissue) -> None:
    grid = np.zeros(SHAPE, bool)
    for i in (6, 16, 26):
        for j in (6, 17, 28):
            grid |= distance((i, j, 12)) <= 7
    assert len(invented_lesions(healthy - 30 * grid, healthy, tissue, SPACING, -30)) == 9


def test_what_is_smaller_than_the_smallest_lesion_or_outside_the_tissue_does_not_count(healthy, tissue) -> None:
    specks = healthy + 40 * (distance((17, 17, 12)) <= 3)
    assert invented_lesions(specks, healthy, tissue, SPACING, 40) == []
    sheet = healthy.copy()
    sheet[17] += 40  # 2.5 mm thick
    assert invented_lesions(sheet, healthy, tissue, SPACING, 40) == []
    away = tissue * (distance((17, 17, 12)) > 15)
    blob = healthy + 40 * (distance((17, 17, 12)) <= 8)
    assert len(invented_lesions(blob, healthy, tissue, SPACING, 40)) == 1
    assert invented_lesions(blob, healthy, away, SPACING, 40) == []
    # Errors outside the tissue do not shine in: bone of 800 HU too much.
    half = tissue * (np.arange(SHAPE[0]) < 20)[:, None, None]
    assert invented_lesions(healthy + 800 * (1 - half), healthy, half, SPACING, 40) == []


@pytest.mark.parametrize("ndim", [2, 3])
def test_local_contrast_is_that_of_a_plain_loop(ndim: int) -> None:
    rng = np.random.default_rng(2)
    shape, step, radius = (17, 19, 15)[:ndim], np.array((2.0, 2.5, 3.0)[:ndim]), 6.0
    image, inside = rng.standard_normal(shape), rng.random(shape) > 0.1
    found = _local_contrast(image, inside, step, radius)
    checked_places = 0
    for place in rng.integers(0, shape, (40, ndim)):
        away = distance(tuple(place), tuple(step), shape)
        ball, shell = away <= radius, (away > radius + step.max()) & (away <= radius + step.max() + 6)
        # The whole ball and shell, as they would be in an endless image.
        endless = distance(tuple(n + 20 for n in place), tuple(step), tuple(n + 40 for n in shape))
        whole_ball = (endless <= radius).sum()
        whole_shell = ((endless > radius + step.max()) & (endless <= radius + step.max() + 6)).sum()
        enough = (ball & inside).sum() >= 0.75 * whole_ball and (shell & inside).sum() >= whole_shell / 3
        if inside[tuple(place)] and enough:
            expected = image[ball & inside].mean() - image[shell & inside].mean()
            assert found[tuple(place)] == pytest.approx(expected, abs=1e-9)
            checked_places += 1
        else:
            assert found[tuple(place)] == -math.inf
    assert 5 < checked_places < 40


def test_contrast_is_the_mean_inside_less_the_mean_around() -> None:
    """A square lesion in a plane: the shell is one voxel away, 6 mm thick, without the other lesion."""
    image, numbers = np.full((21, 21), 10.0), np.zeros((21, 21), int)
    image[9:12, 9:12], numbers[9:12, 9:12] = 50, 1
    for beside in ((8, slice(9, 12)), (12, slice(9, 12)), (slice(9, 12), 8), (slice(9, 12), 12)):
        image[beside] = 30  # within one voxel of the lesion, as blur: neither inside nor around
    image[0:8], numbers[0:8] = 500, 2
    found = lesion_contrasts(2 * image, image, numbers, np.ones_like(image), 3.0)
    assert found[1] == Contrast(40.0, 80.0)
    half = np.ones_like(image)
    half[:, :10] = 0  # no tissue
    image[:, :8] = 90
    assert lesion_contrasts(image, image, numbers, half, 3.0)[1] == Contrast(40.0, 40.0)


def test_seen_is_half_of_the_contrast_with_its_sign() -> None:
    assert [Contrast(30, made).seen for made in (15, 14.9, -30, 90)] == [True, False, False, True]
    assert [Contrast(-30, made).seen for made in (-15, -14.9, 30, -90)] == [True, False, False, True]


def test_what_cannot_be_measured_is_refused(healthy, numbers, tissue) -> None:
    with pytest.raises(ScanError, match=r"differ"):
        lesion_contrasts(healthy, healthy, numbers[1:], tissue, SPACING)
    with pytest.raises(ScanError, match=r"differ"):
        lesion_contrasts(healthy, healthy, numbers, tissue, SPACING, healthy[1:])
    with pytest.raises(ScanError, match=r"lesion 1 has no tissue within 6.0 mm"):
        lesion_contrasts(healthy, healthy, numbers, numbers > 0, SPACING)
    with pytest.raises(ScanError, match=r"the mask is empty"):
        invented_lesions(healthy, healthy, 0 * tissue, SPACING, 30)
    with pytest.raises(ScanError, match=r"expected a lesion's contrast"):
        invented_lesions(healthy, healthy, tissue, SPACING, 0)
