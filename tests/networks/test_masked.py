from __future__ import annotations

import pytest
import torch

from medcycle.errors import ModelError
from medcycle.networks import MaskedGenerator


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def small(**arguments) -> MaskedGenerator:
    return MaskedGenerator(**{"in_channels": 2, "out_channels": 2, "filters": 2, "blocks": 1} | arguments)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_image_is_content_where_the_mask_is_1_and_the_input_where_it_is_0(ndim):
    network = small(ndim=ndim, attention=True, upsample="resize")
    with torch.no_grad():
        network.body.tail[1].conv.weight.mul_(30)  # masks of many values
    x = images(2, 2, *(9, 12, 5)[:ndim])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image, mask = network.with_mask(x)
        assert torch.equal(network(x), image)
        raw = network.body(x)
    assert (image.shape, mask.shape) == (x.shape, (2, 1, *x.shape[2:]))
    assert image.dtype == mask.dtype == torch.float32
    assert 0 <= mask.min() < 0.3
    assert 0.7 < mask.max() <= 1
    assert image.abs().max() <= 1
    torch.testing.assert_close(mask, (raw[:, 2:] + 1) / 2)
    torch.testing.assert_close(image, mask * raw[:, :2] + (1 - mask) * x)
    image.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_the_background_is_copied_to_the_last_bit():
    network = small()
    with torch.no_grad():
        network.body.tail[1].conv.bias[2] = -100.0
    x = images(1, 2, 8, 8)
    image, mask = network.with_mask(x)
    assert mask.max() == 0
    assert torch.equal(image, x)


def test_it_keeps_nothing_of_a_call():
    network = small()
    before = set(vars(network))
    network.with_mask(images(1, 2, 8, 8))
    assert set(vars(network)) == before


def test_checkpointing_reaches_the_body():
    network = small()
    assert not network.checkpointing
    network.checkpointing = True
    assert network.body.checkpointing
    assert network.checkpointing


def test_unequal_channels_are_refused():
    with pytest.raises(ModelError, match=r"as many channels; got 1 in and 3 out. Take images of equal channels, or"):
        small(in_channels=1, out_channels=3)


def test_what_the_body_refuses_is_refused():
    assert small(norm="batch").batch_independent is False
    with pytest.raises(ModelError, match="blocks -1"):
        small(blocks=-1)
    with pytest.raises(ModelError, match=r"got \(1, 1, 8, 8\)"):
        small()(torch.zeros(1, 1, 8, 8))
