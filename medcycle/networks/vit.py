"""A U-Net with a transformer at its bottom, in the manner of UVCGAN (Torbunov 2023, section 3 and figure 2)."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from medcycle.errors import ModelError
from medcycle.networks import layers as L
from medcycle.networks.attention import FREQUENCIES, TransformerBlock, positions


class VitGenerator(nn.Module):
    """Maps images of one domain to the other, at the same size.

    At the bottom every pixel is a token that sees all others. Places are told to the transformer by their coordinates,
    so images may have any size; what it says of a tile depends on the tile.

    Args:
        in_channels: channels of the images that it takes.
        out_channels: channels of the images that it gives.
        ndim: 2 for slices, 3 for volumes.
        filters: channels at full size; they double up to eight times as many at the fourth level.
        downs: how often the size is halved: 4 turns 256 x 256 pixels into 256 tokens, and 64 x 64 x 64 into 64.
        norm: of the convolutions: "instance", "batch", "group" or "none".
        upsample: "resize" (nearest-neighbour doubling + convolution), as in the paper, or "transposed" convolutions.
        layers: transformer blocks.
        heads: of each block's attention. A token has the bottom's channels, rounded up to a multiple of it.
        checkpointing: compute inner values again in the backward pass: less memory, more time.

    Attributes:
        multiple: the input is padded to a multiple of this (2 ** downs) along each axis, and the output cropped back.
        batch_independent: whether an image's result is free of the others in its batch (while training).
        feature_channels: channels of each of its `features`.

    Raises:
        ModelError: if an argument, or the shape of an input, is not possible.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        ndim: int = 2,
        filters: int = 48,
        downs: int = 4,
        norm: str = "instance",
        upsample: str = "resize",
        layers: int = 12,
        heads: int = 6,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        L.check_sizes(in_channels=in_channels, out_channels=out_channels, filters=filters, layers=layers, heads=heads)
        if not 1 <= downs <= 8:
            raise ModelError(f"downs {downs} is not possible; give 1 to 8 (the paper has 4 for 256 pixels)")
        self.ndim, self.in_channels, self.out_channels = ndim, in_channels, out_channels
        self.multiple = 2**downs
        self.batch_independent = norm != "batch"
        self.checkpointing = checkpointing
        bias = L.needs_bias(norm)
        widths = [filters * min(2**level, 8) for level in range(downs)]  # channels of each level, from full size
        self.feature_channels = widths
        bottom = widths[-1]
        width = math.ceil(bottom / heads) * heads

        def block(inputs: int, outputs: int) -> nn.Module:
            convolutions = [L.conv(ndim, n, outputs, 3, padding=1, bias=bias) for n in (inputs, outputs)]
            parts = [(c, L.norm(ndim, norm, outputs), nn.LeakyReLU(0.2)) for c in convolutions]
            return nn.Sequential(*itertools.chain(*parts))

        self.encoder = nn.ModuleList(block(n, m) for n, m in zip([in_channels, *widths], widths, strict=False))
        self.down = nn.ModuleList(L.conv(ndim, n, n, 2, stride=2) for n in widths)
        self.embed = nn.Linear(bottom + 2 * ndim * FREQUENCIES, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(layers))
        self.unembed = nn.Linear(width, bottom)
        below = [bottom, *reversed(widths)]
        self.up = nn.ModuleList(
            L.upsample_conv(ndim, n, m, upsample, kernel=2) for n, m in zip(below, reversed(widths), strict=False)
        )
        self.decoder = nn.ModuleList(block(2 * n, n) for n in reversed(widths))
        self.tail = nn.Sequential(L.conv(ndim, filters, out_channels, 1), nn.Tanh())
        L.initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, *space) in [-1, 1] to float32 (batch, out_channels, *space) in [-1, 1]."""
        L.check_input(x, self.ndim, self.in_channels, "transformer U-Net generator")
        x, crop = L.pad_to_multiple(x, self.multiple)
        x, skips = self._encode(x)
        x = self._transform(x)
        for double, decode in zip(self.up, self.decoder, strict=True):
            x = L.run(decode, torch.cat([skips.pop(), double(x)], dim=1), self.checkpointing)
        return L.in_float32(self.tail, x)[crop]

    def features(self, x: Tensor) -> list[Tensor]:
        """What the encoder sees in images, from fine to coarse: (batch, channel, *smaller space) each."""
        x, _ = L.pad_to_multiple(x, self.multiple)
        return self._encode(x)[1]

    def _encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The bottom's pixels, and what was at every level above."""
        levels: list[Tensor] = []
        for encode, halve in zip(self.encoder, self.down, strict=True):
            levels.append(L.run(encode, x, self.checkpointing))
            x = halve(levels[-1])
        return x, levels

    def _transform(self, x: Tensor) -> Tensor:
        """The bottom's pixels, as tokens with their places, through the transformer."""
        places = positions(x.shape[2:], x.device).to(x.dtype).expand(len(x), -1, -1)
        tokens = self.embed(torch.cat([x.flatten(2).transpose(1, 2), places], dim=2))  # (batch, token, width)
        for block in self.blocks:
            tokens = L.run(block, tokens, self.checkpointing)
        result: Tensor = self.unembed(tokens).transpose(1, 2).reshape(x.shape)
        return result
