"""Convolutions whose kernels have spectral norm 1 (Miyato 2018), for discriminators."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SETTLED = 50  # power iterations after which the largest singular value of a drawn kernel is known to a few percent


class SpectralConv(nn.modules.conv._ConvNd):
    """What both have in common: the kernel, as a matrix of (output channel, the rest), over its largest singular value.

    That value is followed from step to step by the power method. It moves in :meth:`follow`, which the training step
    calls once, and not in the forward pass: so what the network gives depends on its state alone, not on how often it
    was called, in how many parts of a batch or by how many processes.
    """

    direction: Tensor

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        outputs = len(self.weight)
        self.register_buffer("direction", torch.full((outputs,), outputs**-0.5))

    @torch.no_grad()
    def follow(self, times: int = 1) -> None:
        """Move the direction towards the first left singular vector (Miyato 2018, algorithm 1)."""
        matrix = self.weight.flatten(1)
        for _ in range(times):
            right = F.normalize(matrix.T @ self.direction, dim=0)
            self.direction.copy_(F.normalize(matrix @ right, dim=0))

    def normed(self) -> Tensor:
        """The kernel over its largest singular value: |W^T u| is u^T W v for the v that the power method gives."""
        with torch.autocast(self.weight.device.type, enabled=False):
            largest = (self.weight.flatten(1).T @ self.direction).norm()
            kernel: Tensor = self.weight / largest.clamp_min(1e-12)
        return kernel


class SpectralConv2d(SpectralConv, nn.Conv2d):
    """A 2D convolution with a kernel of spectral norm 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Like that of nn.Conv2d."""
        result: Tensor = self._conv_forward(x, self.normed(), self.bias)
        return result


class SpectralConv3d(SpectralConv, nn.Conv3d):
    """A 3D convolution with a kernel of spectral norm 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Like that of nn.Conv3d."""
        result: Tensor = self._conv_forward(x, self.normed(), self.bias)
        return result


def follow_spectral_norms(network: nn.Module) -> None:
    """One power iteration for every such convolution of a network; without one, nothing happens."""
    for layer in network.modules():
        if isinstance(layer, SpectralConv):
            layer.follow()
