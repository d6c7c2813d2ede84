"""Samples of registered pairs: the same place and the same changes in both images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcycle.data import Augment, PairedSampler, UnpairedSampler, WithPairs
from medcycle.errors import ScanError


@dataclass
class FakePair:
    """A stand-in for PreparedPair: B is A negated in the body, so that any difference in place shows."""

    name: str
    array: np.ndarray
    foreground: list[float]
    points: np.ndarray
    split: int = 1

    def along(self, axis: int) -> FakePair:
        array = np.moveaxis(np.moveaxis(self.array, 0, 3), 1 + axis, 0)
        return replace(self, array=array, foreground=(array > -1).mean((1, 2, 3)).tolist())


def pair(seed: int, extents: tuple[int, int, int] = (20, 24, 16), channels: int = 1) -> FakePair:
    w, h, planes = extents
    rng = np.random.default_rng(seed)
    array = np.full((planes, 2 * channels, w, h), -1, np.float32)
    body = (slice(3, planes - 3), slice(None), slice(4, w - 4), slice(4, h - 4))
    array[body] = rng.uniform(-0.9, 0.9, array[body].shape)
    array[body][:, channels:] = -array[body][:, :channels]
    points = np.argwhere(array[:, 0].transpose(1, 2, 0) > -1)
    return FakePair(f"p{seed}", array, (array > -1).mean((1, 2, 3)).tolist(), rng.permutation(points)[:200], channels)


@settings(max_examples=30, deadline=None)
@given(
    size=st.sampled_from([(16, 16), (24, 12), (32, 32), (8, 8, 8), (16, 12, 20)]),
    step=st.integers(0, 10**6),
    flip=st.booleans(),
)
def test_both_images_show_the_same_place(size: tuple[int, ...], step: int, flip: bool) -> None:
    sampler = PairedSampler([pair(0), pair(1)], size=size, augment=Augment(flip=float(flip)), seed=3)
    a, b = sampler.batch(step, 2)
    assert a.shape == b.shape == (2, 1, *size)
    body = a > -1
    np.testing.assert_array_equal(b[body], -a[body])
    assert (b[~body] == -1).all()


@pytest.mark.parametrize("size", [(16, 16), (8, 8, 8)])
def test_both_are_turned_and_moved_alike(size: tuple[int, ...]) -> None:
    fake = pair(0)
    fake.array[:, 1] = fake.array[:, 0]
    augment = Augment(flip=0.5, rotate=20, scale=0.2, translate=0.1, noise=1.0, bias_field=1.0)
    sampler = PairedSampler([fake], size=size, augment=augment)
    plain = PairedSampler([fake], size=size)
    for step in range(5):
        a, b = sampler.batch(step, 1)
        np.testing.assert_array_equal(a, b)  # artefacts would be in one of them
        assert np.abs(a - plain.batch(step, 1)[0]).max() > 0.1


def test_channels_are_kept_apart() -> None:
    a, b = PairedSampler([pair(0, channels=2)], size=(16, 16), foreground=1.0).batch(0, 3)
    assert a.shape == b.shape == (3, 2, 16, 16)
    np.testing.assert_array_equal(b[a > -1], -a[a > -1])


def test_neighbouring_planes_are_channels_of_both() -> None:
    fake = pair(0, channels=2)
    a, b = PairedSampler([fake], size=(20, 24), context=1, foreground=1.0).batch(0, 1)
    assert a.shape == b.shape == (1, 6, 20, 24)
    np.testing.assert_array_equal(b[a > -1], -a[a > -1])
    plane = next(n for n in range(16) if np.array_equal(fake.array[n, :2], a[0, 2:4]))
    np.testing.assert_array_equal(a[0], fake.array[plane - 1 : plane + 2, :2].reshape(6, 20, 24))


def test_planes_of_all_directions_are_drawn() -> None:
    fakes = [pair(0, (20, 20, 20))]
    sampler = PairedSampler(fakes, size=(20, 20), axes="all", foreground=1.0, augment=Augment(flip=1.0))
    found = set()
    for step in range(30):
        a, b = sampler.batch(step, 1)
        np.testing.assert_array_equal(b[a > -1], -a[a > -1])
        for axis in range(3):
            planes = fakes[0].along(axis).array[:, 0]
            shown = a[0, 0] if axis == 0 else a[0, 0, ::-1]  # a sagittal plane is not mirrored
            found |= {axis} if any(np.array_equal(shown, plane) for plane in planes) else set()
    assert found == {0, 1, 2}


def test_a_sample_follows_from_seed_step_and_index_alone() -> None:
    def sampler(seed: int = 0) -> PairedSampler:
        return PairedSampler([pair(0), pair(1)], size=(16, 16), augment=Augment(rotate=5), seed=seed)

    one, other = sampler(), sampler()
    one.batch(3, 4)
    whole = one.batch(7, 4)
    for rank in range(2):
        share = other.batch(7, 4, rank, 2)
        for mine, theirs in zip(share, whole, strict=True):
            np.testing.assert_array_equal(mine, theirs[2 * rank : 2 * rank + 2])
    assert not np.array_equal(sampler(1).batch(7, 4)[0], whole[0])
    assert not np.array_equal(one.batch(8, 4)[0], whole[0])


def test_pairs_come_behind_and_change_nothing_before_them() -> None:
    settings: dict[str, Any] = {"size": (16, 16), "seed": 0}
    a, b = pair(4), pair(5)
    for fake in (a, b):
        fake.array = fake.array[:, :1]
    unpaired = UnpairedSampler([a], [b], **settings)
    both = WithPairs(unpaired, PairedSampler([pair(0)], **settings))
    assert (both.held_on_device, both.samples_per_epoch) == (False, unpaired.samples_per_epoch)
    found = both.batch(5, 4, 1, 2)
    assert [x.shape for x in found] == [(2, 1, 16, 16)] * 4
    for mine, theirs in zip(found, unpaired.batch(5, 4, 1, 2), strict=False):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(found[2][found[2] > -1], -found[3][found[2] > -1])


def test_pairs_that_are_too_small_are_refused() -> None:
    with pytest.raises(ScanError, match=r"p0: prepared axial planes of 20 x 24 voxels, less than half of sample\.size"):
        PairedSampler([pair(0)], size=(64, 64))
