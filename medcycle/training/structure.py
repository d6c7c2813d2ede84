"""Losses that hold what is made to the anatomy of what it was made from: which of them count, and how much."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medcycle.similarity import gradient_correlation, mind_distance, mutual_information, outline_consistency


@dataclass(frozen=True)
class StructureSettings:
    """Weights of the structure losses between what a generator is given and what it makes; 0 switches one off.

    Attributes:
        gradient_correlation, mind, mutual_information, outline: of the functions of these names.
        warm_up: steps over which the weights grow linearly from 0.
    """

    gradient_correlation: float = 0.0
    mind: float = 0.0
    mutual_information: float = 0.0
    outline: float = 0.0
    warm_up: int = 0

    def ramp(self, step: int) -> float:
        """Share of the weights that counts in a step, from 0."""
        return min(1.0, step / self.warm_up) if self.warm_up else 1.0


def structure_losses(settings: StructureSettings, given: Tensor, made: Tensor) -> dict[str, tuple[float, Tensor]]:
    """Those losses that are on, each with its weight."""
    losses = {
        "gradient_correlation": gradient_correlation,
        "mind": mind_distance,
        "mutual_information": mutual_information,
        "outline": outline_consistency,
    }
    weights = {name: float(getattr(settings, name)) for name in losses}
    return {name: (weights[name], loss(made, given)) for name, loss in losses.items() if weights[name]}
