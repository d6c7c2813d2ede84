"""Spectral norm: against the singular values themselves, and torch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.utils.parametrizations import spectral_norm

from medcycle.networks import PatchDiscriminator, follow_spectral_norms
from medcycle.networks import layers as L
from medcycle.networks.spectral import SpectralConv


def layers(network) -> list[SpectralConv]:
    return [m for m in network.modules() if isinstance(m, SpectralConv)]


def small(ndim: int = 2) -> PatchDiscriminator:
    return PatchDiscriminator(2, ndim=ndim, filters=4, layers=1, norm="none", scales=2, spectral=True)


@pytest.mark.parametrize("ndim", [2, 3])
def test_every_kernel_has_spectral_norm_1_from_the_start(ndim):
    found = layers(small(ndim))
    assert len(found) == 6
    for layer in found:
        assert torch.linalg.matrix_norm(layer.normed().flatten(1), 2).item() == pytest.approx(1, abs=0.05)


def test_the_norm_is_followed_when_the_kernel_changes():
    layer = L.conv(2, 3, 5, 3, spectral=True)
    with torch.no_grad():
        layer.weight.add_(torch.randn_like(layer.weight))
    for _ in range(100):
        layer.follow()
    assert torch.linalg.matrix_norm(layer.normed().flatten(1), 2).item() == pytest.approx(1, abs=1e-3)


def test_value_and_gradient_are_those_of_torch():
    ours = L.conv(2, 3, 5, 3, spectral=True)
    L.initialize(ours, gain=1.0)
    for _ in range(300):
        ours.follow()
    plain = torch.nn.Conv2d(3, 5, 3)
    plain.load_state_dict({"weight": ours.weight.detach().clone(), "bias": ours.bias.detach().clone()})
    theirs = spectral_norm(plain, n_power_iterations=300).eval()
    x = torch.randn(1, 3, 6, 6)
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    expected = theirs.parametrizations.weight.original.grad
    torch.testing.assert_close(ours.weight.grad, expected, rtol=1e-3, atol=1e-4)


def test_a_call_changes_nothing_and_a_copy_goes_on_alike():
    network = small().train()
    x = torch.randn(1, 2, 24, 24)
    before = copy.deepcopy(network.state_dict())
    assert torch.equal(network(x), network(x))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    twin, resumed = copy.deepcopy(network), small()
    resumed.load_state_dict(network.state_dict())
    with torch.no_grad():
        for one in (network, twin, resumed):
            for layer in layers(one):
                layer.weight.mul_(torch.linspace(1, 3, layer.weight.numel()).view_as(layer.weight))
            follow_spectral_norms(one)
    assert torch.equal(network(x), twin(x))
    assert torch.equal(network(x), resumed(x))
    assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items() if "dir" in name)


def test_a_kernel_of_zeros_gives_zeros():
    layer = L.conv(3, 1, 2, 3, spectral=True)
    torch.nn.init.zeros_(layer.weight)
    layer.follow()
    y = layer(torch.ones(1, 1, 3, 3, 3))
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(layer.weight.grad).all()
