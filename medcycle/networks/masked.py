"""A generator that says where it changes the image, and copies the rest (Chen 2018, Attention-GAN; Tang 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcycle.errors import ModelError
from medcycle.networks.resnet import ResnetGenerator


class MaskedGenerator(nn.Module):
    """mask * content + (1 - mask) * input (Chen 2018, section 3.1), content and mask from one ResNet.

    Nothing keeps the mask from being 1 everywhere but a loss on it: ``loss.mask`` in a configuration.

    Args:
        in_channels: channels of the images that it takes.
        out_channels: channels of the images that it gives: as many, since they are copied.
        ndim: 2 for slices, 3 for volumes.
        filters, blocks, norm, dropout, upsample, attention, position, checkpointing: of :class:`ResnetGenerator`.

    Attributes:
        multiple: the input is padded to a multiple of this along each axis, and the output cropped back.
        batch_independent: whether an image's result is free of the others in its batch (while training).
        feature_channels: channels of each of its `features`.

    Raises:
        ModelError: if an argument, or the shape of an input, is not possible.
    """

    multiple = ResnetGenerator.multiple

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
        if in_channels != out_channels:
            raise ModelError(
                f"a masked generator copies what it does not change, so images of both domains need as many channels; "
                f"got {in_channels} in and {out_channels} out. Take images of equal channels, or another kind of "
                "generator."
            )
        self.ndim, self.in_channels, self.out_channels = ndim, in_channels, out_channels
        self.body = ResnetGenerator(
            in_channels,
            out_channels + 1,
            ndim=ndim,
            filters=filters,
            blocks=blocks,
            norm=norm,
            dropout=dropout,
            upsample=upsample,
            attention=attention,
            position=position,
            checkpointing=checkpointing,
        )
        self.batch_independent = self.body.batch_independent
        self.feature_channels = self.body.feature_channels

    @property
    def checkpointing(self) -> bool:
        """Whether inner values are computed again in the backward pass."""
        return self.body.checkpointing

    @checkpointing.setter
    def checkpointing(self, flag: bool) -> None:
        self.body.checkpointing = flag

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, *space) in [-1, 1] to float32 of the same shape in [-1, 1]."""
        return self.with_mask(x)[0]

    def features(self, x: Tensor) -> list[Tensor]:
        """What the encoder sees in images: of :class:`ResnetGenerator`."""
        return self.body.features(x)

    def with_mask(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The image, as from :meth:`forward`, and the mask.

        Returns:
            float32 (batch, channels, *space) in [-1, 1], and (batch, 1, *space) in [0, 1]: 1 where all is new.
        """
        content, switch = self.body(x).split([self.out_channels, 1], dim=1)
        mask = (switch + 1) / 2  # of a tanh: the sigmoid of twice what goes into it
        return torch.lerp(x.to(content.dtype), content, mask), mask
