"""Statistics of a scan, held: against plain sums over windows, and tiles that then equal the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medcycle.errors import ModelError
from medcycle.inference.sliding import scan_statistics, translate_patches
from medcycle.inference.statistics import ScanStatistics, norm_kinds
from medcycle.networks import build_generator
from medcycle.networks.layers import InstanceNorm

FP32: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
SIZE = (4, 4, 4)
NORMS = {
    "instance": InstanceNorm,
    "torch's instance": lambda: nn.InstanceNorm3d(4, affine=True),
    "group": lambda: nn.GroupNorm(2, 4),
}


class Pointwise(nn.Module):
    """Two convolutions of width 1: a voxel's result depends on its window by the norm between them alone."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.out_channels = 1
        self.first, self.norm, self.last = nn.Conv3d(1, 4, 1), norm, nn.Conv3d(4, 1, 1)
        for weight in (*norm.parameters(), self.first.bias, self.last.weight):
            nn.init.normal_(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.tanh(self.last(torch.relu(self.norm(self.first(x)))) / 2)
        return y


def scan(*shape: int) -> np.ndarray[Any, Any]:
    """Brighter towards one end, so that windows differ; no air."""
    rising = np.linspace(-0.8, 0.9, shape[1]).reshape(1, -1, 1, 1)
    return (rising + np.random.default_rng(1).uniform(-0.1, 0.1, shape)).astype(np.float32)


@pytest.mark.parametrize("kind", NORMS)
def test_tiles_with_held_statistics_equal_the_whole(kind: str) -> None:
    network, array = Pointwise(NORMS[kind]()).eval(), scan(1, 8, 8, 12)
    with torch.no_grad():
        whole = network(torch.from_numpy(array)[None])[0].numpy()
    own = translate_patches(network, array, SIZE, **FP32)
    with scan_statistics(network, array, SIZE, **FP32).held():
        held = translate_patches(network, array, SIZE, **FP32)
    # Windows of equal weight side by side cover the scan once: their statistics are those of the whole.
    np.testing.assert_allclose(held, whole, atol=1e-5)
    assert abs(own - whole).max() > 0.02
    np.testing.assert_array_equal(translate_patches(network, array, SIZE, **FP32), own)  # the network is as it was


@pytest.mark.parametrize("kind", NORMS)
def test_windows_count_by_their_tissue(kind: str) -> None:
    network, array = Pointwise(NORMS[kind]()).eval(), scan(1, 8, 4, 4)
    array[:, 5:, 1:] = -1  # most of the second window is air
    groups = 2 if kind == "group" else 4
    windows = [array[:, :4], array[:, 4:]]
    weights = [float((window > -1).mean()) for window in windows]
    assert weights[0] > 2 * weights[1]
    with torch.no_grad():
        inner = [network.first(torch.from_numpy(w)[None]).double().reshape(groups, -1).numpy() for w in windows]
    mean = np.average([x.mean(1) for x in inner], axis=0, weights=weights)
    variance = np.average([((x - mean[:, None]) ** 2).mean(1) for x in inner], axis=0, weights=weights)
    scale, shift = (p.detach().numpy().reshape(-1, 1) if p is not None else p for p in affine(network.norm))
    expected = [(x - mean[:, None]) / np.sqrt(variance[:, None] + 1e-5) for x in inner]
    seen: list[torch.Tensor] = []
    network.last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with scan_statistics(network, array, SIZE, **FP32).held(), torch.no_grad():
        for window in windows:
            network(torch.from_numpy(window)[None])
    for x, y in zip(expected, seen[-2:], strict=True):
        found = x.reshape(4, -1) if scale is None else x.reshape(4, -1) * scale + shift
        np.testing.assert_allclose(y[0].reshape(4, -1).numpy(), np.maximum(found, 0), atol=1e-4)


def affine(norm: nn.Module) -> tuple[Any, Any]:
    return getattr(norm, "weight", None), getattr(norm, "bias", None)


def test_one_module_in_several_places_has_statistics_of_each() -> None:
    class Twice(Pointwise):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.norm(self.last(self.norm(self.first(x)))) / 2)

    network, array = Twice(InstanceNorm()).eval(), scan(1, 8, 4, 4)
    with torch.no_grad():
        whole = network(torch.from_numpy(array)[None])[0].numpy()
    with scan_statistics(network, array, SIZE, **FP32).held():
        held = translate_patches(network, array, SIZE, overlap=0, **FP32)
    # The second norm's input was seen with each window's own statistics in the first: not the whole's, but near.
    own = translate_patches(network, array, SIZE, overlap=0, **FP32)
    assert abs(held - whole).mean() < 0.5 * abs(own - whole).mean()


