from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medcycle.errors import ConfigError, ModelError
from medcycle.inference.sliding import translate_patches, translate_planes
from medcycle.networks import build_generator

FP32: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


class Recorder(nn.Module):
    """Gives half of what it takes and notes the batches; `limit` images at most fit its pretended memory."""

    def __init__(self, limit: int = 99) -> None:
        super().__init__()
        self.batches: list[torch.Tensor] = []
        self.limit = limit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append(x.clone())
        return x / 2


class Fixed(nn.Module):
    def __init__(self, function: Any, **attributes: Any) -> None:
        super().__init__()
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def scan(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).uniform(-0.9, 1, shape).astype(np.float32)


# -- planes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_planes_go_through_whole_and_come_back_in_place(axis: int, batch_size: int) -> None:
    array = scan(2, 5, 6, 7)
    network = Recorder()
    result = translate_planes(network, array, axis, batch_size=batch_size, **FP32)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, array / 2)
    sent = torch.cat(network.batches).numpy()
    for n in range(array.shape[1 + axis]):
        np.testing.assert_array_equal(sent[n], array.take(n, 1 + axis))
    assert max(map(len, network.batches)) == min(batch_size, array.shape[1 + axis])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_real_net_gives_each_plane_what_it_gives_it_alone(axis: int, norm: str) -> None:
    network = build_generator("resnet", in_channels=1, out_channels=2, ndim=2, filters=2, blocks=1, norm=norm).train()
    array = scan(1, 9, 10, 11)
    result = translate_planes(network, array, axis, batch_size=4, **FP32)
    assert result.shape == (2, 9, 10, 11)
    assert network.training  # as it was
    network.eval()
    for n in range(array.shape[1 + axis]):
        with torch.no_grad():
            alone = network(torch.from_numpy(array.take([n], 1 + axis).squeeze(1 + axis)[None]))[0]
        np.testing.assert_allclose(result.take(n, 1 + axis), alone.numpy(), atol=2e-6)


def test_planes_of_air_stay_air_and_are_not_sent() -> None:
    array = scan(1, 8, 8, 6)
    array[..., [0, 4]] = -1 + 5e-4
    network = Recorder()
    seen: list[tuple[int, int]] = []
    result = translate_planes(
        network, array, 2, batch_size=3, progress=lambda done, total: seen.append((done, total)), **FP32
    )
    assert sum(map(len, network.batches)) == 4
    assert (result[..., [0, 4]] == -1).all()
    np.testing.assert_array_equal(result[..., [1, 2, 3, 5]], array[..., [1, 2, 3, 5]] / 2)
    assert seen == [(2, 6), (5, 6), (6, 6)]


def test_a_scan_of_air_alone() -> None:
    network = Fixed(lambda x: 1 / 0, out_channels=3)
    assert (translate_planes(network, np.full((1, 4, 4, 4), -1, np.float32), 1, **FP32) == -1).all()
    result = translate_patches(network, np.full((1, 4, 4, 4), -1, np.float32), (2, 2, 2), **FP32)
    assert result.shape == (3, 4, 4, 4)
    np.testing.assert_allclose(result, -1, atol=1e-6)


def test_small_planes_are_centred_in_air_of_the_training_size() -> None:
    array = scan(1, 5, 9, 3)
    network = Recorder()
    result = translate_planes(network, array, 2, size=(8, 6), **FP32)
    sent = torch.cat(network.batches).numpy()
    assert sent.shape == (3, 1, 8, 9)
    np.testing.assert_array_equal(sent[1, 0, 1:6], array[0, :, :, 1])
    assert (sent[:, :, [0, 6, 7]] == -1).all()
    np.testing.assert_array_equal(result, array / 2)


def test_memory_that_ends_halves_the_batch() -> None:
    array = scan(1, 4, 4, 11)
    network = Recorder(limit=3)
    np.testing.assert_array_equal(translate_planes(network, array, 2, batch_size=8, **FP32), array / 2)
    assert [len(batch) for batch in network.batches] == [2, 2, 2, 2, 2, 1]
    with pytest.raises(ModelError, match=r"cpu has not enough memory for one image of shape \(1, 4, 4\)"):
        translate_planes(Recorder(limit=0), array, 2, **FP32)


def test_output_is_kept_in_range() -> None:
    result = translate_planes(Fixed(lambda x: 3 * x), scan(1, 4, 4, 2), 2, **FP32)
    assert result.min() == -1
    assert result.max() == 1


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Fixed(lambda x: x[..., :-1]), r"made \(2, 1, 4, 3\) of a batch of shape \(2, 1, 4, 4\)"),
        (Fixed(lambda x: x.repeat(1, 2, 1, 1)), "attribute out_channels"),
        (Fixed(lambda x: (x, x)), "made tuple"),
        (Fixed(lambda x: x * torch.nan), "not finite"),
        (Fixed(lambda x: x * torch.inf), "not finite"),
        (Fixed(lambda x: x @ torch.ones(7, 7)), r"failed on a batch of shape \(2, 1, 4, 4\)"),
    ],
)
def test_a_network_that_does_not_fit(network: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        translate_planes(network, scan(1, 4, 4, 2), 2, **FP32)


def test_wrong_settings() -> None:
    array = scan(1, 4, 4, 4)
    with pytest.raises(ConfigError, match="batch size 0"):
        translate_planes(Recorder(), array, 2, batch_size=0, **FP32)
    for overlap in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="overlap"):
            translate_patches(Recorder(), array, (2, 2, 2), overlap=overlap, **FP32)


