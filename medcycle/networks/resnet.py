"""The ResNet generator: halve twice, think in residual blocks, double twice (Johnson 2016; CycleGAN, appendix 7.2)."""

from __future__ import annotations

from torch import Tensor, nn

from medcycle.errors import ModelError
from medcycle.networks import layers as L
from medcycle.networks.attention import SelfAttention
from medcycle.networks.position import with_position


class ResnetBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))) with mirrored borders, and no activation after the sum."""

    def __init__(self, channels: int, *, ndim: int, norm: str, dropout: float) -> None:
        super().__init__()
        bias = L.needs_bias(norm)
        self.body = nn.Sequential(
            L.reflection_pad(ndim, 1),
            L.conv(ndim, channels, channels, 3, bias=bias),
            L.norm(ndim, norm, channels),
            nn.ReLU(),
            *([nn.Dropout(dropout)] if dropout else []),
            L.reflection_pad(ndim, 1),
            L.conv(ndim, channels, channels, 3, bias=bias),
            L.norm(ndim, norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, *space) to the same shape."""
        result: Tensor = x + self.body(x)
        return result


class ResnetGenerator(nn.Module):
    """Maps images of one domain to the other, at the same size.

    Args:
        in_channels: channels of the images that it takes.
        out_channels: channels of the images that it gives.
        ndim: 2 for slices, 3 for volumes.
        filters: channels after the first convolution; four times as many in the blocks.
        blocks: residual blocks; the original takes 9 for 256 pixels and 6 for 128.
        norm: "instance", "batch", "group" or "none".
        dropout: probability inside the blocks.
        upsample: "transposed" convolutions, as the original, or "resize" (nearest-neighbour doubling + convolution),
            which cannot paint a checkerboard.
        attention: self-attention between the two halves of the blocks (Zhang 2019): far parts of the image are seen
            together. Of 256 x 256 pixels it adds 2.4 % to the arithmetic; that share grows with their number.
        position: whether it is told where in the body each voxel lies (:mod:`medcycle.networks.position`).
        checkpointing: compute inner values again in the backward pass: less memory for about 1.2 times the time.

    Attributes:
        multiple: the input is padded to a multiple of this along each axis, and the output cropped back.
        batch_independent: whether an image's result is free of the others in its batch (while training).
        feature_channels: channels of each of its `features`.

    Raises:
        ModelError: if an argument, or the shape of an input, is not possible.
    """

    multiple = 4

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        ndim: int = 2,
        filters: int = 64,
        blocks: int = 9,
        norm: str = "instance",
        dropout: float = 0.0,
        upsample: str = "transposed",
        attention: bool = False,
        position: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        L.check_sizes(in_channels=in_channels, out_channels=out_channels, filters=filters)
        L.check_share(dropout=dropout)
        if blocks < 0:
            raise ModelError(f"blocks {blocks} is not possible; give 0 or more (the original has 6 or 9)")
        self.ndim, self.in_channels, self.out_channels = ndim, in_channels, out_channels
        self.feature_channels = [filters, 2 * filters, 4 * filters, 4 * filters]
        self.batch_independent = norm != "batch"
        self.position, self.checkpointing = position, checkpointing
        bias = L.needs_bias(norm)

        def activated(convolution: nn.Module, channels: int) -> list[nn.Module]:
            return [convolution, L.norm(ndim, norm, channels), nn.ReLU()]

        def down(channels: int) -> list[nn.Module]:
            halve = L.conv(ndim, channels, 2 * channels, 3, stride=2, padding=1, bias=bias)
            return activated(halve, 2 * channels)

        def up(channels: int) -> list[nn.Module]:
            half = channels // 2
            return activated(L.upsample_conv(ndim, channels, half, upsample, kernel=3, bias=bias), half)

        first = L.conv(ndim, in_channels + ndim * position, filters, 7, bias=bias)
        self.head = nn.Sequential(
            L.reflection_pad(ndim, 3), *activated(first, filters), *down(filters), *down(2 * filters)
        )
        self.blocks = nn.ModuleList(
            ResnetBlock(4 * filters, ndim=ndim, norm=norm, dropout=dropout) for _ in range(blocks)
        )
        self.attention = SelfAttention(4 * filters) if attention else None
        self.up = nn.Sequential(*up(4 * filters), *up(2 * filters))
        self.tail = nn.Sequential(L.reflection_pad(ndim, 3), L.WideConv(ndim, filters, out_channels, 7), nn.Tanh())
        L.initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, *space) in [-1, 1] to float32 (batch, out_channels, *space) in [-1, 1]."""
        L.check_input(x, self.ndim, self.in_channels, "ResNet generator")
        x, crop = self._taken(x)
        x = L.run(self.head, x, self.checkpointing)
        for block in self._middle():
            x = L.run(block, x, self.checkpointing)
        x = L.run(self.up, x, self.checkpointing)
        return L.in_float32(self.tail, x)[crop]

    def features(self, x: Tensor) -> list[Tensor]:
        """What the encoder sees in images, from fine to coarse: (batch, channel, *smaller space) each."""
        x, _ = self._taken(x)
        found = []
        for layer in self.head:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        middle = self._middle()
        for block in middle[: (len(middle) + 1) // 2]:
            x = block(x)
        return [*found, x]

    def _taken(self, x: Tensor) -> tuple[Tensor, L.Crop]:
        """Images as the first layer takes them, and what cuts the result."""
        # Two halvings must leave two pixels for the blocks' mirrored borders.
        return L.pad_to_multiple(with_position(x) if self.position else x, self.multiple, minimum=8)

    def _middle(self) -> list[nn.Module]:
        """The blocks, with the attention between their halves."""
        middle = list(self.blocks)
        if self.attention is not None:
            middle.insert(len(middle) // 2, self.attention)
        return middle
