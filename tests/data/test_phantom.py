from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medcycle.data import Phantom, Tissue, body_mask, make_head
from medcycle.data.shapes import Space, join

SHAPE, SPACING = (64, 64, 48), 3.6


@pytest.fixture(scope="module")
def heads() -> list[np.ndarray]:
    return [make_head(seed, SHAPE, SPACING) for seed in range(4)]


def volume_of(labels: np.ndarray, *tissues: Tissue) -> float:
    """In cubic centimetres."""
    return float(np.isin(labels, tissues).sum()) * SPACING**3 / 1000


def test_a_head_is_a_function_of_its_seed(heads) -> None:
    np.testing.assert_array_equal(make_head(0, SHAPE, SPACING), heads[0])
    assert heads[0].dtype == np.int16
    assert heads[0].shape == SHAPE
    for other in heads[1:]:
        differs = ((heads[0] > 0) != (other > 0)).mean()
        assert 0.01 < differs < 0.2  # another outline, but as much a head


def test_every_tissue_is_there_in_plausible_amounts(heads) -> None:
    for labels in heads:
        assert set(np.unique(labels)) == set(range(12))
        assert 800 < volume_of(labels, Tissue.GREY_MATTER, Tissue.WHITE_MATTER) < 1900
        assert 250 < volume_of(labels, Tissue.CORTICAL_BONE, Tissue.CANCELLOUS_BONE) < 1100
        assert 5 < volume_of(labels, Tissue.EYE) < 20  # two eyes of about 7 ml
        assert 15 < volume_of(labels, Tissue.CAVITY) < 150


def test_the_layers_are_nested(heads) -> None:
    """Air only touches skin (or the cut at the neck), and no brain touches anything but fluid and bone."""
    for labels in heads:
        outer = ndimage.binary_dilation(labels == Tissue.AIR) & (labels != Tissue.AIR)
        deep = np.isin(labels, (Tissue.GREY_MATTER, Tissue.WHITE_MATTER, Tissue.CEREBROSPINAL_FLUID))
        assert not (outer & deep)[:, :, 12:].any()
        skin = np.isin(labels, (Tissue.SKIN, Tissue.CAVITY, Tissue.MUCOSA, Tissue.FAT))[outer]
        assert skin.mean() > 0.97
        cortex = labels == Tissue.GREY_MATTER
        around = ndimage.binary_dilation(cortex) & ~cortex
        near = labels[around & (np.arange(48) > 24)]  # above the skull's base
        assert np.isin(near, (Tissue.SKIN, Tissue.AIR, Tissue.CAVITY)).sum() == 0


def test_the_head_lies_inside_the_grid_except_for_the_neck(heads) -> None:
    for labels in heads:
        body = body_mask(labels)
        assert not body[[0, -1]].any()
        assert not body[:, [0, -1]].any()
        assert not body[:, :, -1].any()
        assert body[:, :, 0].any()
        _, parts = ndimage.label(body)
        assert parts == 1


def test_it_faces_forward_and_up(heads) -> None:
    for labels in heads:
        i, j, k = (labels == Tissue.EYE).nonzero()
        brain = np.argwhere(np.isin(labels, (Tissue.GREY_MATTER, Tissue.WHITE_MATTER))).mean(0)
        assert j.mean() > brain[1] + 35 / SPACING  # the eyes are in front of the brain
        assert k.mean() < brain[2]  # and under its middle
        assert i.min() < brain[0] < i.max()  # on both sides


def test_the_same_head_on_another_grid() -> None:
    """A grid of half as many voxels, and one shifted by its own centre, show the same anatomy to a voxel's border."""
    fine, coarse = make_head(3, (80, 80, 60), 3.0), make_head(3, (40, 40, 30), 6.0)
    share = [(labels == tissue).mean() for labels in (fine, coarse) for tissue in Tissue]
    np.testing.assert_allclose(share[: len(Tissue)], share[len(Tissue) :], atol=0.006)
    again = make_head(3, (84, 80, 60), 3.0)  # two more voxels on either side
    np.testing.assert_array_equal(again[2:-2], fine)


def test_anatomy_follows_its_parameters() -> None:
    from dataclasses import replace

    phantom = Phantom.draw(np.random.default_rng(1))
    labels = phantom.labels(SHAPE, SPACING)
    thick = replace(phantom, skull=phantom.skull + 3).labels(SHAPE, SPACING)
    bone = (Tissue.CORTICAL_BONE, Tissue.CANCELLOUS_BONE)
    assert volume_of(thick, *bone) > 1.15 * volume_of(labels, *bone)
    np.testing.assert_array_equal(thick > 0, labels > 0)
    wide = replace(phantom, ventricles=2 * phantom.ventricles).labels(SHAPE, SPACING)
    assert volume_of(wide, Tissue.CEREBROSPINAL_FLUID) > volume_of(labels, Tissue.CEREBROSPINAL_FLUID) + 20


def space(scale=(1, 1, 1), angles=(0, 0, 0)) -> Space:
    return Space.of((50, 50, 50), 4.0, scale, angles, (0, 0, 0), 5)


def test_noise_has_zero_mean_unit_variance_and_its_length() -> None:
    for length in (8.0, 16.0):
        field = space().noise(1, length)
        assert abs(field.mean()) < 0.1
        assert abs(field.std() - 1) < 0.1
    rough, smooth = (np.diff(space().noise(1, length), axis=0).std() for length in (8.0, 40.0))
    assert rough > 4 * smooth


def test_distances_to_shapes() -> None:
    here = space()
    ball = here.ellipsoid(0, 10, 20, (30, 30, 30))
    exact = np.sqrt(here.x**2 + (here.y - 10) ** 2 + (here.z - 20) ** 2) - 30
    np.testing.assert_allclose(ball, exact, atol=1e-2)
    both = here.ellipsoid(30, 0, 0, (10, 10, 10)) < 0
    assert ndimage.label(both)[1] == 2  # one on each side
    rod = here.rod((0, -10, 0), (0, 30, 0), 5)
    t = np.clip(here.y, -10, 30)
    np.testing.assert_allclose(rod, np.sqrt(here.x**2 + (here.y - t) ** 2 + here.z**2) - 5, atol=1e-3)
    blended = join(ball, rod, 6)
    assert (blended <= np.minimum(ball, rod) + 1e-5).all()
    assert (blended >= np.minimum(ball, rod) - 1.5 - 1e-3).all()


def test_a_tilt_turns_and_a_scale_stretches() -> None:
    straight, turned = space(), space(angles=(0, 0, np.pi / 2))
    np.testing.assert_allclose(
        np.linalg.norm([straight.x, straight.y, straight.z], axis=0),
        np.linalg.norm([turned.x, turned.y, turned.z], axis=0),
        atol=20,  # the warp is another one
    )
    assert abs(np.corrcoef(turned.x.ravel(), straight.y.ravel())[0, 1]) > 0.99
    large = space(scale=(2, 1, 1))
    assert (large.ellipsoid(0, 0, 0, (20, 20, 20)) < 0).sum() > 1.8 * (
        straight.ellipsoid(0, 0, 0, (20, 20, 20)) < 0
    ).sum()
