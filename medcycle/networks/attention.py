"""Attention between all pixels of an image, in two and three dimensions.

Time grows with the square of the number of pixels, memory with the number itself (the fused kernels of
``scaled_dot_product_attention`` keep no matrix of all pairs).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHORTEST, LONGEST = 4, 512  # wavelengths of the position encoding, in pixels
FREQUENCIES = 8  # of these, for each space axis


class Gain(nn.Module):
    """A learned number, at first 0, times what it is given: a branch that fades in."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return self.value * x


class SelfAttention(nn.Module):
    """x + gain * attention(x) over all pixels (SAGAN: Zhang 2019, eq. 1 to 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.query, self.key, self.value = (nn.Linear(channels, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, channels, bias=False)
        self.gain = Gain()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, *space) to the same shape."""
        pixels = x.flatten(2).transpose(1, 2)[:, None]  # (batch, 1, pixel, channel): the fused kernels want heads
        # Not divided by the root of the channels, as in the paper.
        seen = F.scaled_dot_product_attention(self.query(pixels), self.key(pixels), self.value(pixels), scale=1.0)
        result: Tensor = x + self.gain(self.out(seen))[:, 0].transpose(1, 2).reshape(x.shape)
        return result


class TransformerBlock(nn.Module):
    """Pre-norm attention and a perceptron, each faded in by a gain (ReZero: Bachlechner 2021; Torbunov 2023, sec. 3).

    Args:
        width: channels of a token; a multiple of `heads`.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.attention_gain, self.perceptron_gain = Gain(), Gain()
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, token, width) to the same shape."""
        three = self.query_key_value(self.norm(tokens)).unflatten(-1, (3, self.heads, -1))
        query, key, value = three.permute(2, 0, 3, 1, 4)  # each (batch, head, token, width / heads)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self.attention_gain(self.merge(seen))
        result: Tensor = tokens + self.perceptron_gain(self.perceptron(tokens))
        return result


def positions(space: Sequence[int], device: torch.device) -> Tensor:
    """Sines and cosines of every pixel's place, counted from the middle of the image (as in Vaswani 2017, 3.5).

    In pixels, not in shares of the image: two pixels that far apart differ in the same way in an image of any size.

    Returns:
        (pixel, axes * 2 * FREQUENCIES), the pixels in the order of ``flatten``.
    """
    steps = torch.arange(FREQUENCIES, device=device) / (FREQUENCIES - 1)
    waves = 2 * math.pi / (SHORTEST * (LONGEST / SHORTEST) ** steps)  # radians a pixel
    parts = []
    for axis, length in enumerate(space):
        angles = (torch.arange(length, device=device) - (length - 1) / 2)[:, None] * waves
        shape = [1] * len(space) + [2 * FREQUENCIES]
        shape[axis] = length
        parts.append(torch.cat([angles.sin(), angles.cos()], dim=1).view(shape).expand(*space, -1))
    return torch.cat(parts, dim=-1).flatten(0, -2)