def test_a_batch_that_memory_cannot_hold_counts_once() -> None:
    class Limited(Pointwise):
        limit = 99

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = self.norm(self.first(x))
            if len(x) > self.limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return torch.tanh(self.last(inner))

    network, array = Limited(InstanceNorm()).eval(), scan(1, 16, 4, 4)
    array[:, 6:8] = -1
    expected, found = scan_statistics(network, array, SIZE, batch_size=1, **FP32), []
    network.limit = 2
    for statistics in (expected, scan_statistics(network, array, SIZE, batch_size=4, **FP32)):
        with statistics.held():
            found.append(translate_patches(network, array, SIZE, **FP32))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_half_precision_keeps_its_type_and_float32_statistics() -> None:
    network = Pointwise(InstanceNorm()).eval()
    types = []
    network.last.register_forward_pre_hook(lambda _, inputs: types.append(inputs[0].dtype))
    array = scan(1, 8, 4, 4)
    results = []
    for precision in ("fp32", "bf16"):
        with scan_statistics(network, array, SIZE, device="cpu", precision=precision).held():
            results.append(translate_patches(network, array, SIZE, device="cpu", precision=precision))
    assert set(types) == {torch.float32, torch.bfloat16}
    np.testing.assert_allclose(results[0], results[1], atol=0.05)


def test_the_network_is_left_as_it_was_after_an_error() -> None:
    network = Pointwise(InstanceNorm()).eval()
    statistics = ScanStatistics(network)
    with pytest.raises(RuntimeError), statistics.gathering():
        network(torch.zeros(1, 3, 4, 4, 4))
    with pytest.raises(ModelError, match="same order every time"), statistics.held():
        network(torch.zeros(1, 1, 4, 4, 4))
    assert "forward" not in vars(network.norm)
    assert not network._forward_pre_hooks
    assert not network._forward_hooks
    assert network(torch.zeros(1, 1, 4, 4, 4)).isfinite().all()


def test_a_network_that_changes_its_mind() -> None:
    class Fickle(Pointwise):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(self.first(x))
            return torch.tanh(self.last(self.norm(y) if x.mean() > 0 else y))

    with pytest.raises(ModelError, match="--statistics tile"):
        scan_statistics(Fickle(InstanceNorm()).eval(), scan(1, 8, 4, 4), SIZE, **FP32)


@pytest.mark.parametrize("norm", ["instance", "group", "batch", "none"])
def test_kinds_of_norm_that_go_by_the_window(norm: str) -> None:
    network = build_generator("unet", in_channels=1, out_channels=1, ndim=3, filters=2, downs=2, norm=norm)
    assert norm_kinds(network) == ((norm,) if norm in ("instance", "group") else ())


def test_tracked_statistics_are_not_the_windows() -> None:
    assert norm_kinds(nn.Sequential(nn.InstanceNorm3d(2, track_running_stats=True), nn.LayerNorm(2))) == ()
    assert norm_kinds(nn.Sequential(nn.InstanceNorm2d(2), nn.GroupNorm(1, 2))) == ("group", "instance")
