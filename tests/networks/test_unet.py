from __future__ import annotations

import pytest
import torch

from medcycle.errors import ModelError
from medcycle.networks import UnetGenerator


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def small(**arguments) -> UnetGenerator:
    return UnetGenerator(**{"in_channels": 1, "out_channels": 1, "filters": 2, "downs": 3} | arguments)


def depth_first(network: UnetGenerator, original) -> list[torch.nn.Module]:
    """Our convolutions in the order in which the original's nested blocks hold them: all down, then all up."""
    down = [network.head, *(original.convolutions(m)[0] for m in network.encoder)]
    return [*down, *(original.convolutions(m)[0] for m in network.decoder), original.convolutions(network.tail)[0]]


@pytest.mark.parametrize(("downs", "size"), [(8, (256, 256)), (5, (64, 96)), (6, (64, 128))])
def test_equals_the_original_with_its_in_place_skips(original, downs, size):
    plain = original.weighted(original.unet(filters=4, downs=downs))
    ours = UnetGenerator(3, 3, filters=4, downs=downs)
    original.copy_weights(original.convolutions(plain), depth_first(ours, original))
    x = images(2, 3, *size)
    with torch.no_grad():
        expected = plain(x)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5)


def test_the_size_of_the_original(original):
    with torch.device("meta"):
        plain, ours = original.unet(), UnetGenerator(3, 3)
        # The original counts this many for unet_256 with batch norm.
        assert original.parameters(UnetGenerator(3, 3, norm="batch")) == 54_413_955
    biases = sum(m.bias.numel() for m in original.convolutions(plain))
    kept = sum(p.numel() for name, p in ours.named_parameters() if name.endswith("bias"))
    assert original.parameters(ours) == original.parameters(plain) - biases + kept
    assert kept == 64 + 512 + 3  # first, innermost and last: no norm follows


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("upsample", ["transposed", "resize"])
@pytest.mark.parametrize("norm", ["instance", "batch", "group", "none"])
def test_every_variant_keeps_the_size_and_gives_float32_in_range(ndim, upsample, norm):
    network = small(in_channels=2, out_channels=3, ndim=ndim, upsample=upsample, norm=norm)
    transposed = [m for m in network.modules() if isinstance(m, torch.nn.modules.conv._ConvTransposeNd)]
    assert bool(transposed) is (upsample == "transposed")
    assert network.multiple == 8
    assert network.batch_independent is (norm != "batch")
    x = images(2, 2, *(21, 8, 5)[:ndim])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = network(x)
    assert y.shape == (2, 3, *x.shape[2:])
    assert y.dtype == torch.float32
    assert y.abs().max() <= 1
    y.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_dropout_sits_in_the_middle_levels_of_a_deep_network_only():
    def drops(downs: int) -> int:
        with torch.device("meta"):
            network = small(dropout=0.5, downs=downs)
        return sum(isinstance(m, torch.nn.Dropout) for m in network.modules())

    assert [drops(downs) for downs in (3, 5, 7, 8)] == [0, 0, 2, 3]


@pytest.mark.parametrize("arguments", [{}, {"norm": "batch"}, {"ndim": 3}])
def test_checkpointing_gives_the_same_output_and_gradients(arguments):
    plain, saving = small(**arguments), small(**arguments, checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x = images(2, 1, *[16] * plain.ndim)
    results = []
    for network in (plain, saving):
        y = network(x)
        y.square().sum().backward()
        results.append([y.detach(), *(p.grad for p in network.parameters()), *network.buffers()])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("fill", [-1.0, 0.37])
def test_a_constant_image_gives_finite_values_and_gradients(fill):
    network = small()
    x = torch.full((1, 1, 8, 8), fill, requires_grad=True)
    y = network(x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"downs": 1}, "downs 1"), ({"in_channels": 0}, "in_channels 0"), ({"upsample": "x"}, "upsample 'x'")],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(ModelError, match=message):
        small(**arguments)


def test_a_wrong_input_is_named():
    with pytest.raises(ModelError, match=r"3D U-Net generator takes .*\(batch, 1, i, j, k\); got \(1, 1, 8, 8\)"):
        small(ndim=3)(torch.zeros(1, 1, 8, 8))
