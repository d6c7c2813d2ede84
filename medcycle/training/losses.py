"""The losses, as pure functions of float32 tensors.

Adversarial losses take logits of any shape and average over all of them, so 2D and 3D share every line. `real` and
`fake` are the discriminator's logits for images of its own domain and for generated ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import relu

Adversarial: TypeAlias = Literal["lsgan", "bce", "hinge", "wgan-gp"]


def generator_loss(kind: Adversarial, fake: Tensor) -> Tensor:
    """How far generated images are from being taken for real.

    lsgan: Mao 2017, eq. 9 (without the factor 1/2, as in CycleGAN); bce: Goodfellow 2014, section 3, non-saturating;
    hinge: Lim & Ye 2017; wgan-gp: Arjovsky 2017, algorithm 1.
    """
    fake = fake.float()
    if kind == "lsgan":
        return (fake - 1).square().mean()
    if kind == "bce":
        return bce(fake, torch.ones_like(fake))
    return -fake.mean()


def discriminator_loss(kind: Adversarial, real: Tensor, fake: Tensor) -> Tensor:
    """How badly real and generated images are told apart (same sources as `generator_loss`).

    lsgan and bce carry the factor 1/2 of Zhu 2017, section 7.1, which slows the discriminator down.
    """
    real, fake = real.float(), fake.float()
    if kind == "lsgan":
        return 0.5 * ((real - 1).square().mean() + fake.square().mean())
    if kind == "bce":
        return 0.5 * (bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake)))
    if kind == "hinge":
        return relu(1 - real).mean() + relu(1 + fake).mean()
    return fake.mean() - real.mean()


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """Mean over samples of (|gradient| - 1)^2 at random points between real and fake (Gulrajani 2017, eq. 3).

    Args:
        discriminator: the network; its logits are summed over the sample.
        real: shape (batch, channel, *space).
        fake: same shape.
    """
    share = torch.rand(real.shape[0], *[1] * (real.ndim - 1), device=real.device)
    between = (share * real.float() + (1 - share) * fake.float()).requires_grad_(True)
    with torch.autocast(real.device.type, enabled=False):  # second derivatives lose too much in half precision
        logits = discriminator(between)
        (gradient,) = torch.autograd.grad(logits.sum(), between, create_graph=True)
    return ((gradient.flatten(1).square().sum(1) + 1e-12).sqrt() - 1).square().mean()


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference: the cycle and the identity loss (Zhu 2017, eq. 2 and section 5.2)."""
    return (prediction.float() - target.float()).abs().mean()
