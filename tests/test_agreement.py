from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from medcycle.agreement import Agreement, agreement, agreement_range, deviations, recorded_range
from medcycle.similarity import NOISE

Array = np.ndarray[Any, Any]


def head(space: tuple[int, ...], seed: int = 0) -> tuple[Array, Array]:
    """An image of smooth tissue with a hole, in exact air, and its translation; (1, *space)."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in space], indexing="ij")
    radius = np.sqrt(sum(g**2 for g in grid))
    tissue = [gaussian_filter(rng.standard_normal(space), 1.2) for _ in range(2)]
    given = np.where((radius < 0.7) & (radius > 0.15), 0.4 * tissue[0] / tissue[0].std(), -1).clip(-1, 1)
    made = (np.sin(3 * given) + 0.3 * tissue[1] / tissue[1].std()).clip(-1, 1)
    return given[None].astype(np.float32), made[None].astype(np.float32)


def plain_mind(image: Array) -> Array:
    """Heinrich 2012, eq. 4, voxel by voxel: (voxels, 2 * axes); the axes' neighbours at -1, +1 in order."""
    space = image.ndim
    padded = np.pad(image.astype(np.float64), 2, mode="edge")
    patch = list(itertools.product((-1, 0, 1), repeat=space))
    d = np.empty((*image.shape, 2 * space))
    for place in np.ndindex(image.shape):
        for n, (axis, sign) in enumerate(itertools.product(range(space), (-1, 1))):
            step = np.eye(space, dtype=int)[axis] * sign
            d[place][n] = np.mean(
                [(padded[tuple(np.add(place, q) + 2)] - padded[tuple(np.add(place, q) + step + 2)]) ** 2 for q in patch]
            )
    variance = d.mean(-1, keepdims=True)
    found = np.exp(-d / np.maximum(variance, NOISE**2))
    return np.asarray(found / found.max(-1, keepdims=True))


def plain_information(x: Array, y: Array, bins: int = 32) -> float:
    joint = np.zeros((bins, bins))
    for a, b in zip(x, y, strict=True):
        i, j = (a + 1) / 2 * (bins - 1), (b + 1) / 2 * (bins - 1)
        for m, n in itertools.product((int(i), int(i) + 1), (int(j), int(j) + 1)):
            if m < bins and n < bins:
                joint[m, n] += max(0, 1 - abs(i - m)) * max(0, 1 - abs(j - n))
    joint /= joint.sum()
    of_x, of_y = joint.sum(1), joint.sum(0)
    seen = joint > 0
    information = (joint[seen] * np.log(joint[seen] / np.outer(of_x, of_y)[seen])).sum()
    entropy = [-(p[p > 0] * np.log(p[p > 0])).sum() for p in (of_x, of_y)]
    return float(information / np.sqrt(entropy[0] * entropy[1]))


@pytest.mark.parametrize("space", [(20, 24), (12, 11, 13)])
def test_it_is_that_of_the_body_written_plainly(space: tuple[int, ...]) -> None:
    given, made = head(space)
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in space], indexing="ij")
    body = np.sqrt(sum(g**2 for g in grid)) < 0.7  # with the hole
    box = tuple(slice(p.min(), p.max() + 1) for p in np.where(body))
    x, y, inside = given[0][box], np.where(body, made[0], -1)[box], body[box]
    found = agreement(torch.from_numpy(given), torch.from_numpy(made))
    assert found is not None
    assert found.voxels == body.sum()
    assert found.mind == pytest.approx(abs(plain_mind(x) - plain_mind(y))[inside].mean(), abs=1e-4)
    assert found.mutual_information == pytest.approx(plain_information(x[inside], y[inside]), abs=1e-4)
    assert found.mutual_information > 0.1


@pytest.mark.parametrize("space", [(24, 24), (13, 13, 13)])
def test_neither_the_frame_nor_what_is_made_of_air_counts(space: tuple[int, ...]) -> None:
    given, made = (torch.from_numpy(image) for image in head(space))
    pad = functools.partial(torch.nn.functional.pad, pad=(5, 3) * len(space))
    dirty = torch.where(given > -1, made, 0.5)
    hole = agreement(given, dirty)  # the hole is body
    assert agreement(pad(given, value=-1), pad(made, value=0.3)) == agreement(given, made)
    assert hole is not None
    assert hole != agreement(given, made)


def test_more_of_the_same_structure_agrees_more() -> None:
    given, made = (torch.from_numpy(image) for image in head((40, 40)))
    inverted, unlike = agreement(given, -given), agreement(given, made.flip(1))
    like = agreement(given, made)
    assert inverted is not None
    assert like is not None
    assert unlike is not None
    assert inverted.mind < like.mind < unlike.mind
    assert inverted.mutual_information > like.mutual_information > unlike.mutual_information


