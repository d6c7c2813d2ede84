"""Planes of all directions: which are translated, and how they become one scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medcycle.errors import ConfigError
from medcycle.inference.frames import translate_recording
from medcycle.inference.fusion import fuse, usable_axes
from medcycle.prepare import Preparation
from medcycle.volume import Volume

Make = Callable[..., Any]


class Wave(nn.Module):
    """Adds what depends on the plane's shape, so that each direction's answer is known."""

    ADDS = {(18, 20): 0.1, (18, 22): -0.05, (20, 22): 0.3}  # noqa: RUF012

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.ADDS[tuple(x.shape[2:])]


@pytest.mark.parametrize("context", [0, 1])
@pytest.mark.parametrize("axes", ["all", "coronal"])
def test_what_the_network_leaves_alone_comes_back_exactly(
    translator: Make, make_ball: Make, axes: str, context: int
) -> None:
    volume = make_ball((18, 20, 22), np.eye(4))
    ct = Preparation(modality="ct", foreground=True)
    prepared = ct(volume)
    expected = ct.restore(prepared.array, prepared.state, foreground=prepared.foreground).array
    result = translator(axes=axes, context=context, batch_size=5)(volume)
    np.testing.assert_array_equal(result.array, expected)


def test_the_three_directions_give_their_median(translator: Make, make_ball: Make) -> None:
    volume = make_ball((18, 20, 22), np.eye(4))
    parts = {
        axes: translator(axes="all", only=axes, network=Wave())(volume).array
        for axes in ("axial", "coronal", "sagittal")
    }
    fused = translator(axes="all", network=Wave())(volume).array
    np.testing.assert_array_equal(fused, np.median(list(parts.values()), axis=0))
    body = volume.array > -500
    assert np.median((fused - parts["axial"])[body]) == 0  # +0.1 lies between -0.05 and +0.3
    assert np.median((fused - parts["sagittal"])[body]) < -100


def test_fuse_is_the_median() -> None:
    parts = list(np.random.default_rng(0).standard_normal((3, 1, 4, 5, 6)).astype(np.float32))
    np.testing.assert_array_equal(fuse(parts), np.median(parts, axis=0))
    np.testing.assert_array_equal(fuse(parts[:2]), np.mean(parts[:2], axis=0))
    assert fuse(parts[:1]) is parts[0]


@pytest.mark.parametrize(
    ("axes", "space", "size", "expected"),
    [
        ("all", (64, 64, 64), (64, 64), (0, 1, 2)),
        ("all", (64, 64, 32), (64, 64), (0, 1, 2)),  # half is enough, as in training
        ("all", (64, 64, 31), (64, 64), (2,)),  # thick slices: coronal and sagittal planes are mostly air
        ("all", (31, 64, 64), (64, 64), (0,)),
        ("all", (256, 200, 1), (64, 64), (2,)),
        ("all", (1, 20, 20), (64, 64), (0,)),  # too small for all; the largest
        ("axial", (64, 64, 1), (64, 64), (2,)),
        ("sagittal", (64, 64, 1), (64, 64), (0,)),
    ],
)
def test_directions_that_a_scan_is_too_thin_for_are_left_out(
    axes: str, space: tuple[int, ...], size: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert usable_axes(axes, space, size) == expected


def test_progress_counts_the_planes_of_all_directions(translator: Make, make_ball: Make) -> None:
    seen: list[tuple[int, int]] = []
    translator(axes="all", batch_size=4).translate(make_ball((12, 14, 16)), lambda d, t: seen.append((d, t)))
    assert seen[-1] == (42, 42)
    assert {total for _, total in seen} == {42}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("context", [0, 2])
def test_a_single_slice_is_translated_as_it_lies(translator: Make, make_ball: Make, context: int) -> None:
    plane = make_ball((20, 26), np.diag([-1.0, -1.0, 1.0, 1.0]))
    single = Volume(plane.array[..., None], np.eye(4)[:, [2, 0, 1, 3]], "HU", {"path": "slice"})  # across the i axis
    for volume in (plane, single):
        result = translator(axes="all", context=context)(volume)
        assert result.space == volume.space
        body = volume.array > -500
        assert abs(result.array - volume.array)[body].max() < 0.5
    frames = list(translate_recording(translator(axes="all", context=context), lambda: [single] * 3, 3))
    assert [frame.space for frame in frames] == [single.space] * 3
    assert abs(frames[2].array - single.array)[single.array > -500].max() < 0.5


def test_frames_translated_together_do_not_mix(translator: Make, make_ball: Make) -> None:
    class Blur(nn.Module):
        """Every plane of a stack becomes their mean."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(1, keepdim=True).expand_as(x)

    one, two = make_ball((12, 12, 12)), make_ball((12, 12, 12))
    two = two.replace(array=np.where(two.array > -500, 900, -1000).astype(np.float32))
    for axes in ("axial", "all"):
        made = translator(axes=axes, context=1, network=Blur())
        together = made.frames([one, two])
        for volume, result in zip((one, two), together, strict=True):
            np.testing.assert_array_equal(result.array, made(volume).array)


def test_channels_are_counted_without_the_neighbours(translator: Make, make_ball: Make) -> None:
    from medcycle.errors import ModelError
    from medcycle.networks import build_generator

    network = build_generator("resnet", in_channels=3, out_channels=3, ndim=2, filters=2, blocks=1)
    volume = make_ball((12, 12, 12))
    made = translator(context=1, network=network)
    assert made(volume).channels == 1
    with pytest.raises(ModelError, match=r"2 channel\(s\); the model from 'ct' to 'ct' takes 1"):
        made(volume.replace(array=np.repeat(volume.array, 2, axis=0)))


def test_only_the_directions_of_the_training_are_allowed(translator: Make) -> None:
    assert translator(axes="coronal", only="coronal").axes == "coronal"
    assert translator(axes="all").axes == "all"
    with pytest.raises(ConfigError, match="axes axial: this model was trained on coronal planes; allowed is coronal"):
        translator(axes="coronal", only="axial")
    with pytest.raises(ConfigError, match="axes all: this model was trained on axial planes"):
        translator(only="all")
    with pytest.raises(ConfigError, match="allowed is sagittal, coronal, axial or all"):
        translator(axes="all", only="oblique")
    with pytest.raises(ConfigError, match="axes coronal: this model translates 3D patches"):
        translator(size=(8, 8, 8), only="coronal")
