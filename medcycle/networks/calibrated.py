"""A generator whose values are corrected by one curve, the same for all voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medcycle.errors import ModelError

MOST = 4096  # knots
TOLD = ("in_channels", "out_channels", "multiple", "batch_independent")


class CalibratedGenerator(nn.Module):
    """A trained generator, then a rising piecewise linear curve over its values.

    Args:
        network: the generator, to [-1, 1].
        knots: of the curve, at least 2. It is the identity until :meth:`fit`.

    Raises:
        ModelError: for a number of knots that is not possible.
    """

    made: Tensor
    real: Tensor

    def __init__(self, network: nn.Module, knots: int) -> None:
        super().__init__()
        if type(knots) is not int or not 2 <= knots <= MOST:
            raise ModelError(f"a calibration of {knots!r} knots: expected a number from 2 to {MOST}")
        self.network = network
        for name in ("made", "real"):
            self.register_buffer(name, torch.linspace(-1, 1, knots))

    @classmethod
    def fit(cls, network: nn.Module, curve: tuple[Sequence[float], Sequence[float]]) -> CalibratedGenerator:
        """Of values as they are made, rising from -1 to 1, and what they become."""
        calibrated = cls(network, len(curve[0]))
        calibrated.made, calibrated.real = (torch.tensor(values, dtype=torch.float32) for values in curve)
        return calibrated

    def __getattr__(self, name: str) -> Any:
        """What a generator tells of itself, the wrapped one does."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in TOLD:
                raise
            return getattr(super().__getattr__("network"), name)

    def forward(self, images: Tensor) -> Tensor:
        """The network's images, (batch, channel, *space) float32, with corrected values."""
        values: Tensor = self.network(images).float().clamp(-1, 1)
        return piecewise_linear(values, self.made.float(), self.real.float())


def piecewise_linear(values: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """The line through the points (before, after), at values of any shape.

    Args:
        values: within `before`, or on the line's first or last part.
        before: (knots,), rising.
        after: (knots,).
    """
    place = torch.bucketize(values, before[1:-1])
    slopes = after.diff() / before.diff()
    return torch.addcmul(after[place], values - before[place], slopes[place])
