"""The losses against formulas written out with NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medcycle.training.losses import discriminator_loss, generator_loss, gradient_penalty, l1

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
