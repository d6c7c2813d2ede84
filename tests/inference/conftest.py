from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medcycle.inference import Translator
from medcycle.model import DomainInfo, Model
from medcycle.prepare import Preparation
from medcycle.volume import Volume

PREPARATIONS = {
    "ct": Preparation(modality="ct", foreground=True),
    "mr": Preparation(modality="mr", foreground=True, scale=(0.0, 800.0)),
    "photo": Preparation(modality="image", scale=(0.0, 255.0)),
}


class Identity(nn.Module):
    """Gives what it takes."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


def build(
    source: str = "ct",
    target: str = "ct",
    *,
    network: nn.Module | None = None,
    axes: str = "axial",
    size: tuple[int, ...] = (8, 8),
    context: int = 0,
    only: str | None = None,
    preparations: dict[str, Preparation] | None = None,
    **settings: Any,
) -> Translator:
    known = PREPARATIONS | (preparations or {})
    model = Model(
        network or Identity(),
        {"kind": "custom"},
        DomainInfo(source, known[source]),
        DomainInfo(target, known[target]),
        {"axes": axes, "size": list(size), "context": context},
    )
    return Translator(model, axes=only, **({"device": "cpu", "precision": "fp32"} | settings))


@pytest.fixture
def translator() -> Callable[..., Translator]:
    """Makes a translator whose network is the identity, unless told otherwise."""
    return build


def ball(space: tuple[int, ...], affine: np.ndarray[Any, Any] | None = None, unit: str = "HU") -> Volume:
    """A ball of smoothly varying tissue in air, with its middle a little off the centre."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in space], indexing="ij")
    inside = sum(((g - 0.05 * n) / 0.75) ** 2 for n, g in enumerate(grid)) < 1
    tissue = 40 + 30 * grid[0] + 20 * np.sin(3 * grid[1])
    low, high = (-1000.0, tissue) if unit == "HU" else (2.0, 400 + 4 * tissue)
    array = np.where(inside, high, low)[None].astype(np.float32)
    return Volume(array, np.diag([-2.0, -2.0, 3.0, 1.0]) if affine is None else affine, unit, {"path": "ball"})


@pytest.fixture
def make_ball() -> Callable[..., Volume]:
    return ball
