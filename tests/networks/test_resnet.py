from __future__ import annotations

import pytest
import torch

from medcycle.errors import ModelError
from medcycle.networks import ResnetGenerator


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def small(**arguments) -> ResnetGenerator:
    return ResnetGenerator(**{"in_channels": 1, "out_channels": 1, "filters": 4, "blocks": 2} | arguments)


@pytest.mark.parametrize(("blocks", "count"), [(9, 11_378_179), (6, 7_837_699)])
def test_the_plain_network_is_the_originals_size_and_ours_lacks_only_cancelled_biases(original, blocks, count):
    with torch.device("meta"):
        plain = original.resnet(blocks=blocks)
        ours = ResnetGenerator(3, 3, blocks=blocks)
    assert original.parameters(plain) == count
    cancelled = sum(m.bias.numel() for m in original.convolutions(plain)[:-1])
    assert original.parameters(ours) == count - cancelled


@pytest.mark.parametrize("size", [(256, 256), (48, 80)])
def test_equals_the_original(original, size):
    plain = original.weighted(original.resnet(filters=4, blocks=3))
    ours = ResnetGenerator(3, 3, filters=4, blocks=3)
    original.copy_weights(original.convolutions(plain), original.convolutions(ours))
    x = images(2, 3, *size)
    with torch.no_grad():
        expected = plain(x)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5)


def test_a_volume_of_equal_planes_and_kernels_without_depth_gives_the_planar_result():
    """The 3D network holds the 2D one: kernels that act in the middle plane only make each plane a 2D image."""
    planar, volumetric = small(norm="none", blocks=1), small(norm="none", blocks=1, ndim=3)
    with torch.no_grad():
        state = volumetric.state_dict()
        for name, value in planar.state_dict().items():
            if value.ndim == 1:
                state[name].copy_(value)
            else:
                wide = value * 20
                planar.state_dict()[name].copy_(wide)
                state[name].zero_()
                middle = value.shape[-1] // 2
                state[name][:, :, middle] = wide
                if name.startswith("up."):  # stride 2 in depth: odd planes come from the kernel's outer parts
                    state[name][:, :, 0] = wide / 2
                    state[name][:, :, 2] = wide / 2
        image = images(1, 1, 16, 16)
        volume = image[:, :, None].expand(-1, -1, 16, -1, -1)
        expected, got = planar(image), volumetric(volume)
    assert expected.std() > 0.01
    # Depth borders differ (transposed convolutions meet no second neighbour there); the inside must not.
    for k in range(2, 12):
        torch.testing.assert_close(got[:, :, k], expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("upsample", ["transposed", "resize"])
@pytest.mark.parametrize("norm", ["instance", "batch", "group", "none"])
def test_every_variant_keeps_the_size_and_gives_float32_in_range(ndim, upsample, norm):
    network = small(in_channels=2, out_channels=3, ndim=ndim, upsample=upsample, norm=norm)
    x = images(2, 2, *(15, 9, 6)[:ndim])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = network(x)
    assert y.shape == (2, 3, *x.shape[2:])
    assert y.dtype == torch.float32
    assert y.abs().max() <= 1
    y.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    biases = [name for name, _ in network.named_parameters() if name.endswith("bias") and "tail" not in name]
    assert bool(biases) == (norm != "instance")


def test_bfloat16_changes_little():
    network = small()
    x = images(1, 1, 32, 32)
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = network(x)
    assert 0 < (y - exact).abs().max() < 0.02


@pytest.mark.parametrize("fill", [-1.0, 0.0, 0.37])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_constant_image_gives_finite_values_and_gradients(fill, precision):
    network = small()
    x = torch.full((1, 1, 16, 16), fill, requires_grad=True)
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        y = network(x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_images_of_a_batch_do_not_touch_one_another():
    x = images(2, 1, 16, 16)
    for norm, independent in [("instance", True), ("group", True), ("none", True), ("batch", False)]:
        network = small(norm=norm)
        assert network.batch_independent is independent
        with torch.no_grad():
            together, alone = network(x)[:1], network(x[:1])
        assert torch.allclose(together, alone, atol=1e-6) is independent


@pytest.mark.parametrize("arguments", [{}, {"dropout": 0.5}, {"norm": "batch"}, {"ndim": 3, "upsample": "resize"}])
def test_checkpointing_gives_the_same_output_and_gradients(arguments):
    plain, saving = small(**arguments), small(**arguments, checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x = images(2, 1, *[8] * plain.ndim)
    results = []
    for network in (plain, saving):
        torch.manual_seed(3)
        y = network(x)
        y.square().sum().backward()
        results.append([y.detach(), *(p.grad for p in network.parameters()), *network.buffers()])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_dropout_works_in_training_only():
    network = small(dropout=0.5)
    x = images(1, 1, 16, 16)
    with torch.no_grad():
        assert not torch.equal(network(x), network(x))
        network.eval()
        assert torch.equal(network(x), network(x))


def test_gradients_survive_a_second_derivative():
    """The gradient penalty of WGAN-GP differentiates a gradient."""
    network = small()
    x = images(1, 1, 8, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    # A bias of the last convolution reaches the first derivative through the tanh.
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upsample": "nearest"}, "upsample 'nearest' is unknown; allowed are transposed, resize"),
        ({"norm": "layer"}, "norm 'layer' is unknown"),
        ({"ndim": 4}, "ndim 4"),
        ({"filters": 0}, "filters 0"),
        ({"blocks": -1}, "blocks -1"),
        ({"dropout": 1.0}, "dropout 1.0"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(ModelError, match=message):
        small(**arguments)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 1, 16, 16, 16), (16, 16)])
def test_a_wrong_input_is_named(shape):
    with pytest.raises(ModelError, match=r"2D ResNet generator takes a batch of shape \(batch, 1, i, j\); got"):
        small()(torch.zeros(shape))


@pytest.mark.parametrize("space", [(1, 1), (3, 4), (5, 2, 1)])
def test_images_smaller_than_the_network_halves_are_padded(space):
    y = small(ndim=len(space))(images(1, 1, *space))
    assert y.shape == (1, 1, *space)
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("ndim", [2, 3])
def test_attention_starts_without_effect_and_then_sees_everything(ndim):
    network = small(ndim=ndim, norm="none", attention=True, blocks=1)
    plain = small(ndim=ndim, norm="none", blocks=1)
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if "attention" not in k})
    x = images(1, 1, *(80, 8, 8)[:ndim]).requires_grad_()
    assert torch.equal(network(x), plain(x))
    for gain in (0.0, 1.0):
        torch.nn.init.constant_(network.attention.gain.value, gain)
        (gradient,) = torch.autograd.grad(network(x)[0, 0, 0].sum(), x)
        assert bool(gradient[0, 0, 60:].abs().max() > 0) is bool(gain)
