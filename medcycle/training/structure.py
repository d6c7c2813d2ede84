"""Losses that hold what is made to the anatomy of what it was made from: which of them count, and how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcycle.similarity import (
    gradient_correlation,
    mind_distance,
    mutual_information,
    outline_consistency,
    patch_nce,
)


@dataclass(frozen=True)
class StructureSettings:
    """Weights of the structure losses between what a generator is given and what it makes; 0 switches one off.

    Attributes:
        gradient_correlation, mind, mutual_information, outline: of the functions of these names.
        patch_nce: of PatchNCE on the generator's own features (:func:`patch_nce_loss`).
        warm_up: steps over which the weights grow linearly from 0.
        planes: that the channels of a sample are (`sample.context`).
    """

    gradient_correlation: float = 0.0
    mind: float = 0.0
    mutual_information: float = 0.0
    outline: float = 0.0
    patch_nce: float = 0.0
    warm_up: int = 0
    planes: int = 1

    def ramp(self, step: int) -> float:
        """Share of the weights that counts in a step, from 0."""
        return min(1.0, step / self.warm_up) if self.warm_up else 1.0


def structure_losses(settings: StructureSettings, given: Tensor, made: Tensor) -> dict[str, tuple[float, Tensor]]:
    """Those losses that are on, each with its weight.

    Channels that are neighbouring planes are compared plane by plane: the functions average channels, and the mean of
    several planes has blurred edges, which a sharp and a blurred result would match equally well.
    """
    if settings.planes > 1:
        given, made = (plane_by_plane(images, settings.planes) for images in (given, made))
    losses = {
        "gradient_correlation": gradient_correlation,
        "mind": mind_distance,
        "mutual_information": mutual_information,
        "outline": outline_consistency,
    }
    weights = {name: float(getattr(settings, name)) for name in losses}
    return {name: (weights[name], loss(made, given)) for name, loss in losses.items() if weights[name]}


def patch_nce_loss(generator: Any, projections: nn.Module, given: Tensor, made: Tensor, draws: Tensor) -> Tensor:
    """Every place of the made image should know its own place of the given one among others (Park 2020, eq. 4).

    Known by the generator's own encoder and the projections, which learn along. Other than there, only places inside
    the body are compared: those in the air are all alike.

    Args:
        generator: with the method `features`.
        projections: a :class:`medcycle.networks.projections.Projections` for its levels.
        given: (batch, channel, *space) in [-1, 1].
        made: likewise, what the generator made of it.
        draws: (n,) random numbers in [0, 1) that choose the places.
    """
    queries, keys = generator.features(made), [level.detach() for level in generator.features(given)]
    inside = (given > -1).any(1, keepdim=True).float()  # air is exactly -1
    places = [places_inside(inside, level.shape[2:], draws) for level in keys]
    pairs = zip(projections(queries, places), projections(keys, places), strict=True)
    return torch.stack([patch_nce(query, key) for query, key in pairs]).mean()


def places_inside(inside: Tensor, space: Sequence[int], draws: Tensor) -> Tensor:
    """Indices (batch, n) into a flattened level of that size, uniform over the body; anywhere where there is none.

    Args:
        inside: (batch, 1, *space), 1 in the body, else 0.
        space: of the level, no larger.
        draws: (n,) random numbers in [0, 1).
    """
    pool = F.adaptive_max_pool2d if len(space) == 2 else F.adaptive_max_pool3d
    weights = pool(inside, tuple(space)).flatten(1)
    weights = torch.where(weights.any(1, keepdim=True), weights, torch.ones_like(weights))
    totals = weights.cumsum(1)
    return torch.searchsorted(totals, draws * totals[:, -1:], right=True).clamp_max(weights.shape[1] - 1)


def plane_by_plane(images: Tensor, planes: int) -> Tensor:
    """(batch, planes * channel, h, w) as (batch * planes, channel, h, w)."""
    return images.reshape(len(images) * planes, -1, *images.shape[2:])
