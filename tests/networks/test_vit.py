from __future__ import annotations

import pytest
import torch

from medcycle.errors import ModelError
from medcycle.networks import VitGenerator
from medcycle.networks.attention import Gain


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def small(**arguments) -> VitGenerator:
    sizes = {"in_channels": 1, "out_channels": 1, "filters": 2, "downs": 2, "layers": 2, "heads": 3}
    return VitGenerator(**sizes | arguments)


def awake(network: VitGenerator) -> VitGenerator:
    """With the transformer's branches open, which start closed."""
    with torch.no_grad():
        for m in network.modules():
            if isinstance(m, Gain):
                m.value.fill_(1.0)
    return network


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("upsample", ["transposed", "resize"])
@pytest.mark.parametrize("norm", ["instance", "batch", "group", "none"])
def test_every_variant_keeps_the_size_and_gives_float32_in_range(ndim, upsample, norm):
    network = awake(small(in_channels=2, out_channels=3, ndim=ndim, upsample=upsample, norm=norm))
    assert network.batch_independent is (norm != "batch")
    x = images(2, 2, *(15, 9, 6)[:ndim])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = network(x)
    assert y.shape == (2, 3, *x.shape[2:])
    assert y.dtype == torch.float32
    assert y.abs().max() <= 1
    y.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("downs", [1, 5])
def test_tokens_are_the_pixels_at_the_bottom(downs):
    network = small(downs=downs)
    seen = []
    network.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    network(images(1, 1, 64, 32))
    channels = 2 * min(2 ** (downs - 1), 8)
    assert seen == [(1, 64 * 32 // 4**downs, -(-channels // 3) * 3)]


def test_a_far_pixel_is_seen_through_the_transformer_only():
    """Without norms over the image, convolutions alone see some pixels around."""
    network = small(norm="none")
    x = images(1, 1, 64, 64).requires_grad_()
    for see in (False, True):
        if see:
            awake(network)
        (gradient,) = torch.autograd.grad(network(x)[0, 0, 0, 0], x)
        assert bool(gradient[0, 0, 48:, 48:].abs().max() > 0) is see


def test_places_matter():
    """Two equal halves of an image are told apart by their coordinates alone."""
    network = awake(small(norm="none", downs=2)).double()
    with torch.no_grad():
        bottom = torch.ones(1, 4, 1, 2, dtype=torch.float64)
        left, right = network._transform(bottom)[0].unbind(-1)
        assert not torch.allclose(left, right)
        network.embed.weight[:, 4:] = 0
        left, right = network._transform(bottom)[0].unbind(-1)
        assert torch.allclose(left, right)


def test_images_of_a_batch_do_not_touch_one_another():
    x = images(2, 1, 16, 16)
    for norm, independent in [("instance", True), ("batch", False)]:
        network = awake(small(norm=norm))
        with torch.no_grad():
            assert torch.allclose(network(x)[:1], network(x[:1]), atol=1e-6) is independent


@pytest.mark.parametrize("arguments", [{}, {"norm": "batch"}, {"ndim": 3}])
def test_checkpointing_gives_the_same_output_and_gradients(arguments):
    plain = awake(small(**arguments))
    saving = small(**arguments, checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x = images(2, 1, *[8] * plain.ndim)
    results = []
    for network in (plain, saving):
        y = network(x)
        y.square().sum().backward()
        results.append([y.detach(), *(p.grad for p in network.parameters()), *network.buffers()])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("fill", [-1.0, 0.37])
def test_a_constant_image_gives_finite_values_and_gradients(fill):
    network = awake(small())
    x = torch.full((1, 1, 8, 8), fill, requires_grad=True)
    y = network(x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"downs": 0}, "downs 0"),
        ({"heads": 0}, "heads 0"),
        ({"layers": 0}, "layers 0"),
        ({"upsample": "nearest"}, "upsample 'nearest' is unknown; allowed are transposed, resize"),
        ({"norm": "layer"}, "norm 'layer' is unknown"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(ModelError, match=message):
        small(**arguments)


def test_a_wrong_input_is_named():
    with pytest.raises(ModelError, match=r"3D transformer U-Net generator takes .*\(batch, 1, i, j, k\); got"):
        small(ndim=3)(torch.zeros(1, 1, 8, 8))
