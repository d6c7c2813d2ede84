from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medcycle.errors import ModelError
from medcycle.networks import layers as L


def images(*shape: int, mean: float = 0.0, deviation: float = 1.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * deviation + mean


@pytest.mark.parametrize("shape", [(2, 3, 17, 12), (2, 3, 9, 8, 7), (1, 1, 8, 8)])
@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (3, 0.3), (1, 0.003), (10, 0.03)])
def test_instance_norm_is_pytorchs_even_for_a_nearly_constant_image(shape, mean, deviation):
    x = images(*shape, mean=mean, deviation=deviation)
    ours = L.InstanceNorm()(x)
    assert ours.shape == x.shape
    torch.testing.assert_close(ours.double(), F.instance_norm(x.double()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_has_pytorchs_gradient(layout):
    x = images(2, 4, 9, 10, mean=1).contiguous(memory_format=layout).requires_grad_()
    weights = images(2, 4, 9, 10, seed=1)
    (mine,) = torch.autograd.grad((L.InstanceNorm()(x) * weights).sum(), x)
    (theirs,) = torch.autograd.grad((F.instance_norm(x) * weights).sum(), x)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_instance_norm_has_right_first_and_second_derivatives():
    x = images(2, 3, 4, 5).double().requires_grad_()
    volume = images(1, 2, 3, 2, 3).double().requires_grad_()
    norm = L.InstanceNorm(eps=0.1)
    for value in (x, volume):
        assert torch.autograd.gradcheck(norm, value)
        assert torch.autograd.gradgradcheck(norm, value)


@pytest.mark.parametrize("mean", [0, 3])
def test_instance_norm_in_bfloat16_is_as_good_as_bfloat16(mean):
    x = images(2, 4, 40, 40, mean=mean).bfloat16()
    ours = L.InstanceNorm()(x)
    assert ours.dtype == torch.bfloat16
    exact = F.instance_norm(x.double())
    assert (ours - exact).abs().max() < 0.03  # half a step of bfloat16 at 4 is 0.0156
    assert (ours - exact).mean().abs() < 5e-4


def test_instance_norm_takes_a_single_pixel_and_a_constant_image():
    for x in (images(1, 2, 1, 1), torch.full((1, 2, 8, 8), -1.0), torch.full((1, 2, 4, 4, 4), 0.7)):
        x.requires_grad_()
        y = L.InstanceNorm()(x)
        y.square().sum().backward()
        assert y.abs().max() < 1e-4
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_wide_conv_is_a_plain_convolution(ndim, channels):
    wide = L.WideConv(ndim, 4, channels, 5)
    x = images(2, 4, *(9, 8, 7)[:ndim], seed=3).requires_grad_()
    mine, theirs = wide(x), wide.conv(x)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(mine)
    inputs = [x, wide.conv.weight, wide.conv.bias]
    for a, b in zip(
        torch.autograd.grad((mine * weights).sum(), inputs),
        torch.autograd.grad((theirs * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_resize_conv_repeats_each_pixel_and_convolves():
    layer = L.ResizeConv(2, 2, 3, bias=True)
    x = images(1, 2, 4, 5)
    repeated = torch.from_numpy(x.numpy().repeat(2, axis=2).repeat(2, axis=3))
    torch.testing.assert_close(layer(x), layer.conv(repeated))


@pytest.mark.parametrize("ndim", [2, 3])
def test_reflection_pad_mirrors_without_the_border(ndim):
    x = images(1, 2, *(6, 5, 4)[:ndim])
    expected = np.pad(x.numpy(), [(0, 0), (0, 0)] + [(3, 3)] * ndim, mode="reflect")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        padded = L.reflection_pad(ndim, 3)(x.bfloat16())
    assert padded.dtype == torch.bfloat16
    np.testing.assert_array_equal(padded.float().numpy(), torch.from_numpy(expected).bfloat16().float().numpy())


@settings(max_examples=60, deadline=None)
@given(
    space=st.lists(st.integers(1, 21), min_size=2, max_size=3),
    multiple=st.sampled_from([1, 2, 4, 8, 32]),
    minimum=st.integers(1, 12),
)
def test_pad_to_multiple_and_its_crop_are_inverse(space, multiple, minimum):
    x = images(1, 2, *space)
    padded, crop = L.pad_to_multiple(x, multiple, minimum)
    for before, after in zip(space, padded.shape[2:], strict=True):
        assert after % multiple == 0
        assert max(before, minimum) <= after < max(before, minimum) + multiple
    assert torch.equal(padded[crop], x)
    assert {float(v) for v in padded.unique()} == {float(v) for v in x.unique()}  # border pixels, nothing else


def test_nothing_is_copied_when_there_is_nothing_to_pad():
    x = images(1, 1, 8, 12)
    assert L.pad_to_multiple(x, 4)[0] is x


def test_norms_and_the_biases_before_them():
    assert isinstance(L.norm(2, "batch", 4), nn.BatchNorm2d)
    assert isinstance(L.norm(3, "batch", 4), nn.BatchNorm3d)
    assert isinstance(L.norm(3, "none", 4), nn.Identity)
    for channels in (1, 2, 3, 8, 32, 48, 64, 256):
        group = L.norm(2, "group", channels)
        assert isinstance(group, nn.GroupNorm)
        assert group.num_groups <= 32
        assert channels // group.num_groups >= 2 or channels == 1
    assert [L.needs_bias(kind) for kind in L.NORMS] == [False, False, True, True]
    with pytest.raises(ModelError, match="'layer' is unknown; allowed are instance, batch, group, none"):
        L.norm(2, "layer", 4)
    for make in (L.conv, L.conv_transpose):
        with pytest.raises(ModelError, match=r"2 .* or 3"):
            make(1, 1, 1, 3)


def test_initialize_draws_the_originals_distribution_and_repeats_it():
    module = nn.Sequential(L.conv(2, 32, 32, 5), L.norm(2, "batch", 512), L.norm(2, "group", 32))
    L.initialize(module, generator=torch.Generator().manual_seed(5))
    convolution, batch, group = module
    assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert abs(convolution.weight.mean().item()) < 5e-4
    assert batch.weight.mean().item() == pytest.approx(1, abs=5e-3)
    assert batch.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert (group.weight == 1).all()
    assert all((m.bias == 0).all() for m in module)
    first = convolution.weight.clone()
    L.initialize(module, gain=0.1)
    assert convolution.weight.std().item() == pytest.approx(0.1, rel=0.03)
    L.initialize(module, generator=torch.Generator().manual_seed(5))
    assert torch.equal(convolution.weight, first)


def test_float32_inside_autocast():
    layer = nn.Linear(3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.ones(1, 3)).dtype == torch.bfloat16
        assert L.in_float32(layer, torch.ones(1, 3).bfloat16()).dtype == torch.float32
    assert L.in_float32(layer.double(), torch.ones(1, 3).double()).dtype == torch.float64


def test_checkpointing_leaves_batch_statistics_counted_once():
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    again = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    again.load_state_dict(plain.state_dict())
    x = images(2, 1, 6, 6)
    L.run(plain, x, False).square().sum().backward()
    L.run(again, x, True).square().sum().backward()
    for (name, a), b in zip(plain.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert again[1].num_batches_tracked == 1
    for a, b in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
