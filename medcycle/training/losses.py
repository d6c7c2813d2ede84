"""The losses, as pure functions of float32 tensors.

Adversarial losses take logits of any shape and average over all of them, so 2D and 3D share every line. `real` and
`fake` are the discriminator's logits for images of its own domain and for generated ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import relu

QUANTILES = 256

Adversarial: TypeAlias = Literal["lsgan", "bce", "hinge", "wgan-gp"]


def generator_loss(kind: Adversarial, fake: Tensor, inside: Tensor | None = None) -> Tensor:
    """How far generated images are from being taken for real.

    lsgan: Mao 2017, eq. 9 (without the factor 1/2, as in CycleGAN); bce: Goodfellow 2014, section 3, non-saturating;
    hinge: Lim & Ye 2017; wgan-gp: Arjovsky 2017, algorithm 1.

    Args:
        kind: of the loss.
        fake: logits.
        inside: (batch, 1, *space) of the images, 1 in the body, else 0: a logit counts as much as the places it stands
            for lie inside.
    """
    fake = fake.float()
    if kind == "lsgan":
        return mean((fake - 1).square(), inside)
    if kind == "bce":
        return mean(bce(fake, torch.ones_like(fake), reduction="none"), inside)
    return -mean(fake, inside)


def discriminator_loss(
    kind: Adversarial, real: Tensor, fake: Tensor, inside: tuple[Tensor | None, Tensor | None] = (None, None)
) -> Tensor:
    """How badly real and generated images are told apart (same sources as `generator_loss`).

    lsgan and bce carry the factor 1/2 of Zhu 2017, section 7.1, which slows the discriminator down. `inside` is that of
    the real and that of the generated images, see `generator_loss`.
    """
    real, fake = real.float(), fake.float()
    of_real, of_fake = inside
    if kind == "lsgan":
        return 0.5 * (mean((real - 1).square(), of_real) + mean(fake.square(), of_fake))
    if kind == "bce":
        return 0.5 * (
            mean(bce(real, torch.ones_like(real), reduction="none"), of_real)
            + mean(bce(fake, torch.zeros_like(fake), reduction="none"), of_fake)
        )
    if kind == "hinge":
        return mean(relu(1 - real), of_real) + mean(relu(1 + fake), of_fake)
    return mean(fake, of_fake) - mean(real, of_real)


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


def r1(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Half of the mean squared gradient of the scores at real images (R1: Mescheder 2018, eq. 9, without its gamma).

    A discriminator that gives many scores is taken for as many that judge a patch each, so the squared gradient of
    their sum is divided by their number: the weight means the same for images of any size.

    Args:
        discriminator: the network.
        real: shape (batch, channel, *space).
    """
    real = real.detach().float().requires_grad_(True)
    with torch.autocast(real.device.type, enabled=False):  # second derivatives lose too much in half precision
        logits = discriminator(real)
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return 0.5 * gradient.square().sum() / logits.numel()


def l1(prediction: Tensor, target: Tensor, inside: Tensor | None = None) -> Tensor:
    """Mean absolute difference: the cycle and the identity loss (Zhu 2017, eq. 2 and section 5.2).

    `inside`: (batch, 1, *space), the voxels that count; None: all.
    """
    return mean((prediction.float() - target.float()).abs(), inside)


def value_distance(made: Tensor, real: Tensor) -> Tensor:
    """How far the values inside the body of made and of real images are apart as distributions, wherever they lie.

    The first Wasserstein distance in one dimension: the mean difference of quantiles (Rabin 2011, eq. 2, of one slice).
    It knows how much bone there should be, which a discriminator of patches has no number for.

    Args:
        made: (batch, channel, *space) in [-1, 1]; what is exactly -1 is air outside the body and does not count.
        real: likewise.
    """
    return (_quantiles(made) - _quantiles(real.detach())).abs().mean()


def _quantiles(images: Tensor) -> Tensor:
    """(batch, QUANTILES) of the values above -1; no shape depends on how many these are."""
    values = images.float().flatten(1)
    inside = values > -1
    rising = torch.where(inside, values, math.inf).sort(dim=1).values
    at = torch.linspace(0, 1, QUANTILES, device=values.device) * (inside.sum(1, keepdim=True) - 1).clamp_min(0)
    picked: Tensor = rising.gather(1, at.long())
    return torch.where(picked.isfinite(), picked, -1.0)  # of an image of air


def mean(values: Tensor, inside: Tensor | None = None) -> Tensor:
    """The mean of all values, or each sample's mean over its body, averaged over the samples.

    Args:
        values: (batch, channel, *smaller space).
        inside: (batch, 1, *space), 1 in the body, else 0; brought to the size of the values by averaging. A sample
            without any body counts 0.
    """
    if inside is None:
        return values.mean()
    weights = inside.float()
    if weights.shape[2:] != values.shape[2:]:
        weights = F.interpolate(weights, values.shape[2:], mode="area")
    total = weights.flatten(1).sum(1) * values.shape[1]
    return ((values * weights).flatten(1).sum(1) / (total + 1e-6)).mean()
