"""The step: against the plain one of original_step.py on networks of ours, and what it promises besides."""

from __future__ import annotations

import copy
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from medcycle.networks import build_discriminator, build_generator
from medcycle.training.losses import l1
from medcycle.training.runtime import SideBySide
from medcycle.training.step import CycleGAN, LossSettings, training_step

SHAPES = {2: (16, 20), 3: (8, 8, 12)}


def networks(ndim: int = 2, norm: str = "instance", seed: int = 0) -> list[nn.Module]:
    torch.manual_seed(seed)
    sizes = {"in_channels": 1, "out_channels": 1, "ndim": ndim, "filters": 4, "blocks": 1, "norm": norm}
    critic = {"channels": 1, "ndim": ndim, "filters": 4, "layers": 1, "norm": norm}
    made = [build_generator("resnet", **sizes) for _ in "ab"]
    return made + [build_discriminator("patchgan", **critic) for _ in "ab"]


def samples(steps: int, ndim: int = 2, batch: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    shape = (batch, 1, *SHAPES[ndim])
    return [tuple(torch.rand(shape, generator=generator) * 2 - 1 for _ in "ab") for _ in range(steps)]  # type: ignore[misc]


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_steps_in_a_row_equal_the_originals_on_the_same_networks(
    original_step: ModuleType, ndim: int, norm: str
) -> None:
    """In 3D too, which the original lacks; test_original.py has its own networks."""
    nets = networks(ndim, norm)
    reference = copy.deepcopy(nets)
    g_ab, g_ba, d_a, d_b = reference
    plain = original_step.OriginalStep(g_ab, g_ba, d_b, d_a, pool=0)
    gan = CycleGAN(*nets, pool=0)
    for a, b in samples(20 if ndim == 2 else 5, ndim, batch=2 if norm == "batch" else 1):
        ours = training_step(gan, a, b, LossSettings())
        theirs = plain.step(a, b)
        assert set(ours) == set(theirs)
        for name, value in theirs.items():
            assert float(ours[name]) == pytest.approx(value, rel=1e-5), name
    for network, other in zip(nets, reference, strict=True):
        for one, two in zip(network.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5 if ndim == 2 else 1e-4)  # Adam enlarges rounding


@pytest.mark.parametrize("kind", ["bce", "hinge", "wgan-gp"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_every_adversarial_loss_trains_every_network(kind: str, ndim: int) -> None:
    gan = CycleGAN(*networks(ndim))
    before = copy.deepcopy({name: network.state_dict() for name, network in gan.networks.items()})
    for a, b in samples(2, ndim):
        values = training_step(gan, a, b, LossSettings(adversarial=kind))  # type: ignore[arg-type]
    assert all(bool(torch.isfinite(value)) and value.dtype == torch.float32 for value in values.values())
    assert ("penalty_a" in values) == (kind == "wgan-gp")
    for name, network in gan.networks.items():
        assert any(not torch.equal(before[name][key], value) for key, value in network.state_dict().items()), name


def test_the_generator_phase_leaves_the_discriminators_without_gradients() -> None:
    gan = CycleGAN(*networks())
    a, b = samples(1)[0]
    training_step(gan, a, b, LossSettings())
    assert all(p.requires_grad and p.grad is not None for p in gan.discriminator_parameters)


@pytest.mark.parametrize("size", [1, 2])
def test_microbatches_add_up_to_the_batch(size: int) -> None:
    nets = networks()
    whole, parts = CycleGAN(*copy.deepcopy(nets), pool=0), CycleGAN(*nets, pool=0)
    a, b = samples(1, batch=3)[0]
    one, two = training_step(whole, a, b, LossSettings()), training_step(parts, a, b, LossSettings(), microbatch=size)
    for name, value in one.items():
        assert float(two[name]) == pytest.approx(float(value), rel=1e-5), name
    for p, q in zip(whole.generator_parameters, parts.generator_parameters, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-5)


def test_identity_zero_computes_no_identity() -> None:
    gan = CycleGAN(*networks())
    values = training_step(gan, *samples(1)[0], LossSettings(identity=0))
    assert "identity_a" not in values
    expected = values["adversarial_a"] + values["adversarial_b"] + 10 * (values["cycle_a"] + values["cycle_b"])
    assert float(values["generator"]) == pytest.approx(float(expected))


def test_a_step_learns_the_identity() -> None:
    gan = CycleGAN(*networks(), learning_rate=2e-3)
    a, b = samples(1)[0]
    first = training_step(gan, a, b, LossSettings())
    for _ in range(40):
        last = training_step(gan, a, b, LossSettings())
    assert float(last["identity_a"]) < 0.7 * float(first["identity_a"])


def test_bf16_stays_close_and_ends_in_float32() -> None:
    nets = networks()
    exact, half = CycleGAN(*copy.deepcopy(nets)), CycleGAN(*nets, precision="bf16")
    for a, b in samples(3):
        one, two = training_step(exact, a, b, LossSettings()), training_step(half, a, b, LossSettings())
    for name, value in one.items():
        assert two[name].dtype == torch.float32
        assert float(two[name]) == pytest.approx(float(value), rel=0.05), name


def test_moving_average_follows_its_formula() -> None:
    gan = CycleGAN(*networks(), ema=0.9)
    expected = [p.clone() for p in gan.average_a_to_b.parameters()]
    for number, (a, b) in enumerate(samples(4), start=1):
        training_step(gan, a, b, LossSettings())
        decay = min(0.9, (1 + number) / (10 + number))
        expected = [
            decay * e + (1 - decay) * p.detach() for e, p in zip(expected, gan.a_to_b.parameters(), strict=True)
        ]
    for one, two in zip(gan.average_a_to_b.parameters(), expected, strict=True):
        torch.testing.assert_close(one, two)


def test_state_goes_on_bit_for_bit() -> None:
    nets = networks()
    one, two = CycleGAN(*copy.deepcopy(nets), ema=0.9), CycleGAN(*networks(seed=7), ema=0.9)
    data = samples(6)
    for a, b in data[:3]:
        training_step(one, a, b, LossSettings())
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    two.pool_a.load_state_dict(one.pool_a.state_dict())
    two.pool_b.load_state_dict(one.pool_b.state_dict())
    for a, b in data[3:]:
        training_step(one, a, b, LossSettings())
        training_step(two, a, b, LossSettings())
    assert two.step == 6
    for name, network in one.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, two.networks[name].state_dict()[key]), f"{name}.{key}"


def test_l1_is_the_mean_absolute_difference() -> None:
    assert float(l1(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 3.0]))) == 2.5


@pytest.mark.parametrize("microbatch", [None, 1])
def test_side_by_side_is_the_same_to_the_last_bit(microbatch: int | None) -> None:
    nets = networks()
    one, two = CycleGAN(*copy.deepcopy(nets)), CycleGAN(*nets)
    two.both = SideBySide(1)
    for a, b in samples(8, batch=2):
        expected = training_step(one, a, b, LossSettings(), microbatch)
        found = training_step(two, a, b, LossSettings(), microbatch)
        assert {name: float(value) for name, value in expected.items()} == {n: float(v) for n, v in found.items()}
    for network, other in zip(one.networks.values(), two.networks.values(), strict=True):
        for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_what_draws_at_random_is_known() -> None:
    assert CycleGAN(*networks()).deterministic
    assert not CycleGAN(*networks(norm="batch")).deterministic
    dropping = networks()
    dropping[0].body = nn.Dropout(0.5)
    assert not CycleGAN(*dropping).deterministic