def test_air_has_none() -> None:
    assert agreement(torch.full((1, 20, 20), -1.0), torch.zeros(1, 20, 20)) is None
    assert Agreement.mean([]) is None


def test_channels_are_averaged_and_parts_weighted() -> None:
    given, made = (torch.from_numpy(image) for image in head((20, 20)))
    doubled = torch.cat((given - 0.05, given + 0.05)).clamp(-1.1, 1.1)
    found = agreement(doubled, made)
    assert found is not None
    assert found.mind == pytest.approx(agreement(given, made).mind, abs=1e-3)  # type: ignore[union-attr]
    mean = Agreement.mean([Agreement(0.1, 0.4, 100), Agreement(0.2, 0.2, 300)])
    assert mean is not None
    assert (mean.mind, mean.mutual_information, mean.voxels) == pytest.approx((0.175, 0.25, 400))


class Noisy(nn.Module):
    """Adds its noise to the first channel; has channels more than it takes."""

    def __init__(self, noise: float = 0.2) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        torch.manual_seed(int(1000 * float(x[0, 0].abs().sum())))
        made = x[:, :1] + self.noise * torch.rand_like(x[:, :1])
        return torch.cat((made, torch.rand_like(made)), 1)


@pytest.mark.parametrize("space", [(20, 20), (10, 10, 10)])
def test_the_range_is_that_of_the_samples(space: tuple[int, ...]) -> None:
    images = [torch.from_numpy(head(space, seed)[0]) for seed in range(9)]
    samples = [torch.cat((image, torch.rand_like(image)))[None] for image in images]
    network = Noisy().train()
    found = agreement_range(network, samples, (1, 1))
    assert network.training
    assert found is not None
    assert found["samples"] == 9
    single = [agreement(x[0, :1], network.eval()(x)[0, :1]) for x in samples]
    for name in ("mind", "mutual_information"):
        values = [getattr(one, name) for one in single]
        low, middle, high = found[name]
        assert low <= middle <= high
        assert (min(values), max(values)) == pytest.approx((low, high), abs=0.3 * np.ptp(values))
        assert min(values) - 1e-5 <= low
        assert high <= max(values) + 1e-5
        assert middle == pytest.approx(np.median(values), abs=0.3 * np.ptp(values))


def test_of_neighbouring_planes_the_middle_one_counts() -> None:
    image, other = (torch.from_numpy(head((20, 20), seed)[0])[None] for seed in (0, 1))
    found = agreement_range(nn.Identity(), [torch.cat((other, image, other), 1)], (1, 1), planes=3)
    assert found == agreement_range(nn.Identity(), [image], (1, 1))
    assert found != agreement_range(nn.Identity(), [other], (1, 1))


def test_small_samples_weigh_less() -> None:
    small, large = torch.full((1, 1, 40, 40), -1.0), torch.from_numpy(head((40, 40))[0])[None]
    small[..., 10:18, 10:18] = torch.rand(8, 8)
    own = agreement(small[0], small[0])
    found = agreement_range(nn.Identity(), [small, *[large] * 9], (1, 1))
    assert found is not None
    assert own is not None
    low, middle, high = found["mutual_information"]
    assert max(abs(low - middle), abs(high - middle)) < 0.3 * abs(own.mutual_information - middle)


def test_no_range_of_nothing() -> None:
    air = [torch.full((1, 1, 20, 20), -1.0)]
    body = [torch.from_numpy(head((20, 20))[0])[None]]
    assert agreement_range(nn.Identity(), air, (1, 1)) is None
    assert agreement_range(Noisy(float("nan")), body, (1, 1)) is None


RECORDS: list[Any] = [
    *(None, "good", {}, {"mind": [0.1, 0.2, 0.3]}, {"mind": 1}),
    {"mind": [], "mutual_information": []},
    {"mind": ["a", 1], "mutual_information": [0, 1]},
    {"mind": [0, float("nan")], "mutual_information": [0, 1]},
]


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_that_tells_nothing(record: Any) -> None:
    assert recorded_range({"agreement": record}) is None
    assert recorded_range({}) is None


def test_what_lies_outside() -> None:
    usual = recorded_range({"agreement": {"mind": [0.1, 0.2, 0.3], "mutual_information": [0.3, 0.4, 0.5]}})
    assert usual == {"mind": (0.1, 0.3), "mutual_information": (0.3, 0.5)}
    assert deviations(Agreement(0.1, 0.5, 9), usual) == []
    assert deviations(Agreement(0.31, 0.29, 9), usual) == ["MIND above", "MI below"]
    assert deviations(Agreement(0.09, 0.51, 9), usual) == ["MIND below", "MI above"]
