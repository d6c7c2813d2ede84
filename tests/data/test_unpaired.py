from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcycle.data import AXES, Augment, UnpairedSampler, check_sizes
from medcycle.errors import ConfigError, ScanError


@dataclass
class FakeScan:
    """A stand-in for PreparedScan; every body voxel tells where it is from."""

    name: str
    array: np.ndarray
    foreground: list[float]
    points: np.ndarray
    path: str = "somewhere.nii.gz"
    state: dict[str, object] = field(default_factory=dict)

    def along(self, axis: int) -> FakeScan:
        """Stored by axis 2, as planes across another, written out plainly."""
        volume = self.array.transpose(1, 2, 3, 0)  # (channel, i, j, k)
        planes = np.stack([volume.take(n, 1 + axis) for n in range(volume.shape[1 + axis])])
        return replace(self, array=planes, foreground=(planes > -1).mean((1, 2, 3)).tolist())


def scan(name: str = "scan", extents=(20, 24, 16), body=(4, 12), channels: int = 1, code: float = 0.5) -> FakeScan:
    """An (i, j, k) scan whose planes body[0]..body[1] hold a block; a voxel's value is code + its plane / 1000."""
    w, h, planes = extents
    array = np.full((planes, channels, w, h), -1, np.float32)
    for plane in range(body[0], body[1] + 1):
        array[plane, :, w // 4 : 3 * w // 4, h // 4 : 3 * h // 4] = code + plane / 1000
    inside = np.argwhere(array[:, 0].transpose(1, 2, 0) > -1)
    points = inside[np.random.default_rng(0).permutation(len(inside))[:256]]
    return FakeScan(name, array, (array > -1).mean((1, 2, 3)).tolist(), points)


def plane_of(sample: np.ndarray, code: float = 0.5) -> int:
    return round((float(sample.max()) - code) * 1000)


SIZES = st.sampled_from([(16, 16), (24, 12), (32, 32), (8, 8, 8), (16, 12, 20)])


@settings(max_examples=40, deadline=None)
@given(
    size=SIZES,
    seed=st.integers(0, 2**31),
    step=st.integers(0, 10**7),
    match=st.booleans(),
    foreground=st.sampled_from([0.0, 0.5, 1.0]),
    flip=st.booleans(),
)
def test_batch_is_a_function_of_seed_step_and_index_alone(size, seed, step, match, foreground, flip) -> None:
    def sampler() -> UnpairedSampler:
        return UnpairedSampler(
            [scan("a"), scan("a2", (18, 22, 13), (2, 9))],
            [scan("b", (22, 20, 30), (10, 20))],
            size=size,
            seed=seed,
            match_position=match,
            foreground=foreground,
            augment=Augment(flip=0.5, rotate=10) if flip else None,
        )

    used, fresh = sampler(), sampler()
    used.batch(step + 1, 2)  # what was drawn before does not matter
    used.batch(0, 6)
    whole = used.batch(step, 4)
    halves = [fresh.batch(step, 4, rank=rank, world=2) for rank in (1, 0)][::-1]
    for domain in (0, 1):
        assert whole[domain].shape == (4, 1, *size)
        assert whole[domain].dtype == np.float32
        np.testing.assert_array_equal(whole[domain], np.concatenate([half[domain] for half in halves]))
        np.testing.assert_array_equal(
            whole[domain][:2], fresh.batch(step, 2)[domain]
        )  # the index decides, not the size


def test_seeds_steps_indices_and_domains_differ() -> None:
    def noisy(name: str) -> FakeScan:
        one = scan(name, (40, 40, 40), (0, 39))
        one.array[:] = np.random.default_rng(1).uniform(-0.9, 1, one.array.shape)
        return one

    same = [noisy("one")]
    sampler = UnpairedSampler(same, same, size=(16, 16), seed=0)
    samples = [*np.concatenate(sampler.batch(0, 4)), *np.concatenate(sampler.batch(1, 4))]
    samples += [*UnpairedSampler(same, same, size=(16, 16), seed=1).batch(0, 4)[0]]
    assert len({sample.tobytes() for sample in samples}) == len(samples)


def test_planes_come_mostly_from_the_body_and_sometimes_from_the_air() -> None:
    sampler = UnpairedSampler([scan()], [scan()], size=(20, 24), foreground=0.8)
    a, b = sampler.batch(0, 600)
    for domain in (a, b):
        empty = np.mean(domain.reshape(600, -1).max(1) == -1)
        # Outside the drawn 80 %, 7 of the 16 planes are empty.
        assert abs(empty - 0.2 * 7 / 16) < 0.035
    shown = {plane_of(sample) for sample in a if sample.max() > -1}
    assert shown == set(range(4, 13))
    always, _ = UnpairedSampler([scan()], [scan()], size=(20, 24), foreground=1.0).batch(0, 200)
    assert (always.reshape(200, -1).max(1) > -1).all()


def test_larger_planes_are_cropped_where_the_body_is() -> None:
    big = scan(extents=(64, 64, 8), body=(1, 6))
    big.array[:, :, :28] = -1  # the body in one corner of the plane
    big.array[:, :, :, :40] = -1
    samples, _ = UnpairedSampler([big], [big], size=(16, 16), foreground=1.0).batch(0, 100)
    assert (samples.reshape(100, -1).max(1) > -1).all()
    assert len({sample.tobytes() for sample in (samples > -1)}) > 30  # at many offsets
    anywhere, _ = UnpairedSampler([big], [big], size=(16, 16), foreground=0.0).batch(0, 100)
    assert (anywhere.reshape(100, -1).max(1) == -1).any()


def test_crops_are_windows_of_the_plane() -> None:
    one = scan(extents=(20, 24, 1), body=(0, 0))
    one.array[:] = np.arange(480, dtype=np.float32).reshape(20, 24) / 480
    samples, _ = UnpairedSampler([one], [one], size=(20, 10)).batch(0, 50)
    starts = set()
    for sample in samples[:, 0]:
        start = round(float(sample[0, 0]) * 480)
        np.testing.assert_array_equal(sample, one.array[0, 0, :, start : start + 10])
        starts.add(start)
    assert min(starts) == 0
    assert max(starts) == 14


def test_small_planes_are_centred_in_air() -> None:
    one = scan(extents=(7, 10, 3), body=(0, 2))
    one.array[:] = 0.25
    sample = UnpairedSampler([one], [one], size=(12, 10)).batch(0, 1)[0][0, 0]
    assert (sample[2:9] == 0.25).all()
    assert (sample[:2] == -1).all()
    assert (sample[9:] == -1).all()


@pytest.mark.parametrize("size", [(20, 24), (8, 8, 1)])
def test_match_position_draws_b_at_the_relative_height_of_a(size) -> None:
    a, b = scan("a", (20, 24, 60), (10, 50), code=0.1), scan("b", (20, 24, 120), (20, 40), code=0.1)
    sampler = UnpairedSampler([a], [b], size=size, foreground=1.0, match_position=True)
    x, y = sampler.batch(0, 300)
    of_a = np.array([(plane_of(s, 0.1) - 10) / 40 for s in x])
    of_b = np.array([(plane_of(s, 0.1) - 20) / 20 for s in y])
    assert of_b.min() >= 0
    assert of_b.max() <= 1
    assert np.abs(of_a - of_b).mean() < 0.06  # the jitter, and steps of 1/20
    assert np.abs(of_a - of_b).max() > 0.05  # there is a jitter
    free = UnpairedSampler([a], [b], size=size, foreground=1.0).batch(0, 300)
    loose = [abs((plane_of(s, 0.1) - 10) / 40 - (plane_of(t, 0.1) - 20) / 20) for s, t in zip(*free, strict=True)]
    assert np.mean(loose) > 0.2


def test_match_position_follows_a_into_the_air() -> None:
    one = scan("a", (20, 24, 60), (20, 40))
    x, y = UnpairedSampler([one], [one], size=(20, 24), foreground=0.0, match_position=True).batch(0, 300)
    empty_a, empty_b = (domain.reshape(300, -1).max(1) == -1 for domain in (x, y))
    assert empty_a.mean() > 0.5
    assert (empty_a == empty_b).mean() > 0.9


def test_patches_are_cut_in_i_j_k_order_round_the_body() -> None:
    one = scan(extents=(12, 14, 16), body=(0, 15))
    i, j, k = np.meshgrid(*(np.arange(n) for n in (12, 14, 16)), indexing="ij")
    volume = (i * 10000 + j * 100 + k).astype(np.float32)
    one.array = np.ascontiguousarray(volume.transpose(2, 0, 1)[:, None])
    patches, _ = UnpairedSampler([one], [one], size=(6, 4, 8), foreground=1.0).batch(0, 100)
    assert patches.shape == (100, 1, 6, 4, 8)
    held = 0
    for patch in patches[:, 0]:
        first = int(patch[0, 0, 0])
        a, b, c = first // 10000, first // 100 % 100, first % 100
        np.testing.assert_array_equal(patch, volume[a : a + 6, b : b + 4, c : c + 8])
        held += any(a <= p < a + 6 and b <= q < b + 4 and c <= r < c + 8 for p, q, r in one.points)
    assert held == 100


@pytest.mark.parametrize(("point", "start"), [((6, 7, 8), (3, 5, 4)), ((0, 13, 15), (0, 10, 8))])
def test_patches_are_centred_on_their_point_and_stay_in_the_volume(point, start) -> None:
    one = scan(extents=(12, 14, 16), body=(0, 15))
    one.array[:] = -1
    one.array[point[2], 0, point[0], point[1]] = 1
    one.points = np.array([point])
    patch = UnpairedSampler([one], [one], size=(6, 4, 8), foreground=1.0).batch(0, 1)[0][0, 0]
    assert tuple(np.argwhere(patch == 1)[0]) == tuple(p - s for p, s in zip(point, start, strict=True))


def test_small_volumes_become_patches_padded_with_air() -> None:
    one = scan(extents=(12, 14, 6), body=(0, 5))
    one.array[:] = 0.5
    patch = UnpairedSampler([one], [one], size=(12, 14, 10)).batch(3, 1)[0][0, 0]
    assert (patch[..., 2:8] == 0.5).all()
    assert (patch[..., :2] == -1).all()
    assert (patch[..., 8:] == -1).all()


def test_channels_are_kept() -> None:
    sampler = UnpairedSampler([scan(channels=3)], [scan(channels=2)], size=(16, 16, 16))
    assert sampler.channels == (3, 2)
    a, b = sampler.batch(0, 1)
    assert a.shape[1] == 3
    assert b.shape[1] == 2


def test_samples_per_epoch() -> None:
    a = [scan(body=(4, 12)), scan(body=(1, 3))]
    b = [scan(body=(0, 4))]
    assert UnpairedSampler(a, b, size=(16, 16)).samples_per_epoch == 12
    assert UnpairedSampler(b, a, size=(16, 16)).samples_per_epoch == 12
    assert UnpairedSampler(a, b, size=(10, 10, 10)).samples_per_epoch == 2 * (2 * 3 * 2)


def test_a_memory_mapped_scan_is_sampled_without_being_changed(tmp_path) -> None:
    one = scan()
    np.save(tmp_path / "scan.npy", one.array)
    before = one.array.copy()
    one.array = np.load(tmp_path / "scan.npy", mmap_mode="r")
    sampler = UnpairedSampler([one], [one], size=(16, 16))
    batch, _ = sampler.batch(0, 4)
    batch[:] = 9
    np.testing.assert_array_equal(np.load(tmp_path / "scan.npy"), before)
    assert sampler.batch(0, 4)[0].max() < 9


def test_augment_gets_each_domain_s_modality() -> None:
    seen = []

    def augment(array, rng, modality):
        seen.append((modality, float(rng.random())))
        return array

    sampler = UnpairedSampler([scan()], [scan()], size=(16, 16), augment=augment, modalities=("mr", "image"))
    sampler.batch(0, 2)
    assert [modality for modality, _ in seen] == ["mr", "image"] * 2
    assert len({draw for _, draw in seen}) == 4


def test_batch_must_divide_among_the_processes() -> None:
    with pytest.raises(ConfigError, match=r"train.batch_size: 3 cannot be shared by 2 processes.*such as 4"):
        UnpairedSampler([scan()], [scan()], size=(16, 16)).batch(0, 3, rank=0, world=2)


def test_a_domain_that_cannot_be_sampled_is_refused() -> None:
    with pytest.raises(ScanError, match=r"domains.b: no scans"):
        UnpairedSampler([scan()], [], size=(16, 16))
    with pytest.raises(ScanError, match=r"domains.a: .*different numbers of channels \(grey has 1, rgb has 3\)"):
        UnpairedSampler([scan("grey"), scan("rgb", channels=3)], [scan()], size=(16, 16))
    hollow = scan()
    hollow.array[:] = -1
    hollow.foreground = [0.0] * 16
    with pytest.raises(ScanError, match=r"domains.b: no plane"):
        UnpairedSampler([scan()], [hollow], size=(16, 16))


@pytest.mark.parametrize(
    ("size", "axes", "found"),
    [
        ((256, 20), "axial", r"thin: prepared axial planes of 20 x 24 .* along i\. .*at most \[40, 20\]"),
        ((20, 64), "sagittal", r"sagittal planes of 20 x 24 voxels.*along k\. .*at most \[20, 48\]"),
        ((16, 16, 64), "axial", r"volume of 20 x 24 x 16 .*along k\. .*at most \[16, 16, 32\]"),
    ],
)
def test_scans_thinner_than_half_the_sample_are_named(size, axes, found) -> None:
    with pytest.raises(ScanError, match=found):
        check_sizes([scan("thin")], size, axes)
    with pytest.raises(ScanError, match=r"thin \(and 1 more scans like it\)"):
        UnpairedSampler([scan("thin"), scan("too")], [scan()], size=size, axes=axes)


def test_half_the_size_is_enough() -> None:
    check_sizes([scan(extents=(20, 24, 16))], (40, 48))
    check_sizes([scan(extents=(20, 24, 16))], (40, 48, 32))
    assert AXES == {"sagittal": 0, "coronal": 1, "axial": 2}


# -- neighbouring planes as channels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [1, 2])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sample_holds_the_planes_on_either_side_and_the_ends_repeat(context, channels) -> None:
    one = scan(extents=(20, 24, 7), body=(0, 6), channels=channels)
    one.array[:] = np.arange(7)[:, None, None, None] / 10 + np.arange(channels)[:, None, None] / 100
    deep = (2 * context + 1) * channels
    sampler = UnpairedSampler([one], [one], size=(20, 24), context=context)
    assert sampler.channels == (deep, deep)
    seen = set()
    for sample in sampler.batch(0, 100)[0]:
        assert sample.shape == (deep, 20, 24)
        middle = round(float(sample[context * channels, 0, 0]) * 10)
        planes = [min(max(middle + offset, 0), 6) for offset in range(-context, context + 1)]
        expected = [plane / 10 + channel / 100 for plane in planes for channel in range(channels)]
        np.testing.assert_allclose(sample[:, 3, 5], expected, atol=1e-6)
        seen.add(middle)
    assert seen == set(range(7))


def test_all_planes_of_a_sample_are_cropped_and_moved_alike() -> None:
    one = scan(extents=(40, 40, 9), body=(0, 8))
    one.array[:] = np.random.default_rng(0).uniform(-0.9, 1, (1, 1, 40, 40))  # every plane the same
    sampler = UnpairedSampler(
        [one], [one], size=(16, 16), context=1, augment=Augment(flip=0.5, rotate=20, scale=0.1, translate=0.1)
    )
    for sample in sampler.batch(0, 20)[0]:
        np.testing.assert_array_equal(sample[0], sample[1])
        np.testing.assert_array_equal(sample[2], sample[1])


def test_context_draws_the_same_planes_as_without() -> None:
    def middles(context: int) -> np.ndarray:
        sampler = UnpairedSampler([scan()], [scan("b")], size=(20, 24), context=context, match_position=True, seed=3)
        return np.concatenate([domain[:, context] for domain in sampler.batch(5, 20)])

    np.testing.assert_array_equal(middles(2), middles(0))


# -- planes of all directions ------------------------------------------------------------------------------------------


def told(extents=(20, 24, 16)) -> FakeScan:
    """A scan whose voxels tell their place: (i, j, k) as three channels, from 0."""
    one = scan(extents=extents, body=(0, extents[2] - 1), channels=3)
    one.array[:] = np.stack(np.meshgrid(*map(np.arange, extents), indexing="ij")).transpose(3, 0, 1, 2) / 100
    return one


def direction_of(sample: np.ndarray) -> int:
    """The axis along which a plane of `told` does not change."""
    (axis,) = [axis for axis in range(3) if np.ptp(sample[axis]) == 0]
    return axis


def test_planes_of_all_directions_come_equally_often_and_the_same_for_both_domains() -> None:
    sampler = UnpairedSampler([told()], [told((18, 22, 30))], size=(14, 14), axes="all", foreground=0.0)
    a, b = sampler.batch(0, 300)
    directions = [direction_of(sample) for sample in a]
    assert directions == [direction_of(sample) for sample in b]
    assert all(70 < directions.count(axis) < 130 for axis in range(3))
    for sample, axis in zip(np.rint(a * 100).astype(int), directions, strict=True):
        rows, columns = [other for other in range(3) if other != axis]  # the plane's own axes, in their order
        np.testing.assert_array_equal(np.diff(sample[rows], axis=0), 1)
        np.testing.assert_array_equal(np.diff(sample[columns], axis=1), 1)
    for axis, extent in enumerate((20, 24, 16)):
        shown = {round(float(s[axis, 0, 0]) * 100) for s, d in zip(a, directions, strict=True) if d == axis}
        assert shown <= set(range(extent))
        assert len(shown) > 10


def test_a_direction_s_neighbours_lie_along_it() -> None:
    a, _ = UnpairedSampler([told()], [told()], size=(14, 14), axes="all", context=1, foreground=0.0).batch(0, 60)
    for sample in np.rint(a * 100).astype(int):
        axis = direction_of(sample[3:6])
        before, here, after = (int(sample[3 * n + axis, 0, 0]) for n in range(3))
        last = (20, 24, 16)[axis] - 1
        assert (before, after) == (max(here - 1, 0), min(here + 1, last))


def test_positions_match_along_the_drawn_direction() -> None:
    def walls(extents) -> FakeScan:
        one = told(extents)
        one.foreground = [1.0] * extents[2]
        return one

    sampler = UnpairedSampler(
        [walls((40, 50, 60))], [walls((60, 40, 50))], size=(30, 30), axes="all", foreground=1.0, match_position=True
    )
    a, b = sampler.batch(0, 200)
    for x, y in zip(a, b, strict=True):
        axis = direction_of(x)
        heights = [float(s[axis, 0, 0]) * 100 / (n[axis] - 1) for s, n in ((x, (40, 50, 60)), (y, (60, 40, 50)))]
        assert abs(heights[0] - heights[1]) < 0.25


def test_sagittal_planes_of_all_directions_are_never_mirrored() -> None:
    a, _ = UnpairedSampler(
        [told()], [told()], size=(14, 14), axes="all", foreground=0.0, augment=Augment(flip=0.5)
    ).batch(0, 300)
    mirrored = {axis: [] for axis in range(3)}
    for sample in a:
        axis = direction_of(sample)
        first = 1 if axis == 0 else 0
        mirrored[axis].append(bool(sample[first, 0, 0] > sample[first, -1, 0]))
    assert not any(mirrored[0])
    assert all(0.3 < np.mean(mirrored[axis]) < 0.7 for axis in (1, 2))


def test_an_epoch_shows_the_planes_of_each_direction() -> None:
    one = scan(extents=(20, 24, 16), body=(4, 12))  # 9 axial, 12 coronal and 10 sagittal planes with body
    assert UnpairedSampler([one], [scan(body=(0, 1))], size=(10, 10), axes="all").samples_per_epoch == 9 + 12 + 10


def test_scans_must_be_large_enough_in_all_directions() -> None:
    check_sizes([scan(extents=(20, 24, 16))], (32, 32), "all")
    with pytest.raises(ScanError, match=r"flat: prepared sagittal planes of 20 x 8 voxels"):
        UnpairedSampler([scan("flat", (20, 20, 8), (2, 6))], [scan()], size=(20, 20), axes="all")
