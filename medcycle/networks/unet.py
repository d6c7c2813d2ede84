"""The U-Net generator: halve to a pixel, double back with the features of equal size beside (pix2pix, 6.1.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcycle.errors import ModelError
from medcycle.networks import layers as L
from medcycle.networks.position import with_position


class UnetGenerator(nn.Module):
    """Maps images of one domain to the other, at the same size.

    Args:
        in_channels: channels of the images that it takes.
        out_channels: channels of the images that it gives.
        ndim: 2 for slices, 3 for volumes.
        filters: channels at the first level; they double up to eight times as many at the fourth.
        downs: how often the size is halved: 8 turns 256 pixels into one, 7 turns 128 pixels into one.
        norm: "instance", "batch", "group" or "none".
        dropout: probability in the decoder's levels between the fourth and the innermost; the original has 0.5 or 0.
        upsample: "transposed" convolutions, as the original, or "resize" (nearest-neighbour doubling + convolution),
            which cannot paint a checkerboard.
        position: as of :class:`medcycle.networks.ResnetGenerator`.
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
        filters: int = 64,
        downs: int = 8,
        norm: str = "instance",
        dropout: float = 0.0,
        upsample: str = "transposed",
        position: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        L.check_sizes(in_channels=in_channels, out_channels=out_channels, filters=filters)
        L.check_share(dropout=dropout)
        if not 2 <= downs <= 12:
            raise ModelError(
                f"downs {downs} is not possible; give 2 to 12 (the original has 7 for 128 pixels, 8 for 256)"
            )
        self.ndim, self.in_channels, self.out_channels = ndim, in_channels, out_channels
        self.multiple = 2**downs
        self.batch_independent = norm != "batch"
        self.position, self.checkpointing = position, checkpointing
        bias = L.needs_bias(norm)
        widths = [filters * min(2**level, 8) for level in range(downs)]  # channels after each halving
        self.feature_channels = widths[: min(4, downs - 1)]

        def encode(level: int) -> nn.Module:
            inner, outer = widths[level], widths[level - 1]
            # The innermost may be a single pixel, where an instance norm would leave nothing.
            last = level == downs - 1
            halve = L.conv(ndim, outer, inner, 4, stride=2, padding=1, bias=bias or (last and norm != "batch"))
            return nn.Sequential(nn.LeakyReLU(0.2), halve, *([] if last else [L.norm(ndim, norm, inner)]))

        def decode(level: int) -> nn.Module:
            inner, outer = widths[level], widths[level - 1]
            incoming = inner if level == downs - 1 else 2 * inner  # the level below came with its skip
            double = L.upsample_conv(ndim, incoming, outer, upsample, kernel=4, bias=bias)
            drop = [nn.Dropout(dropout)] if dropout and 4 <= level < downs - 1 else []
            return nn.Sequential(nn.ReLU(), double, L.norm(ndim, norm, outer), *drop)

        # With batch norm the original gives no convolution a bias but the last one.
        self.head = L.conv(ndim, in_channels + ndim * position, filters, 4, stride=2, padding=1, bias=norm != "batch")
        self.encoder = nn.ModuleList(encode(level) for level in range(1, downs))
        self.decoder = nn.ModuleList(decode(level) for level in reversed(range(1, downs)))
        self.tail = nn.Sequential(
            nn.ReLU(), L.upsample_conv(ndim, 2 * filters, out_channels, upsample, kernel=4), nn.Tanh()
        )
        L.initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, *space) in [-1, 1] to float32 (batch, out_channels, *space) in [-1, 1]."""
        L.check_input(x, self.ndim, self.in_channels, "U-Net generator")
        x, crop = self._taken(x)
        x = self.head(x)
        skips = [x]
        for encode in self.encoder:
            x = L.run(encode, x, self.checkpointing)
            skips.append(x)
        # The original's in-place LeakyReLU turns the skip x into leaky_relu(x) behind its back. Every skip goes through
        # a ReLU next, and relu(leaky_relu(x)) is relu(x): plain skips are the same function.
        skips.pop()
        for decode in self.decoder:
            x = torch.cat([skips.pop(), L.run(decode, x, self.checkpointing)], dim=1)
        return L.in_float32(self.tail, x)[crop]

    def features(self, x: Tensor) -> list[Tensor]:
        """What the encoder sees in images, at its first levels: (batch, channel, *smaller space) each."""
        x, _ = self._taken(x)
        found = [self.head(x)]
        for encode in self.encoder[: len(self.feature_channels) - 1]:
            found.append(encode(found[-1]))
        return found

    def _taken(self, x: Tensor) -> tuple[Tensor, L.Crop]:
        """Images as the first layer takes them, and what cuts the result."""
        return L.pad_to_multiple(with_position(x) if self.position else x, self.multiple)
