from __future__ import annotations

import pytest
import torch

from medcycle.errors import ModelError
from medcycle.networks import PatchDiscriminator, PixelDiscriminator


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def test_the_size_of_the_original(original):
    with torch.device("meta"):
        plain, ours = original.patchgan(), PatchDiscriminator(3)
    assert original.parameters(plain) == 2_764_737
    assert original.parameters(ours) == 2_764_737 - (128 + 256 + 512)


@pytest.mark.parametrize("size", [(256, 256), (70, 131)])
def test_equals_the_original(original, size):
    plain = original.weighted(original.patchgan(filters=4))
    ours = PatchDiscriminator(3, filters=4)
    original.copy_weights(original.convolutions(plain), original.convolutions(ours))
    x = images(2, 3, *size)
    with torch.no_grad():
        expected = plain(x)
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5)
    if size == (256, 256):
        assert expected.shape == (2, 1, 30, 30)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_one_score_sees_its_patch_and_no_more(ndim, layers, patch):
    network = PatchDiscriminator(1, ndim=ndim, filters=1, layers=layers, norm="none")
    assert network.patch == patch
    with torch.no_grad():
        for p in network.parameters():
            p.abs_().add_(1e-3)
    length = 40 if ndim == 3 and layers < 3 else 96
    # One long axis is enough in 3D: the network is the same along every axis.
    x = torch.ones(1, 1, length, *[network.minimum] * (ndim - 1), requires_grad=True)
    scores = network(x)
    middle = scores.shape[2] // 2
    scores[0, 0, middle].sum().backward()
    seen = x.grad.abs().flatten(3).sum((0, 1, 3)).nonzero()
    assert seen.max() - seen.min() + 1 == patch


@pytest.mark.parametrize("norm", ["instance", "batch", "group", "none"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_scores_are_float32_and_differentiable(ndim, norm):
    for network, fewer in [
        (PatchDiscriminator(2, ndim=ndim, filters=2, layers=2, norm=norm), 2),
        (PixelDiscriminator(2, ndim=ndim, filters=2, norm=norm), 16),
    ]:
        assert network.batch_independent is (norm != "batch")
        x = images(2, 2, *[16] * ndim).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = network(x)
        assert y.shape == (2, 1, *[fewer] * ndim)
        assert y.dtype == torch.float32
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        gradient.square().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_a_pixels_score_depends_on_that_pixel_alone():
    network = PixelDiscriminator(3, filters=4, norm="none")
    x = images(1, 3, 5, 6).requires_grad_()
    network(x)[0, 0, 2, 3].backward()
    assert x.grad.abs().sum(1).nonzero().tolist() == [[0, 2, 3]]


def test_the_smallest_image():
    for layers in (1, 2, 3):
        network = PatchDiscriminator(1, filters=2, layers=layers)
        n = network.minimum
        assert network(images(1, 1, n, n)).shape == (1, 1, 1, 1)
        with pytest.raises(ModelError, match=f"{n - 1} x {n} pixels is too small .* needs {n} along each axis"):
            network(images(1, 1, n - 1, n))


@pytest.mark.parametrize(("arguments", "message"), [({"layers": 0}, "layers 0"), ({"channels": 0}, "channels 0")])
def test_impossible_arguments(arguments, message):
    with pytest.raises(ModelError, match=message):
        PatchDiscriminator(**{"channels": 1} | arguments)


def test_a_wrong_input_is_named():
    with pytest.raises(ModelError, match=r"2D PatchGAN discriminator .* 3 channels and 2 space axes"):
        PatchDiscriminator(3)(torch.zeros(1, 1, 64, 64))
    with pytest.raises(ModelError, match="2D pixel discriminator"):
        PixelDiscriminator(1)(torch.zeros(1, 1, 4, 4, 4))


@pytest.mark.parametrize("ndim", [2, 3])
def test_every_scale_judges_an_image_of_half_the_size(ndim):
    network = PatchDiscriminator(1, ndim=ndim, filters=2, layers=1, scales=3)
    n = network.minimum
    assert n == 2 * (2 * 6 - 1) - 1
    x = images(1, 1, *[n] * ndim)
    scores = network(x)
    fine = n // 2 - 2
    assert scores.shape == (1, 3, *[fine] * ndim)
    # Halved by hand: the mean of what a window of three finds inside the image.
    for channel, critic in enumerate(network.coarser, start=1):
        for axis in range(2, x.ndim):
            length = x.shape[axis]
            windows = [range(max(0, i - 1), min(length, i + 2)) for i in range(0, length, 2)]
            x = torch.stack([x.index_select(axis, torch.tensor(list(w))).mean(axis) for w in windows], axis)
        coarse = critic(x)
        places = [int(i * coarse.shape[2] / fine) for i in range(fine)]
        for axis in range(2, x.ndim):
            coarse = coarse.index_select(axis, torch.tensor(places))
        torch.testing.assert_close(scores[:, channel : channel + 1], coarse)
    with pytest.raises(ModelError, match=f"needs {n} along each axis. Take larger samples, fewer layers or scales"):
        network(images(1, 1, *[n - 1] * ndim))


def test_one_scale_is_the_network_of_before():
    assert set(PatchDiscriminator(1, filters=2, layers=1).state_dict()) == {
        "body.0.weight", "body.0.bias", "body.2.weight", "score.weight", "score.bias",
    }  # fmt: skip
