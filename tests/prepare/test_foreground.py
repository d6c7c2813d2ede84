"""The body mask: solid, complete, without specks; on heads with bias and noise, brains without skull, planes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medcycle.prepare import Preparation, find_foreground

SPACING = np.diag([3.0, 3.0, 3.0, 1.0])


def dice(one, two):
    return 2 * (one & two).sum() / (one.sum() + two.sum())


@pytest.fixture(scope="module")
def head():
    """(labels, solid): 1 skin, 2 skull, 3 brain, 4 cerebrospinal fluid, 0 air; a sinus, and an open nose."""
    x, y, z = (np.indices((56, 64, 60)).reshape(3, -1).T - (28, 32, 34)).T.reshape(3, 56, 64, 60)
    radius = np.sqrt((x / 22) ** 2 + (y / 26) ** 2 + (np.minimum(z, 0) / 60 + np.maximum(z, 0) / 22) ** 2)
    labels = np.zeros(x.shape, int)
    for value, limit in ((1, 1), (2, 0.9), (4, 0.8), (3, 0.74)):
        labels[radius < limit] = value
    solid = labels > 0
    labels[(x / 4) ** 2 + ((y - 18) / 4) ** 2 + ((z + 8) / 4) ** 2 < 1] = 0  # sinus
    labels[(np.abs(x) < 2) & (np.abs(z + 14) < 2) & (y > 12)] = 0  # nasal passage, open to the front
    return labels, solid


def mr(labels, rng, noise=0.02, coil=0.0, signal=(0, 0.6, 0.05, 0.8, 0.2)):
    image = ndimage.gaussian_filter(np.array(signal)[labels], 0.5)
    image = image * (1 + coil * np.linspace(-1, 1, labels.shape[1])[None, :, None])
    real, imaginary = noise * rng.standard_normal((2, *labels.shape))
    return (700 * np.hypot(image + real, imaginary)).astype(np.float32)[None]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"noise": 0.08},
        {"coil": 0.6},
        {"signal": (0, 0.4, 0.04, 0.45, 1.0)},  # T2: fluid is brightest
    ],
)
def test_mr_heads_are_held_whole_and_solid(head, settings):
    labels, solid = head
    mask = find_foreground(mr(labels, np.random.default_rng(0), **settings), SPACING, "mr")
    assert mask[labels > 0].mean() > 0.995
    assert mask[solid].mean() > 0.99  # sinuses and nose are body
    grown = ndimage.binary_dilation(solid, iterations=2)
    assert (mask & ~grown).sum() < 0.01 * solid.sum()
    assert ndimage.label(mask)[1] == 1


def test_ct_heads_with_a_headrest(head):
    labels, solid = head
    hu = np.array([-1000, 20, 1100, 35, 8], np.float32)[labels]
    hu[20:24, 2:4, 10:12] = 300  # a cable end: a speck
    hu = hu + np.random.default_rng(0).normal(0, 20, hu.shape).astype(np.float32)
    mask = find_foreground(hu[None], SPACING, "ct")
    assert mask[solid].mean() > 0.995
    assert dice(mask, ndimage.binary_dilation(solid)) > 0.98  # with the margin of one voxel
    assert not mask[20:24, 2:4, 10:12].any()


def test_reoriented_scans_have_the_same_mask(head):
    labels, _ = head
    image = mr(labels, np.random.default_rng(0))
    mask = find_foreground(image, SPACING, "mr")
    turned = np.array([[0, 0, 3.0, 0], [3, 0, 0, 0], [0, -3, 0, 0], [0, 0, 0, 1]])  # j, k, i run to A, S, R: axial is j
    moved = np.ascontiguousarray(image.transpose(0, 2, 3, 1)[:, :, ::-1])
    assert (find_foreground(moved, turned, "mr") == mask.transpose(1, 2, 0)[:, ::-1]).mean() > 0.999


def test_half_millimetre_and_thick_slices_give_the_same_body(head):
    labels, _ = head
    image = mr(labels, np.random.default_rng(0))
    mask = find_foreground(image, SPACING, "mr")
    fine = find_foreground(np.repeat(image, 3, axis=1), np.diag([1.0, 3.0, 3.0, 1]), "mr")
    assert fine.shape == (168, 64, 60)
    assert dice(fine, np.repeat(mask, 3, axis=0)) > 0.96
    thick = find_foreground(image[..., ::2], np.diag([3.0, 3.0, 6.0, 1]), "mr")
    assert dice(thick, mask[..., ::2]) > 0.97


def test_brain_without_skull_and_with_a_background_of_zeros(head):
    labels, _ = head
    brain = np.isin(labels, (3, 4))
    image = mr(labels, np.random.default_rng(0)) * brain
    mask = find_foreground(image, SPACING, "mr")
    assert mask[brain].mean() > 0.995
    assert dice(mask, ndimage.binary_fill_holes(brain)) > 0.9  # the margin of 2 mm counts for the rest


def test_a_plane_is_filled(head):
    labels, _ = head
    plane = mr(labels, np.random.default_rng(0))[..., 34:35]
    mask = find_foreground(plane, np.diag([-3.0, -3.0, 1.0, 1.0]), "mr")
    assert mask[labels[..., 34:35] > 0].mean() > 0.995
    sagittal = np.array([[0, 0, 1.0, 0], [3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 1]])
    found = find_foreground(np.ascontiguousarray(plane), sagittal, "mr")
    assert dice(found, mask) > 0.98


@pytest.mark.parametrize("modality", ["ct", "mr"])
@pytest.mark.parametrize("value", [-1000.0, 0.0, 40.0])
def test_constant_images_have_no_body(modality, value):
    assert not find_foreground(np.full((1, 6, 5, 4), value, np.float32), np.eye(4), modality).any()


def test_a_frame_full_of_body_and_single_bright_voxels():
    rng = np.random.default_rng(0)
    assert find_foreground(rng.normal(40, 5, (1, 9, 9, 9)).astype(np.float32), np.eye(4), "ct").all()
    dots = np.zeros((1, 20, 20, 20), np.float32)
    dots[0, 10, 10, 10] = 5
    assert find_foreground(dots, np.diag([2.0, 2, 2, 1]), "mr")[10, 10, 10]


def test_one_wild_voxel_does_not_move_the_threshold(head):
    labels, solid = head
    image = mr(labels, np.random.default_rng(0))
    image[0, 0, 0, 0], image[0, 1, 0, 0] = -1e6, 1e6
    mask = find_foreground(image, SPACING, "mr")
    assert mask[labels > 0].mean() > 0.995
    assert dice(mask, solid) > 0.9


@pytest.mark.shared_data
def test_real_brains_are_held_whole(shared_data):
    from medcycle.io import read_volume

    for name in ("T1", "FLAIR"):
        volume = read_volume(shared_data / "open-ms" / "patient07" / f"{name}.nii.gz")
        prepared = Preparation(modality="mr", orientation=None)(volume)
        brain = ndimage.binary_fill_holes(np.abs(volume.array[0]) > 1e-3 * np.ptp(volume.array))
        assert prepared.foreground[brain].mean() > 0.998
        assert dice(prepared.foreground, brain) > 0.94
