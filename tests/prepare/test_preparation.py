"""Preparing and restoring are inverse: for oblique, reversed, anisotropic and flat scans, every value and voxel."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medcycle.errors import ConfigError, ModelError, ScanError
from medcycle.prepare import Preparation, PreparedState
from medcycle.volume import Volume

FEW = settings(max_examples=30, deadline=None)


def affine_of(angles, axes, signs, spacing, origin=(3.0, -40.0, 12.5)):
    """Voxel axes along the (signed) anatomical axes given, turned a little."""
    directions = np.zeros((3, 3))
    for column, (row, sign) in enumerate(zip(axes, signs, strict=True)):
        directions[row, column] = sign
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ directions @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def world(affine, space):
    """RAS+ millimetres of every voxel, shape (3, *space): a plain oracle for geometry."""
    return np.tensordot(affine[:3, :3], np.indices(space), axes=1) + affine[:3, 3].reshape(3, 1, 1, 1)


@st.composite
def scans(draw, unit="HU", ndim=3):
    """A Volume with random values and any orientation, tilt and voxel size."""
    space = tuple(draw(st.integers(1, 9)) for _ in range(ndim))
    angles = [draw(st.floats(-35, 35)) for _ in range(3)]
    axes = draw(st.sampled_from(list(itertools.permutations(range(3)))))
    signs = [draw(st.sampled_from((-1, 1))) for _ in range(3)]
    spacing = [draw(st.floats(0.3, 6)) for _ in range(ndim)] + [1.0] * (3 - ndim)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    low, high = {"HU": (-1024, 3071), "a.u.": (-50, 4000), "uint8": (0, 255), "uint16": (0, 65535)}[unit]
    values = rng.uniform(low, high, (draw(st.integers(1, 2)), *space))
    return Volume(np.rint(values) if unit != "a.u." else values, affine_of(angles, axes, signs, spacing), unit)


def assert_same(restored, volume, tolerance):
    assert restored.space == volume.space
    assert restored.channels == volume.channels
    assert restored.unit == volume.unit
    np.testing.assert_allclose(restored.affine, volume.affine, rtol=0, atol=1e-4)
    np.testing.assert_allclose(restored.array, volume.array, rtol=0, atol=tolerance)


@FEW
@given(scans(), st.sampled_from(("RAS", "LPS", "SAR", "PIR", None)))
def test_ct_round_trip_is_exact(volume, orientation):
    preparation = Preparation(orientation=orientation, foreground=False)
    prepared = preparation(volume)
    assert prepared.array.dtype == np.float32
    assert prepared.array.min() >= -1
    assert prepared.array.max() <= 1
    assert prepared.state.clipped == 0
    assert_same(preparation.restore(prepared.array, prepared.state), volume, 0.01)  # HU
    assert_same(preparation.restore(prepared.array, prepared.state, own_scale=True), volume, 0.01)


@FEW
@given(scans(ndim=2), st.sampled_from((None, (2.0, 2.0, 2.0))))
def test_flat_ct_round_trip(volume, spacing):
    preparation = Preparation(foreground=False, spacing=spacing)
    prepared = preparation(volume)
    assert prepared.array.shape[3] == 1
    restored = preparation.restore(prepared.array, prepared.state)
    if spacing is None:
        assert prepared.array.shape[1:3] == volume.space
        assert_same(restored, volume, 0.01)
    else:
        assert restored.space == volume.space
        np.testing.assert_allclose(restored.affine, volume.affine, atol=1e-4)


@FEW
@given(scans(unit="a.u."))
def test_mr_round_trip_with_whole_range(volume):
    preparation = Preparation(modality="mr", percentiles=(0, 100), foreground=False)
    if np.ptp(volume.array) == 0:
        return
    prepared = preparation(volume)
    low, high = prepared.state.scale  # of the body, which may leave out what is darkest
    within = volume.replace(array=volume.array.clip(low, high))
    assert_same(preparation.restore(prepared.array, prepared.state, own_scale=True), within, 0.01)


@FEW
@given(st.sampled_from(("uint8", "uint16")).flatmap(lambda unit: scans(unit=unit, ndim=2)))
def test_pictures_come_back_to_the_last_bit(volume):
    preparation = Preparation(modality="image", spacing=(5.0, 5.0, 5.0))  # pictures are never resampled
    prepared = preparation(volume)
    assert prepared.array.shape == (*volume.array.shape, 1)
    restored = preparation.fitted([prepared.state.scale]).restore(prepared.array, prepared.state)
    assert_same(restored, volume, 0)
    np.testing.assert_array_equal(
        preparation.restore(prepared.array, prepared.state, own_scale=True).array, volume.array
    )


@FEW
@given(
    st.lists(st.floats(-30, 30), min_size=3, max_size=3),
    st.sampled_from(list(itertools.permutations(range(3)))),
    st.tuples(*[st.sampled_from((-1, 1))] * 3),
    st.lists(st.floats(0.7, 4), min_size=3, max_size=3),
    st.sampled_from(((1.0, 1.0, 1.0), (2.5, 2.5, 2.5), (1.5, None, 3.0), (1.2, 0.8))),
)
def test_every_voxel_keeps_its_place_in_the_patient(angles, axes, signs, spacing, wanted):
    # An image whose value is its own position along a slanted direction tells where each voxel was taken from.
    affine = affine_of(angles, axes, signs, spacing)
    slant = np.array([0.5, 0.3, 0.4]).reshape(3, 1, 1, 1)
    volume = Volume(10 * (slant * world(affine, (12, 13, 11))).sum(axis=0)[None], affine, "HU")
    preparation = Preparation(spacing=wanted, foreground=False)
    prepared = preparation(volume)
    state = prepared.state
    grid = Volume(prepared.array, state.prepared_affine)
    assert grid.orientation == "RAS"
    turned = Preparation(foreground=False)(volume).state
    for axis, mm in enumerate((*wanted, None)[:3]):
        kept = np.linalg.norm(turned.prepared_affine[:3, axis])
        assert grid.spacing[axis] == pytest.approx(kept if mm is None else mm, rel=1e-3)  # nearer is left alone
    truth = 10 * (slant * world(state.prepared_affine, state.prepared_space)).sum(axis=0)
    found = (prepared.array[0] + 1) / 2 * 4095 - 1024
    # smoothing bends the ramp within 3 sigma of the edges; sigma = sqrt((new^2 - old^2) / (8 ln 2))
    old = np.linalg.norm(turned.prepared_affine[:3, :3], axis=0)
    edges = [
        int(np.ceil(3 * np.sqrt(max(n**2 - o**2, 0) / (8 * np.log(2))) / n)) + 1
        for n, o in zip(grid.spacing, old, strict=True)
    ]
    inner = tuple(slice(e, n - e) for e, n in zip(edges, state.prepared_space, strict=True))
    np.testing.assert_allclose(found[inner], truth[inner], rtol=0, atol=0.05)

    restored = preparation.restore(prepared.array, state)
    assert restored.space == volume.space
    np.testing.assert_allclose(restored.affine, volume.affine, rtol=0, atol=1e-4)
    exact = preparation.restore((2 * (truth[None] + 1024) / 4095 - 1).astype(np.float32), state).array[0]
    middle = (slice(4, -4),) * 3
    np.testing.assert_allclose(exact[middle], volume.array[0][middle], rtol=0, atol=0.05)


def test_nearly_equal_spacing_is_not_resampled():
    affine = np.diag([0.9999998, 1.0000003, 1.0, 1])
    volume = Volume(np.random.default_rng(0).uniform(-900, 900, (1, 7, 6, 5)), affine, "HU")
    prepared = Preparation(spacing=(1.0, 1.0, 1.0), foreground=False)(volume)
    np.testing.assert_array_equal(prepared.state.prepared_affine, affine)


def test_coarser_axes_are_smoothed_against_aliasing():
    stripes = np.where(np.arange(64) % 2, 1000.0, -1000.0) * np.ones((1, 4, 4, 1))
    coarse = Preparation(spacing=(None, None, 4.0), foreground=False)
    prepared = coarse(Volume(stripes, np.eye(4), "HU"))
    values = coarse.restore(prepared.array, prepared.state, own_scale=True).array
    assert np.abs(values[..., 8:-8]).max() < 30  # plain sampling of every 4th voxel gives -1000 everywhere
    assert prepared.array.shape == (1, 4, 4, 17)


def test_restored_voxels_outside_the_prepared_field_of_view_are_air():
    volume = Volume(np.full((1, 8, 8, 8), 40.0) + np.arange(8), np.diag([1.0, 1.0, 1.0, 1.0]), "HU")
    preparation = Preparation(foreground=False)
    state = preparation(volume).state
    small = PreparedState(**{**vars(state), "prepared_space": (8, 8, 4), "prepared_affine": np.diag([1.0, 1, 1, 1])})
    restored = preparation.restore(np.zeros((1, 8, 8, 4), np.float32), small).array[0]
    np.testing.assert_allclose(restored[..., :4], 1023.5)
    np.testing.assert_array_equal(restored[..., 4:], -1000)


def test_foreground_is_applied_both_ways():
    array = np.full((1, 24, 24, 24), -990.0)
    array[:, 6:18, 6:18, 6:18] = 50
    preparation = Preparation(foreground=True)
    prepared = preparation(Volume(array, np.diag([2.0, 2.0, 2.0, 1]), "HU"))
    assert prepared.foreground[6:18, 6:18, 6:18].all()
    assert not prepared.foreground[:4].any()
    assert (prepared.array[:, ~prepared.foreground] == -1).all()
    restored = preparation.restore(np.zeros_like(prepared.array), prepared.state, foreground=prepared.foreground)
    assert (restored.array[:, ~prepared.foreground] == -1000).all()
    assert (restored.array[:, prepared.foreground] == 1023.5).all()
    narrow = Preparation(window=(-200.0, 300.0))
    air = narrow.restore(np.zeros_like(prepared.array), prepared.state, foreground=prepared.foreground)
    assert air.array.min() == -200  # air is not in this window: its lower end


def test_percentiles_of_the_foreground_set_the_mr_scale_and_the_clipped_share():
    rng = np.random.default_rng(1)
    array = np.zeros((1, 30, 30, 30))
    array[:, 5:25, 5:25, 5:25] = rng.uniform(300, 900, (1, 20, 20, 20))
    volume = Volume(array, np.diag([2.0, 2.0, 2.0, 1]), "a.u.")
    prepared = Preparation(modality="mr", percentiles=(10, 90))(volume)
    expected = np.percentile(array[:, prepared.foreground], (10, 90))
    assert prepared.state.scale == pytest.approx(expected, rel=1e-5)
    outside = (array[0] < expected[0]) | (array[0] > expected[1])
    assert prepared.state.clipped == pytest.approx(outside[prepared.foreground].mean(), abs=1e-6)


def test_another_domains_scan_is_restored_in_the_fitted_scale():
    rng = np.random.default_rng(2)
    source = Preparation(modality="ct")(Volume(rng.uniform(-900, 900, (1, 9, 8, 7)), np.diag([-1.0, -1, 2, 1]), "HU"))
    target = Preparation(modality="mr").fitted([(10, 500), (0, 900), (20, 2000)])
    assert target.scale == (10.0, 900.0)
    restored = target.restore(np.ones_like(source.array), source.state)
    assert restored.unit == "a.u."
    assert restored.space == (9, 8, 7)
    assert (restored.array == 900).all()
    with pytest.raises(ModelError, match="no scale"):
        Preparation(modality="mr").restore(source.array, source.state)
    assert Preparation().fitted([]) == Preparation()
    with pytest.raises(ScanError, match="no scan"):
        Preparation(modality="mr").fitted([(3.0, 3.0)])


@pytest.mark.parametrize(
    ("preparation", "unit"),
    [
        (Preparation(), "HU"),
        (Preparation(modality="mr"), "a.u."),
        (Preparation(modality="image"), "uint8"),
        (Preparation(modality="image").fitted([(0, 65535)]), "uint16"),
        (Preparation(modality="image", range=(0, 4095)), "uint16"),
        (Preparation(modality="image", range=(0, 1)), "a.u."),
        (Preparation(modality="image", range=(-5, 200)), "a.u."),
    ],
)
def test_unit(preparation, unit):
    assert preparation.unit() == unit


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_a_constant_scan_is_refused_by_name_but_a_constant_plane_is_air(modality):
    unit = "HU" if modality == "ct" else "a.u."
    scan = Volume(np.full((1, 6, 6, 6), 7.0), np.eye(4), unit, {"path": "somewhere/flat.nii.gz"})
    with pytest.raises(ScanError, match=r"flat\.nii\.gz: every voxel has the value 7"):
        Preparation(modality=modality, foreground=True)(scan)
    for space in ((6, 6), (6, 6, 1)):
        prepared = Preparation(modality=modality, foreground=True)(Volume(np.full((1, *space), 7.0), np.eye(4), unit))
        assert (prepared.array == -1).all()
        restored = Preparation(modality=modality, foreground=True).restore(
            prepared.array, prepared.state, own_scale=True
        )
        assert np.isfinite(restored.array).all()


def test_a_scan_without_a_body_is_refused():
    air = Volume(np.random.default_rng(0).normal(-1000, 5, (1, 8, 8, 8)), np.eye(4), "HU", {"path": "air.nii"})
    with pytest.raises(ScanError, match=r"air\.nii: no body"):
        Preparation(foreground=True)(air)
    assert Preparation(foreground=False)(air).foreground.all()


def test_a_nearly_binary_mr_has_a_scale():
    array = np.zeros((1, 20, 20, 20))
    array[:, 5:15, 5:15, 5:15] = 100
    prepared = Preparation(modality="mr", percentiles=(20, 80))(Volume(array, np.eye(4)))
    assert prepared.state.scale == (0, 100)
    assert np.isfinite(prepared.array).all()


def test_units_that_do_not_fit_are_refused():
    picture = Volume(np.zeros((1, 4, 4)), np.eye(4), "uint8", {"path": "a.png"})
    with pytest.raises(ScanError, match=r"a\.png: a picture \(uint8\) in a CT domain"):
        Preparation()(picture)
    with pytest.raises(ScanError, match=r"prepare\.range"):
        Preparation(modality="image")(Volume(np.zeros((1, 4, 4)), np.eye(4), "a.u."))
    assert (Preparation(modality="image", range=(0, 1))(Volume(np.ones((1, 4, 4)), np.eye(4))).array == 1).all()


def test_arrays_of_another_grid_are_refused():
    prepared = Preparation(foreground=False)(Volume(np.zeros((1, 4, 5, 1)), np.eye(4), "HU"))
    with pytest.raises(ScanError, match=r"an array of \(4, 5, 2\) voxels"):
        Preparation().restore(np.zeros((1, 4, 5, 2), np.float32), prepared.state)
    with pytest.raises(ScanError, match="a foreground"):
        Preparation().restore(prepared.array, prepared.state, foreground=np.ones((4, 4, 1), bool))


@pytest.mark.parametrize(
    "wrong",
    [
        {"modality": "pet"},
        {"orientation": "RAL"},
        {"orientation": "RA"},
        {"orientation": "XYZ"},
        {"spacing": (1.0, 0.0, 1.0)},
        {"spacing": (1.0,)},
        {"window": (100.0, -100.0)},
        {"percentiles": (-1.0, 99.0)},
        {"range": (0.0, float("inf"))},
    ],
)
def test_wrong_values_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Preparation(**wrong)


def test_plain_values_survive_json():
    preparation = Preparation(modality="mr", spacing=(1.0, None, 2.0), scale=(0.5, 9.0), n4=True)
    assert Preparation.from_dict(json.loads(json.dumps(preparation.to_dict()))) == preparation
    with pytest.raises(ModelError, match="nyul"):
        Preparation.from_dict({"nyul": 3})
    state = Preparation()(Volume(np.random.default_rng(0).uniform(-900, 900, (1, 3, 4, 5)), np.eye(4), "HU")).state
    again = PreparedState.from_dict(json.loads(json.dumps(state.to_dict())))
    assert vars(again).keys() == vars(state).keys()
    for key, value in vars(state).items():
        np.testing.assert_array_equal(getattr(again, key), value)
    assert again.ndim == 3


def test_inverted_mr_makes_dark_bone_bright_leaves_air_and_comes_back() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(40) - 20] * 3, indexing="ij")).astype(float)
    radius = np.linalg.norm(grid, axis=0) * 2  # mm
    rng = np.random.default_rng(0)
    array = np.where(radius < 34, 800 + 50 * rng.random(radius.shape), 5 * rng.random(radius.shape))
    bone = (radius > 22) & (radius < 28)
    array[bone] = 30
    volume = Volume(array[np.newaxis], np.diag([2.0, 2.0, 2.0, 1.0]))
    preparation = Preparation(modality="mr", foreground=True, invert=True)
    prepared = preparation(volume)
    assert prepared.array[0][bone].min() > 0.8
    assert prepared.array[0][radius < 20].max() < 0
    assert (prepared.array[0][radius > 36] == -1).all()  # the air in the mask's margin too, not bright as bone
    assert prepared.foreground[radius < 33].all()
    again = preparation.restore(prepared.array, prepared.state, foreground=prepared.foreground, own_scale=True)
    inside = (radius < 33) & (array >= prepared.state.low) & (array <= prepared.state.high)
    np.testing.assert_allclose(again.array[0][inside], array[inside], atol=0.01)
    assert again.array[0][radius > 36].max() == prepared.state.low


def test_inversion_leaves_the_other_modalities_alone_and_needs_the_body() -> None:
    volume = Volume(np.random.default_rng(0).uniform(-900, 900, (1, 6, 7, 8)), np.eye(4), "HU")
    plain, inverted = Preparation(foreground=True)(volume), Preparation(foreground=True, invert=True)(volume)
    assert np.array_equal(plain.array, inverted.array)
    with pytest.raises(ConfigError, match="invert needs foreground"):
        Preparation(modality="mr", invert=True)


# --- crop -------------------------------------------------------------------------------------------------------------


def block(space, box, affine=None, unit="HU"):
    """A block of tissue in air: HU, or arbitrary units from 0."""
    air, tissue = (-1000.0, 40.0) if unit == "HU" else (0.0, 500.0)
    array = np.full(space, air) + np.random.default_rng(0).uniform(0, 5, space)
    array[box] += tissue - air + np.arange(array[box].size).reshape(array[box].shape) % 300
    return Volume(np.rint(array)[None], np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine, unit)


def test_a_crop_is_the_body_and_its_margin_in_place():
    box = (slice(20, 36), slice(4, 30), slice(10, 22))
    volume = block((50, 40, 30), box)
    prepared = Preparation(crop=8.0)(volume)
    whole = Preparation()(volume)
    body = [np.flatnonzero(whole.foreground.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    expected = tuple(slice(max(0, rows[0] - 4), rows[-1] + 5) for rows in body)  # 8 mm are 4 voxels
    assert expected[1].start == 0  # the margin ends with the frame
    np.testing.assert_array_equal(prepared.array[0], whole.array[0][expected])
    np.testing.assert_array_equal(prepared.foreground, whole.foreground[expected])
    first = np.array([part.start for part in expected])
    np.testing.assert_allclose(prepared.state.prepared_affine[:3, 3], volume.affine[:3, :3] @ first)
    restored = Preparation(crop=8.0).restore(prepared.array, prepared.state)
    assert restored.space == volume.space
    np.testing.assert_allclose(restored.array[0][expected], volume.array[0][expected], atol=1e-3)
    outside = np.ones(volume.space, bool)
    outside[expected] = False
    assert (restored.array[0][outside] == -1000).all()


@FEW
@given(
    st.sampled_from(list(itertools.permutations(range(3)))),
    st.lists(st.sampled_from((-1, 1)), min_size=3, max_size=3),
    st.sampled_from(("RAS", "LPS", "SAR", None)),
    st.sampled_from(((2.0, 2.0, 2.0), (1.0, 2.5, 4.0))),
    st.sampled_from((0.0, 6.0)),
    st.sampled_from(("HU", "a.u.")),
)
def test_cropped_scans_come_back_to_their_frame(axes, signs, orientation, spacing, margin, unit):
    affine = affine_of((3.0, -4.0, 5.0), axes, signs, spacing)
    box = (slice(9, 22), slice(6, 20), slice(5, 15))
    volume = block((30, 26, 20), box, affine, unit)
    modality = "ct" if unit == "HU" else "mr"
    preparation = Preparation(modality=modality, orientation=orientation, crop=margin, percentiles=(0.0, 100.0))
    prepared = preparation(volume)
    assert prepared.array[0].size < 0.7 * volume.array[0].size
    restored = preparation.restore(prepared.array, prepared.state, own_scale=True)
    assert restored.space == volume.space
    np.testing.assert_allclose(restored.affine, volume.affine, atol=1e-6)
    np.testing.assert_allclose(restored.array[0][box], volume.array[0][box], atol=0.01)
    np.testing.assert_allclose(restored.array, volume.array, atol=6)  # outside the box it is air, without its noise


def test_a_crop_with_another_spacing_comes_back_too():
    box = (slice(20, 36), slice(8, 30), slice(10, 22))
    volume = block((50, 40, 30), box)
    volume.array[0][box] = 40
    preparation = Preparation(crop=10.0, spacing=(3.0, 3.0, 3.0), foreground=True)
    prepared = preparation(volume)
    assert prepared.array.size < 0.6 * 50 * 40 * 30 * 8 / 27
    restored = preparation.restore(prepared.array, prepared.state, foreground=prepared.foreground)
    inner = tuple(slice(part.start + 3, part.stop - 3) for part in box)
    np.testing.assert_allclose(restored.array[0][inner], 40, atol=1)
    assert (restored.array[0][:10] == -1000).all()


def test_pictures_and_scans_without_a_body_are_not_cropped():
    picture = Volume(np.arange(64, dtype=np.float32).reshape(1, 8, 8), np.eye(4), "uint8")
    assert Preparation(modality="image", crop=0.0)(picture).array.shape == (1, 8, 8, 1)
    plane = Volume(np.full((1, 9, 7), -1000.0), np.eye(4), "HU")
    assert Preparation(crop=0.0)(plane).array.shape == (1, 9, 7, 1)


@pytest.mark.parametrize("wrong", [{"crop": -1.0}, {"crop": float("nan")}, {"threshold": float("inf")}])
def test_wrong_crops_and_thresholds_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Preparation(**wrong)


def test_a_ct_that_says_so_is_no_mr():
    volume = Volume(np.zeros((1, 4, 4, 4), np.float32), np.eye(4), "HU", {"path": "scans/ct1"})
    with pytest.raises(ScanError, match=r"scans/ct1: a CT .*where an MR is wanted"):
        Preparation(modality="mr")(volume)


@FEW
@given(scans(unit="HU"))
def test_stretched_soft_tissue_comes_back(volume):
    plain = Preparation(orientation=None, window=(-1024, 3071), stretch=(-250, 250))
    within = volume.replace(array=volume.array.clip(-1024, 3071))
    prepared = plain(within)
    assert_same(plain.restore(prepared.array, prepared.state), within, 0.01)
    order = np.argsort(within.array, axis=None)
    assert (np.diff(prepared.array.reshape(-1)[order]) >= 0).all()


def test_stretching_has_its_knots_where_it_says():
    hu = np.array([-1024, -637, -250, 0, 250, 1149, 2048], np.float32).reshape(1, 7, 1, 1)
    found = Preparation(window=(-1024, 2048), stretch=(-250, 250))(Volume(hu, np.eye(4), "HU")).array
    np.testing.assert_allclose(found.ravel(), [-1, -0.8, -0.6, -0.05, 0.5, 0.75, 1], atol=1e-6)
    with pytest.raises(ConfigError, match="inside the window"):
        Preparation(window=(-200, 2048), stretch=(-250, 250))


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("floor", [-1.0, -0.4, 0.3])
def test_a_floor_sets_the_body_apart_from_air_and_comes_back(invert: bool, floor: float) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(32) - 16] * 3, indexing="ij")).astype(float)
    radius = np.linalg.norm(grid, axis=0) * 2  # mm
    rng = np.random.default_rng(0)
    array = np.where(radius < 26, 300 + 500 * rng.random(radius.shape), 5 * rng.random(radius.shape))
    volume = Volume(array[np.newaxis], np.diag([2.0, 2.0, 2.0, 1.0]))
    plain = Preparation(modality="mr", foreground=True, invert=invert)(volume)
    preparation = Preparation(modality="mr", foreground=True, invert=invert, floor=floor)
    prepared = preparation(volume)
    body = prepared.foreground
    assert (prepared.array[0][~body] == -1).all()
    assert (prepared.array[0][body] > -1).all()
    expected = floor + (1 - floor) * (plain.array[0][body] + 1) / 2
    np.testing.assert_allclose(prepared.array[0][body], expected, atol=1e-5)
    again = preparation.restore(prepared.array, prepared.state, foreground=body, own_scale=True)
    inside = (radius < 22) & (array >= prepared.state.low) & (array <= prepared.state.high)
    np.testing.assert_allclose(again.array[0][inside], array[inside], atol=0.05)
    again = Preparation.from_dict(json.loads(json.dumps(preparation.to_dict())))
    assert again == preparation


def test_a_floor_needs_the_body_and_a_number_below_one() -> None:
    with pytest.raises(ConfigError, match="floor needs foreground"):
        Preparation(modality="mr", floor=-0.4)
    with pytest.raises(ConfigError, match=r"floor 1\.0"):
        Preparation(modality="mr", floor=1.0, foreground=True)


@pytest.mark.parametrize("stretch", [None, (-250.0, 250.0)])
def test_up_to_the_level_of_air_a_ct_is_at_most_minus_300_hu(stretch: tuple[float, float] | None) -> None:
    preparation = Preparation(modality="ct", window=(-1024, 2048), stretch=stretch)
    level = np.full((1, 1, 1, 1), preparation.air_level, dtype=np.float32)
    assert preparation.in_units(level).item() == pytest.approx(-300, abs=0.5)


def test_the_level_of_air_lies_between_air_and_the_floor_of_an_mr() -> None:
    assert Preparation(modality="mr", foreground=True, floor=-0.4).air_level == pytest.approx(-0.7)
    assert -1 < Preparation(modality="mr").air_level < -0.8


def test_bright_tissue_comes_back_bright_where_nothing_inside_is_air() -> None:
    inverted = Preparation(modality="mr", foreground=True, invert=True).fitted([(100.0, 900.0)])
    assert inverted.in_units(np.full((1, 1, 1, 1), -1, np.float32)).item() == 900


@pytest.mark.parametrize("nyul", [False, True])
@pytest.mark.parametrize("floor", [-1.0, -0.4])
def test_a_sinus_that_was_kept_as_air_comes_back_dark(floor: float, nyul: bool) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(32) - 16] * 3, indexing="ij")).astype(float)
    radius = np.linalg.norm(grid, axis=0) * 2  # mm
    rng = np.random.default_rng(0)
    tissue = (radius < 26) & (radius > 10)
    array = np.where(tissue, 300 + 500 * rng.random(radius.shape), 20 * rng.random(radius.shape))
    preparation = Preparation(modality="mr", foreground=True, invert=True, cavities=True, floor=floor)
    volume = Volume(array[np.newaxis], np.diag([2.0, 2.0, 2.0, 1.0]))
    if nyul:
        preparation = preparation.standardized([preparation.landmarks_of(volume)])
    prepared = preparation(volume)
    sinus = prepared.foreground & (radius < 6)
    assert (prepared.array[0][sinus] == -1).all()
    again = preparation.restore(prepared.array, prepared.state, foreground=prepared.foreground, own_scale=True)
    assert (again.array[0][sinus] == prepared.state.low).all()
    fitted = preparation.fitted([(100.0, 900.0)])
    found = fitted.restore(prepared.array, prepared.state, foreground=prepared.foreground)
    assert (found.array[0][sinus] == 100).all()
    assert (fitted.in_units(prepared.array)[0][sinus] == 100).all()
    assert np.median(found.array[0][tissue & prepared.foreground]) > 300
    assert fitted.restored_range() == (100, 900)
