"""Discriminators that judge every patch, or every pixel, by itself (pix2pix, section 3.2.2 and appendix 6.1.2).

They give raw scores, one a patch, without a sigmoid: the loss decides what a score means.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcycle.errors import ModelError
from medcycle.networks import layers as L


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches: 70 pixels wide with three layers.

    Args:
        channels: channels of the images that it judges.
        ndim: 2 for slices, 3 for volumes.
        filters: channels of the first layer; they double up to eight times as many.
        layers: halvings. 1, 2, 3, 4, 5 give patches of 16, 34, 70, 142, 286 pixels.
        norm: "instance", "batch", "group" or "none"; never on the first and last convolution.
        scales: PatchGANs of this kind, the first on the image itself, each further one on half of the size before
            (Wang 2018, section 3.2): coarse shape and fine texture, judged apart. All scales count the same.
        spectral: kernels of spectral norm 1 (Miyato 2018), usually without another norm.

    Attributes:
        patch: width in pixels of what one score of the first scale sees (its receptive field).
        minimum: the shortest image axis that still gives a score.
        batch_independent: whether an image's scores are free of the others in its batch (while training).

    Raises:
        ModelError: if an argument, or the shape of an input, is not possible.
    """

    def __init__(
        self,
        channels: int,
        *,
        ndim: int = 2,
        filters: int = 64,
        layers: int = 3,
        norm: str = "instance",
        scales: int = 1,
        spectral: bool = False,
    ) -> None:
        super().__init__()
        L.check_sizes(channels=channels, filters=filters, scales=scales)
        if not 1 <= layers <= 8:
            raise ModelError(f"layers {layers} is not possible; give 1 to 8 (the original has 3: patches of 70 pixels)")
        self.ndim, self.in_channels = ndim, channels
        self.batch_independent = norm != "batch"
        self.patch = 1
        for stride in (1, 1, *[2] * layers):  # from the score back to the image, kernels of 4
            self.patch = self.patch * stride + 4 - stride
        self.minimum = 3 * 2**layers  # three pixels are left for the two last convolutions, which take one each
        for _ in range(scales - 1):
            self.minimum = 2 * self.minimum - 1  # halving rounds up
        widths = [filters * min(2**level, 8) for level in range(layers + 1)]

        def convolution(inputs: int, outputs: int, stride: int, bias: bool = True) -> nn.Module:
            return L.conv(ndim, inputs, outputs, 4, stride=stride, padding=1, bias=bias, spectral=spectral)

        body: list[nn.Module] = [convolution(channels, filters, 2), nn.LeakyReLU(0.2)]
        for level in range(1, layers + 1):
            body += [
                convolution(widths[level - 1], widths[level], 2 if level < layers else 1, L.needs_bias(norm)),
                L.norm(ndim, norm, widths[level]),
                nn.LeakyReLU(0.2),
            ]
        self.body = nn.Sequential(*body)
        self.score = convolution(widths[-1], 1, 1)
        self.coarser = nn.ModuleList(
            PatchDiscriminator(channels, ndim=ndim, filters=filters, layers=layers, norm=norm, spectral=spectral)
            for _ in range(scales - 1)
        )
        L.initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, *space) to float32 scores (batch, scales, *fewer); 256 x 256 pixels give 30 x 30.

        Coarser scores are repeated up to the size of the finest ones, so that a mean over all counts the scales alike.
        """
        L.check_input(x, self.ndim, self.in_channels, "PatchGAN discriminator")
        if min(x.shape[2:]) < self.minimum:
            raise ModelError(
                f"an image of {' x '.join(map(str, x.shape[2:]))} pixels is too small for this PatchGAN discriminator, "
                f"which needs {self.minimum} along each axis. Take larger samples, fewer layers or scales, or the "
                "pixel kind."
            )
        scores = [L.in_float32(self.score, self.body(x))]
        for critic in self.coarser:
            x = _half(x)
            scores.append(F.interpolate(critic(x), size=scores[0].shape[2:], mode="nearest"))
        return torch.cat(scores, dim=1) if self.coarser else scores[0]


def _half(x: Tensor) -> Tensor:
    """Means over 3 pixels along each axis, every other one; outside the image nothing is counted (Wang 2018)."""
    pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
    return pool(x, 3, stride=2, padding=1, count_include_pad=False)


class PixelDiscriminator(nn.Module):
    """Scores every pixel from its own channels alone: colours, not shapes.

    Args:
        channels: channels of the images that it judges.
        ndim: 2 for slices, 3 for volumes.
        filters: channels of the first layer; the second has twice as many.
        norm: "instance", "batch", "group" or "none", on the second layer.

    Raises:
        ModelError: if an argument, or the shape of an input, is not possible.
    """

    def __init__(self, channels: int, *, ndim: int = 2, filters: int = 64, norm: str = "instance") -> None:
        super().__init__()
        L.check_sizes(channels=channels, filters=filters)
        self.ndim, self.in_channels = ndim, channels
        self.batch_independent = norm != "batch"
        self.patch = self.minimum = 1
        self.body = nn.Sequential(
            L.conv(ndim, channels, filters, 1),
            nn.LeakyReLU(0.2),
            L.conv(ndim, filters, 2 * filters, 1, bias=L.needs_bias(norm)),
            L.norm(ndim, norm, 2 * filters),
            nn.LeakyReLU(0.2),
        )
        # The original gives this bias only where the norm before it is instance norm; it is harmless everywhere.
        self.score = L.conv(ndim, 2 * filters, 1, 1)
        L.initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, *space) to float32 scores (batch, 1, *space)."""
        L.check_input(x, self.ndim, self.in_channels, "pixel discriminator")
        return L.in_float32(self.score, self.body(x))
