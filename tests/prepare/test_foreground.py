"""The body mask: solid, complete, without specks; on heads with bias and noise, brains without skull, planes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medcycle.prepare import Preparation, find_foreground
from medcycle.prepare.foreground import cavities, without_air_rim
from medcycle.volume import Volume

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


def on_a_table(gap, curved=False, thick=6.0, spacing=(3.0, 3.0, 4.0), shape=(100, 100, 30)):
    """(hu, body, table): a head of 160 x 200 mm with skull, sinus and ears, `gap` mm from a table top with rails, or
    from a curved head holder.
    """
    x, y, z = (s * (i - n / 2) for s, i, n in zip(spacing, np.indices(shape).astype(float), shape, strict=True))
    radius = (x / 80) ** 2 + (y / 100) ** 2
    hu = np.full(shape, -1000.0)
    hu[radius < 1] = 40
    hu[(radius < 0.9) & (radius > 0.75)] = 1000
    body = radius < 1
    hu[(np.abs(x) < 10) & (np.abs(y - 60) < 15)] = -1000
    ears = (np.abs(np.abs(x) - 88) < 12) & (np.abs(y) < 3) & (np.abs(z) < 30) & ~body
    hu[ears] = 0
    distance = np.hypot(x, y) - 100 if curved else -y - 100
    table = (distance > gap) & (distance < gap + thick) & (y < -20 if curved else np.abs(x) < 140)
    if not curved:
        table |= (np.abs(np.abs(x) - 130) < 10) & (distance > gap) & (distance < gap + 20)
    body = body | ears
    hu[table & ~body] = 200
    hu += np.random.default_rng(0).normal(0, 20, shape)
    return hu.astype(np.float32)[None], body, table & ~body


@pytest.mark.parametrize(
    "settings",
    [
        {"gap": 12},
        {"gap": 0},
        {"gap": -4, "thick": 10},  # the head sinks in
        {"gap": 12, "curved": True},
        {"gap": 0, "curved": True},
        {"gap": 0, "shape": (100, 100, 1)},
        {"gap": 0, "spacing": (0.8, 0.8, 5.0), "shape": (360, 360, 6)},
    ],
)
def test_ct_tables_and_head_holders_are_left_out(settings):
    hu, body, table = on_a_table(**settings)
    spacing = settings.get("spacing", (3.0, 3.0, 4.0))
    affine = np.diag([*spacing, 1.0])
    mask = find_foreground(hu, affine, "ct")
    assert mask[body].mean() > 0.999  # ears too
    assert mask[table].mean() < 0.15  # of one that touches, the margin of the skin
    far = ndimage.distance_transform_edt(~body, sampling=spacing) > 13
    assert not mask[far].any()
    assert dice(mask, ndimage.binary_fill_holes(body)) > 0.95
    # turned on its side, from the other end: the same
    turned = np.array([[0, 0, spacing[0], 0], [0, -spacing[1], 0, 0], [spacing[2], 0, 0, 0], [0, 0, 0, 1.0]])
    other = find_foreground(np.ascontiguousarray(hu.transpose(0, 3, 2, 1)[:, :, ::-1]), turned, "ct")
    assert dice(other[:, ::-1].transpose(2, 1, 0), mask) > 0.99


def test_a_chest_with_wide_lungs_and_an_empty_skull_keep_their_walls():
    for radii, wall in (((150, 100), 12.0), ((80, 100), 6.0)):  # thin walls round air, as of lungs and skull phantoms
        x, y, _ = (4.0 * (i - n / 2) for i, n in zip(np.indices((90, 70, 20)).astype(float), (90, 70, 20), strict=True))
        outer = (x / radii[0]) ** 2 + (y / radii[1]) ** 2 < 1
        inner = (x / (radii[0] - wall)) ** 2 + (y / (radii[1] - wall)) ** 2 < 1
        heart = x**2 + y**2 < 30**2
        hu = np.where(heart | (outer & ~inner), 100, np.where(inner, -850, -1000)).astype(np.float32)[None]
        mask = find_foreground(hu, np.diag([4.0, 4.0, 4.0, 1.0]), "ct")
        assert mask[outer & ~inner].mean() > 0.99
        assert mask[inner].mean() > 0.99


def test_a_threshold_of_ones_own(head):
    labels, solid = head
    image = mr(labels, np.random.default_rng(0))
    haze = image + 60 * (np.indices(image.shape)[3] > 40)  # brighter than the dark tissue: no threshold can be found
    own = find_foreground(haze, SPACING, "mr", threshold=200.0)
    assert dice(own, find_foreground(image, SPACING, "mr", threshold=200.0)) > 0.97
    assert own[solid].mean() > 0.95
    assert not find_foreground(image, SPACING, "mr", threshold=5000.0).any()
    fat = np.where(solid, -600, -1000).astype(np.float32)[None]
    assert not find_foreground(fat, SPACING, "ct").any()
    assert find_foreground(fat, SPACING, "ct", threshold=-800.0)[solid].mean() > 0.99
    prepared = Preparation(threshold=-800.0, foreground=True)(Volume(fat, SPACING, "HU"))
    assert prepared.foreground[solid].mean() > 0.99


@pytest.mark.shared_data
def test_a_real_head_phantom_leaves_its_holder(shared_data):
    from medcycle.io import read_volume

    for kernel in ("ct-standard-kernel", "ct-bone-kernel"):
        volume = read_volume(shared_data / "dicom" / kernel)
        mask = find_foreground(volume.array, volume.affine, "ct")
        columns = np.flatnonzero(mask.any(axis=(1, 2))) * volume.spacing[0]
        rows = np.flatnonzero(mask.any(axis=(0, 2))) * volume.spacing[1]
        # the skull is about 135 mm wide and 185 mm long; the holder, 210 mm wide, is cut off by the frame
        assert np.ptp(columns) < 145
        assert np.ptp(rows) < 195
        assert 0.36 < mask.mean() < 0.41  # the hollow inside too
        assert ndimage.label(mask)[1] == 1


@pytest.mark.shared_data
def test_real_brains_are_held_whole(shared_data):
    from medcycle.io import read_volume

    for name in ("T1", "FLAIR"):
        volume = read_volume(shared_data / "open-ms" / "patient07" / f"{name}.nii.gz")
        prepared = Preparation(modality="mr", orientation=None)(volume)
        brain = ndimage.binary_fill_holes(np.abs(volume.array[0]) > 1e-3 * np.ptp(volume.array))
        assert prepared.foreground[brain].mean() > 0.998
        assert dice(prepared.foreground, brain) > 0.94


def test_the_edge_of_the_skin_is_air_where_it_is_mostly_air_and_dark_bone_inside_stays() -> None:
    """A ball with a blurred edge and a dark shell inside: the outline lies near two fifths of the skin's signal."""
    i, j, k = np.meshgrid(*[np.arange(48) - 23.5] * 3, indexing="ij")
    radius = np.sqrt(i**2 + j**2 + k**2)
    signal = np.clip((18.5 - radius) / 3, 0, 1) * 0.6  # from 15.5 to 18.5 voxels of 2 mm the skin fades
    signal[(radius > 8) & (radius < 11)] = 0.05
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    mask = find_foreground(signal[None].astype(np.float32), affine, "mr")
    tight = without_air_rim(mask, signal.astype(np.float32), affine)
    assert (mask & ~tight).any()
    assert tight[radius < 16].all()
    assert not tight[radius > 18].any()


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_cavities_are_air_and_thin_bone_as_dark_is_not(noise: float) -> None:
    i, j, k = np.meshgrid(*[np.arange(64) - 31.5] * 3, indexing="ij")
    radius = np.sqrt(i**2 + j**2 + k**2)
    signal = np.where(radius < 24, 0.6, 0.0)
    signal[(radius > 18) & (radius < 20)] = 0.05  # a skull of 4 mm
    cavity = np.sqrt((i - 4) ** 2 + j**2 + k**2) < 6
    signal[cavity] = 0
    rng = np.random.default_rng(0)
    noisy = np.hypot(signal + noise * rng.standard_normal(signal.shape), noise * rng.standard_normal(signal.shape))
    found = cavities(noisy.astype(np.float32), radius < 24, np.diag([2.0, 2.0, 2.0, 1.0]))
    if not noise:
        assert not found.any()
        return
    assert dice(found, cavity) > 0.75
    assert not found[~cavity].any()
    inverted = Preparation(modality="mr", foreground=True, invert=True, cavities=True)
    prepared = inverted(Volume(noisy[None].astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])))
    assert (prepared.array[0][found] == -1).all()
    assert prepared.foreground[found].all()