def test_bf16_reaches_the_network() -> None:
    types = []

    def look(x: torch.Tensor) -> torch.Tensor:
        types.append((x.flatten(2) @ x.flatten(2).mT).dtype)
        return x

    result = translate_planes(Fixed(look), scan(1, 4, 4, 2), 2, device="cpu", precision="bf16")
    assert types == [torch.bfloat16]
    assert result.dtype == np.float32


# -- patches ---------------------------------------------------------------------------------------------------------


def blended(array: Any, size: tuple[int, ...], overlap: float, function: Any) -> Any:
    """A plain second opinion: loop over patches and voxel weights in double precision."""
    total = np.zeros(array.shape)
    weights = np.zeros(array.shape)
    grids = []
    for length, patch in zip(array.shape[1:], size, strict=True):
        step = max(1, int(patch * (1 - overlap)))
        grids.append(sorted({min(start, length - patch) for start in range(0, length, step)}))
    distance = [((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2 for n in size]
    weight = np.exp(-0.5 * (distance[0][:, None, None] + distance[1][None, :, None] + distance[2][None, None, :]))
    for i, j, k in itertools.product(*grids):
        where = np.s_[:, i : i + size[0], j : j + size[1], k : k + size[2]]
        total[where] += weight * function(array[where])
        weights[where] += weight
    return total / weights


@pytest.mark.parametrize(("size", "overlap"), [((4, 6, 5), 0.5), ((8, 8, 8), 0.25), ((5, 5, 5), 0.0), ((3, 9, 4), 0.8)])
def test_patches_equal_the_plain_blend(size: tuple[int, int, int], overlap: float) -> None:
    array = scan(2, 11, 9, 13)
    network = Fixed(lambda x: x - x.mean((2, 3, 4), keepdim=True))  # what one patch gives depends on all of it
    result = translate_patches(network, array, size, overlap=overlap, batch_size=3, **FP32)
    expected = blended(array, size, overlap, lambda patch: patch - patch.mean((1, 2, 3), keepdims=True))
    np.testing.assert_allclose(result, np.clip(expected, -1, 1), atol=2e-2)  # each patch is clipped, not the sum
    small = 0.4 * array
    result = translate_patches(network, small, size, overlap=overlap, batch_size=3, **FP32)
    np.testing.assert_allclose(
        result, blended(small, size, overlap, lambda p: p - p.mean((1, 2, 3), keepdims=True)), atol=1e-5
    )


def test_patches_agree_with_monai() -> None:
    from monai.inferers.utils import sliding_window_inference

    array = scan(1, 20, 17, 9)
    network = Fixed(lambda x: (x - x.mean((2, 3, 4), keepdim=True)) / 4)
    with torch.no_grad():
        theirs = sliding_window_inference(
            torch.from_numpy(array)[None],
            (12, 12, 12),
            2,
            network,
            overlap=0.5,
            mode="gaussian",
            padding_mode="constant",
            cval=-1.0,
        )
    ours = translate_patches(network, array, (12, 12, 12), overlap=0.5, batch_size=2, **FP32)
    # MONAI lifts every weight below 1e-3 to that, which lets corners of patches count a little more: 0.005 here.
    # Padding with its default of 0 instead of air would differ by 0.07.
    np.testing.assert_allclose(ours, theirs[0].numpy(), atol=0.01)


def test_patches_pad_small_scans_with_air_and_crop_back() -> None:
    array = scan(1, 3, 10, 6)
    network = Recorder()
    result = translate_patches(network, array, (8, 8, 8), batch_size=1, **FP32)
    assert result.shape == array.shape
    np.testing.assert_allclose(result, array / 2, atol=1e-6)
    first = network.batches[0][0, 0].numpy()
    np.testing.assert_array_equal(first[2:5, :, 1:7], array[0, :, :8, :])
    assert (first[[0, 1, 5, 6, 7]] == -1).all()


def test_patches_of_air_are_not_sent() -> None:
    array = np.full((1, 16, 8, 8), -1, dtype=np.float32)
    array[:, :4] = scan(1, 4, 8, 8)
    network = Recorder()
    seen: list[tuple[int, int]] = []
    result = translate_patches(
        network, array, (4, 8, 8), overlap=0.5, batch_size=2, progress=lambda d, t: seen.append((d, t)), **FP32
    )
    # Starts 0, 2, 4, ..., 12: the first two touch what is not air.
    assert sum(map(len, network.batches)) == 2
    assert seen == [(5, 7), (7, 7)]
    np.testing.assert_allclose(result[:, :4], array[:, :4] / 2, atol=0.35)
    np.testing.assert_allclose(result[:, :2], array[:, :2] / 2, atol=1e-6)
    np.testing.assert_allclose(result[:, 6:], -1, atol=1e-6)


def test_one_patch_over_the_whole_scan_is_the_networks_own_answer() -> None:
    network = build_generator("unet", in_channels=1, out_channels=1, ndim=3, filters=2, downs=2).eval()
    array = scan(1, 8, 8, 8)
    with torch.no_grad():
        expected = network(torch.from_numpy(array)[None])[0].numpy()
    np.testing.assert_allclose(translate_patches(network, array, (8, 8, 8), **FP32), expected, atol=1e-6)


# -- neighbouring planes as channels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("context", [1, 2, 9])  # 9: more neighbours than there are planes
@pytest.mark.parametrize("batch_size", [1, 4])
def test_stacks_that_the_network_leaves_alone_come_back_exactly(axis: int, context: int, batch_size: int) -> None:
    array = scan(2, 5, 6, 7)
    array[:, :, :, 2] = -1
    result = translate_planes(
        Fixed(lambda x: x), array, axis, context=context, batch_size=batch_size, size=(8, 6), **FP32
    )
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, array)


def stacks(array: np.ndarray[Any, Any], context: int) -> list[np.ndarray[Any, Any]]:
    """For each k, ((2 * context + 1) * C, i, j), written out plainly."""
    last = array.shape[3] - 1
    return [
        np.concatenate([array[..., min(max(k + offset, 0), last)] for offset in range(-context, context + 1)])
        for k in range(last + 1)
    ]


@pytest.mark.parametrize("context", [1, 2])
def test_overlapping_stacks_are_averaged_by_their_weights(context: int) -> None:
    """Against a plain second opinion, with a network whose answers depend on all that it sees, and where."""
    torch.manual_seed(0)
    deep = 2 * context + 1
    mix = torch.nn.Conv2d(2 * deep, deep, 3, padding=1)
    mix.weight.data *= 0.5
    network = Fixed(lambda x: torch.tanh(mix(x)).detach(), out_channels=deep)
    array = scan(2, 6, 5, 9)
    sums, weights = np.zeros((6, 5, 9)), np.zeros(9)
    for k, stack in enumerate(stacks(array, context)):
        made = network(torch.from_numpy(stack)[None])[0].numpy().astype(np.float64)
        for place in range(deep):
            if 0 <= k + place - context < 9:
                weight = min(place + 1, deep - place)
                sums[..., k + place - context] += weight * made[place]
                weights[k + place - context] += weight
    result = translate_planes(network, array, 2, context=context, batch_size=4, **FP32)
    assert result.shape == (1, 6, 5, 9)
    np.testing.assert_allclose(result[0], sums / weights, atol=1e-6)


def test_stacks_round_planes_of_air_are_not_sent_and_air_stays() -> None:
    array = scan(1, 4, 4, 8)
    array[..., [0, 3, 4, 5]] = -1
    network = Recorder()
    seen: list[tuple[int, int]] = []
    result = translate_planes(
        network, array, 2, context=1, batch_size=3, progress=lambda d, t: seen.append((d, t)), **FP32
    )
    sent = torch.cat(network.batches).numpy()
    np.testing.assert_array_equal(sent, [stacks(array, 1)[k] for k in (1, 2, 6, 7)])
    np.testing.assert_array_equal(result[..., [1, 2, 6, 7]], array[..., [1, 2, 6, 7]] / 2)
    assert (result[..., [0, 3, 4, 5]] == -1).all()
    assert seen == [(4, 8), (7, 8), (8, 8)]


def test_joined_scans_are_no_neighbours() -> None:
    one, two = scan(1, 4, 4, 3), -0.5 * scan(1, 4, 4, 3)
    network = build_generator("resnet", in_channels=3, out_channels=3, ndim=2, filters=2, blocks=1)
    joined = translate_planes(network, np.concatenate([one, two], axis=3), 2, context=1, scans=2, **FP32)
    apart = [translate_planes(network, part, 2, context=1, **FP32) for part in (one, two)]
    np.testing.assert_allclose(joined, np.concatenate(apart, axis=3), atol=1e-6)
    mixed = translate_planes(network, np.concatenate([one, two], axis=3), 2, context=1, **FP32)
    assert abs(mixed - joined)[..., 2:4].max() > 1e-3


def test_a_stack_of_channels_that_are_no_planes() -> None:
    with pytest.raises(ModelError, match="gives 4 channels, which are not those of 3 planes"):
        translate_planes(Fixed(lambda x: x, out_channels=4), scan(1, 4, 4, 4), 2, context=1, **FP32)


def test_averaging_stacks_takes_little_memory() -> None:
    array = scan(1, 64, 64, 150)
    network = Fixed(lambda x: x)

    def peak(context: int) -> int:
        tracemalloc.start()
        translate_planes(network, array, 2, context=context, batch_size=1, **FP32)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(0)
    plane = 4 * 64 * 64
    assert peak(2) - peak(0) < 60 * plane  # five planes in float64, the stacks; not the scan's 150
