"""The losses against formulas written out with NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from medcycle.training.losses import (
    Adversarial,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    l1,
    r1,
    value_distance,
)

rng = np.random.default_rng(0)
REAL, FAKE = rng.normal(size=(2, 1, 5, 6)), rng.normal(size=(2, 1, 5, 6))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


GENERATOR = {
    "lsgan": ((FAKE - 1) ** 2).mean(),
    "bce": -np.log(sigmoid(FAKE)).mean(),
    "hinge": -FAKE.mean(),
    "wgan-gp": -FAKE.mean(),
}
DISCRIMINATOR = {
    "lsgan": (((REAL - 1) ** 2).mean() + (FAKE**2).mean()) / 2,
    "bce": (-np.log(sigmoid(REAL)).mean() - np.log(1 - sigmoid(FAKE)).mean()) / 2,
    "hinge": np.maximum(0, 1 - REAL).mean() + np.maximum(0, 1 + FAKE).mean(),
    "wgan-gp": FAKE.mean() - REAL.mean(),
}


@pytest.mark.parametrize("kind", GENERATOR)
def test_adversarial_losses_equal_their_formulas(kind: str) -> None:
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    assert float(generator_loss(kind, fake)) == pytest.approx(GENERATOR[kind], rel=1e-6)  # type: ignore[arg-type]
    assert float(discriminator_loss(kind, real, fake)) == pytest.approx(DISCRIMINATOR[kind], rel=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", GENERATOR)
def test_losses_are_float32_whatever_the_logits(kind: str) -> None:
    half = torch.ones(1, 1, 3, 3, dtype=torch.bfloat16)
    assert generator_loss(kind, half).dtype == torch.float32  # type: ignore[arg-type]
    assert discriminator_loss(kind, half, half).dtype == torch.float32  # type: ignore[arg-type]
    assert l1(half, half).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, 1, 4, 5), (2, 2, 3, 4, 5)])
def test_gradient_penalty_of_a_linear_critic_is_known(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape[1:], generator=torch.Generator().manual_seed(1))
    penalty = gradient_penalty(lambda x: x * weight, torch.zeros(shape), torch.ones(shape))
    assert float(penalty) == pytest.approx((float(weight.norm()) - 1) ** 2, rel=1e-5)


def test_gradient_penalty_trains_the_critic() -> None:
    critic = torch.nn.Conv2d(1, 1, 3)
    gradient_penalty(critic, torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)).backward()
    assert critic.weight.grad is not None
    assert float(critic.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("kind", ["lsgan", "bce", "hinge", "wgan-gp"])
def test_only_the_body_counts_where_a_mask_is_given(ndim: int, kind: Adversarial) -> None:
    """A logit for each half of the image; the body fills the first half and a quarter of the second."""
    inside = torch.zeros(1, 1, *(8,) * ndim)
    inside[:, :, :4], inside[:, :, 4:6, :4] = 1, 1
    real, fake = (torch.tensor([1.5, -0.7]).reshape(1, 1, 2, *(1,) * (ndim - 1)) * sign for sign in (1, -1))
    weights = torch.tensor([1.0, 0.25]) / 1.25

    def plain(loss, *logits: torch.Tensor) -> float:
        """The same, one logit at a time, weighted by hand."""
        parts = [loss(kind, *(x.flatten()[n : n + 1] for x in logits)) for n in (0, 1)]
        return float((torch.stack(parts) * weights).sum())

    assert float(generator_loss(kind, fake, inside)) == pytest.approx(plain(generator_loss, fake), rel=1e-5)
    found = float(discriminator_loss(kind, real, fake, (inside, inside)))
    assert found == pytest.approx(plain(discriminator_loss, real, fake), rel=1e-5)
    a, b = torch.zeros(1, 2, *(8,) * ndim), torch.zeros(1, 2, *(8,) * ndim)
    b[:, :, :4], b[:, :, 6:] = 0.5, 9.0  # outside, anything may be
    assert float(l1(a, b, inside)) == pytest.approx(0.5 * 4 / (4 + 2 * 0.5), rel=1e-5)
    assert float(l1(a, b, torch.zeros_like(inside))) == 0


@pytest.mark.parametrize("shape", [(3, 1, 4, 5), (2, 2, 3, 4, 5)])
def test_r1_of_a_critic_with_one_score_is_the_papers(shape: tuple[int, ...]) -> None:
    """Mescheder 2018, eq. 9 with gamma 1: half of the mean of |gradient|^2, which of sum(x^2) is |2 x|^2."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = r1(lambda x: x.flatten(1).square().sum(1), x)
    assert float(found.detach()) == pytest.approx(float((2 * x).flatten(1).square().sum(1).mean()) / 2, rel=1e-5)
    assert not x.requires_grad


@pytest.mark.parametrize("size", [3, 12])
def test_r1_of_separate_patches_does_not_depend_on_their_number(size: int) -> None:
    critic = torch.nn.Conv2d(1, 1, 3, stride=3)
    found = r1(critic, torch.rand(2, 1, size, size))
    assert float(found.detach()) == pytest.approx(float(critic.weight.detach().square().sum()) / 2, rel=1e-5)
    found.backward()
    torch.testing.assert_close(critic.weight.grad, critic.weight.detach())


@pytest.mark.parametrize("shape", [(2, 1, 16, 12), (2, 2, 6, 8, 5)])
def test_value_distance_is_that_of_scipy_inside_the_body(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    made, real = (torch.rand(shape, generator=generator) * scale - 0.5 for scale in (1.0, 0.6))
    made[..., :3], real[..., 2:6] = -1, -1
    expected = np.mean([stats.wasserstein_distance(m[m > -1], r[r > -1]) for m, r in zip(made, real, strict=True)])
    assert float(value_distance(made, real)) == pytest.approx(expected, abs=5e-3)
    assert float(value_distance(made, made.flip(2))) == 0  # wherever they lie
    air = torch.full_like(made, -1)
    assert float(value_distance(air, air)) == 0
    made.requires_grad_(True)
    value_distance(made, real).backward()
    assert made.grad is not None
    assert made.grad.isfinite().all()
    assert not made.grad[..., :3].any()
