"""The parts every network is made of, in two and three dimensions: the only place that picks Conv2d or Conv3d.

Shapes: a batch of images or volumes is (batch, channel, *space), with ``ndim`` (2 or 3) space axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medcycle.errors import ModelError
from medcycle.networks.attention import Gain
from medcycle.networks.spectral import SETTLED, SpectralConv, SpectralConv2d, SpectralConv3d

NORMS = ("instance", "batch", "group", "none")
UPSAMPLES = ("transposed", "resize")
EPS = 1e-5  # of every norm in the original CycleGAN

Crop = tuple[slice, ...]


def conv(
    ndim: int,
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
    spectral: bool = False,
) -> nn.Conv2d | nn.Conv3d:
    """A zero-padded convolution over ``ndim`` space axes; ``spectral``: with a kernel of spectral norm 1.

    Raises:
        ModelError: if ``ndim`` is neither 2 nor 3.
    """
    plain, normed = (nn.Conv2d, SpectralConv2d) if _is_planar(ndim) else (nn.Conv3d, SpectralConv3d)
    kind = normed if spectral else plain
    return kind(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=bias)


def conv_transpose(
    ndim: int,
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    bias: bool = True,
) -> nn.ConvTranspose2d | nn.ConvTranspose3d:
    """A transposed convolution over ``ndim`` space axes.

    Raises:
        ModelError: if ``ndim`` is neither 2 nor 3.
    """
    kind = nn.ConvTranspose2d if _is_planar(ndim) else nn.ConvTranspose3d
    return kind(
        in_channels, out_channels, kernel, stride=stride, padding=padding, output_padding=output_padding, bias=bias
    )


def norm(ndim: int, kind: str, channels: int) -> nn.Module:
    """The normalization ``kind``, one of :data:`NORMS`.

    "instance" has neither weights nor running statistics, as in the original; "batch" and "group" (at most 32
    groups, each of two channels or more where there are two) are affine; "none" is the identity.

    Raises:
        ModelError: if ``kind`` is none of them.
    """
    if kind == "instance":
        return InstanceNorm()
    if kind == "batch":
        return (nn.BatchNorm2d if _is_planar(ndim) else nn.BatchNorm3d)(channels, eps=EPS)
    if kind == "group":
        groups = math.gcd(channels, 32)
        # One channel a group would be instance norm, which loses every channel's mean.
        return nn.GroupNorm(max(1, groups // 2) if groups == channels else groups, channels, eps=EPS)
    if kind == "none":
        return nn.Identity()
    raise ModelError(f"norm {kind!r} is unknown; allowed are {', '.join(NORMS)}")


def needs_bias(norm_kind: str) -> bool:
    """Whether a convolution before such a norm needs a bias.

    Instance and batch norm take each channel's mean away, and a bias with it: its gradient would be rounding noise
    that Adam amplifies.
    """
    return norm_kind not in ("instance", "batch")


class InstanceNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) over the space axes of each channel of each image (Ulyanov 2016, eq. 2).

    A constant image, or a single pixel, gives zero (but for rounding) with finite gradients. A nearly constant one
    comes out at full contrast as soon as its deviation is above sqrt(eps), and no larger eps would hold that down: a
    chain of norms multiplies whatever each of them leaves.
    """

    def __init__(self, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channel, *space) to the same shape and type."""
        # Layer norm over the space axes is the same function as F.instance_norm, faster on the CPU, and takes a single
        # pixel. (Group norm of one channel a group loses all precision on nearly constant channels-last images.)
        # Outside autocast, which would cast x on some devices: the statistics are float32 for every type.
        with torch.autocast(x.device.type, enabled=False):
            flat = x.flatten(2)
            return F.layer_norm(flat, flat.shape[2:], eps=self.eps).view(x.shape)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        return f"eps={self.eps:g}"


class ReflectionPad(nn.Module):
    """Mirrors ``width`` pixels round the image without repeating its border pixel; each axis must be longer."""

    def __init__(self, ndim: int, width: int) -> None:
        super().__init__()
        self.widths = (width, width) * ndim

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channel, *space) to the same type, each space axis longer by 2 * width."""
        # Autocast would turn it into float32 and back, though it only copies.
        with torch.autocast(x.device.type, enabled=False):
            if x.device.type == "cpu" and torch.is_grad_enabled() and x.requires_grad:
                padded: Tensor = _Reflect.apply(x, self.widths)  # type: ignore[no-untyped-call]
                return padded
            return F.pad(x, self.widths, mode="reflect")


class _Reflect(torch.autograd.Function):
    """``F.pad(x, widths, mode="reflect")``; its gradient by slices, which takes a CPU a third of the time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, widths: tuple[int, ...]) -> Tensor:
        ctx.width = widths[0]
        return F.pad(x, widths, mode="reflect")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        width = ctx.width
        for axis in range(2, gradient.ndim):
            length = gradient.shape[axis] - 2 * width
            inner = gradient.narrow(axis, width, length)
            inner = inner.clone() if axis == 2 else inner  # later axes are folded in what is ours already
            inner.narrow(axis, 1, width).add_(gradient.narrow(axis, 0, width).flip(axis))
            inner.narrow(axis, length - 1 - width, width).add_(gradient.narrow(axis, width + length, width).flip(axis))
            gradient = inner
        return gradient.contiguous(), None


def reflection_pad(ndim: int, width: int) -> nn.Module:
    """A layer that mirrors ``width`` pixels round the image."""
    return ReflectionPad(ndim, width)


class ResizeConv(nn.Module):
    """Nearest-neighbour doubling followed by a convolution of width 3 (Odena 2016): no checkerboard."""

    def __init__(self, ndim: int, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__()
        self.conv = conv(ndim, in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, *space) to (batch, out_channels, *(2 * space))."""
        larger: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return larger


def upsample_conv(
    ndim: int, in_channels: int, out_channels: int, kind: str, *, kernel: int, bias: bool = True
) -> nn.Module:
    """A layer that doubles every space axis, one of :data:`UPSAMPLES`.

    Args:
        ndim: 2 or 3.
        in_channels: of what it takes.
        out_channels: of what it gives.
        kind: "transposed", a transposed convolution of the given kernel; "resize", a :class:`ResizeConv`.
        kernel: 2, 3 or 4 pixels wide.
        bias: whether it has one.

    Raises:
        ModelError: if the kind is neither.
    """
    if kind not in UPSAMPLES:
        raise ModelError(f"upsample {kind!r} is unknown; allowed are {', '.join(UPSAMPLES)}")
    if kind == "resize":
        return ResizeConv(ndim, in_channels, out_channels, bias=bias)
    padding = (kernel - 1) // 2
    return conv_transpose(
        ndim, in_channels, out_channels, kernel, stride=2, padding=padding, output_padding=kernel % 2, bias=bias
    )


class WideConv(nn.Module):
    """An unpadded convolution with a wide kernel and few output channels, such as the last one of a generator."""

    def __init__(self, ndim: int, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = conv(ndim, in_channels, out_channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, *space) to (batch, out_channels, *(space - kernel + 1))."""
        weight, bias = self.conv.weight, self.conv.bias
        convolve = F.conv2d if x.ndim == 4 else F.conv3d
        if x.device.type != "cpu":
            return convolve(x, weight, bias)
        # The CPU computes 8 or 16 output channels in the time of one. So each slice of the kernel along the first
        # space axis becomes a channel of its own, and a second convolution, with ones in the right places, sums them.
        out_channels, in_channels, kernel, *rest = weight.shape
        slices = weight.transpose(1, 2).reshape(out_channels * kernel, in_channels, 1, *rest)
        pick = torch.eye(out_channels * kernel, dtype=weight.dtype).view(out_channels, kernel, -1).transpose(1, 2)
        return convolve(convolve(x, slices), pick[(...,) + (None,) * len(rest)], bias)


def pad_to_multiple(x: Tensor, multiple: int, minimum: int = 1) -> tuple[Tensor, Crop]:
    """Lengthens every space axis to the next multiple (of at least ``minimum``), evenly on both sides.

    The border pixels are repeated, so that air stays air; an axis may grow to many times its length.

    Returns:
        The longer image, and the index that cuts the original field of view out of it (or out of anything that has
        its space axes): ``longer[crop]`` is ``x``.
    """
    lengths = x.shape[2:]
    missing = [math.ceil(max(length, minimum) / multiple) * multiple - length for length in lengths]
    before = [m // 2 for m in missing]
    crop = (slice(None), slice(None), *(slice(b, b + n) for b, n in zip(before, lengths, strict=True)))
    if any(missing):
        # F.pad counts from the last axis.
        widths = [w for b, m in zip(reversed(before), reversed(missing), strict=True) for w in (b, m - b)]
        x = F.pad(x, widths, mode="replicate")
    return x, crop


def check_sizes(**sizes: int) -> None:
    """Refuses a number of channels or filters below one.

    Raises:
        ModelError: naming the argument.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ModelError(f"{name} {size} is not possible; give 1 or more")


def check_share(**shares: float) -> None:
    """Refuses a probability outside [0, 1).

    Raises:
        ModelError: naming the argument.
    """
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ModelError(f"{name} {share} is not possible; give a probability from 0 up to, but not including, 1")


def check_input(x: Tensor, ndim: int, channels: int, name: str) -> None:
    """Refuses a batch that is not (batch, channels, *space) with ``ndim`` space axes.

    Raises:
        ModelError: naming the shape found and the shape wanted.
    """
    if x.ndim != ndim + 2 or x.shape[1] != channels:
        wanted = ("batch", str(channels), *"ijk"[:ndim])
        raise ModelError(
            f"this {ndim}D {name} takes a batch of shape ({', '.join(wanted)}); got {tuple(x.shape)}. Give it images "
            f"with {channels} channel{'s' * (channels != 1)} and {ndim} space axes."
        )


def in_float32(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``module(x)`` outside autocast: near the output bfloat16 costs up to 4 HU of a CT range."""
    with torch.autocast(x.device.type, enabled=False):
        return module(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x)


def run(module: Callable[[Tensor], Tensor], x: Tensor, checkpointing: bool) -> Tensor:
    """``module(x)``; with ``checkpointing`` its inner values are computed again in the backward pass, not kept."""
    if not (checkpointing and torch.is_grad_enabled()):
        return module(x)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _frozen_statistics(module)

    # A CUDA graph cannot hold the random state, which only dropout needs.
    layers = module.modules() if isinstance(module, nn.Module) else iter(())
    draws = any(isinstance(layer, nn.Dropout) and layer.p for layer in layers)
    result: Tensor = checkpoint(module, x, use_reentrant=False, context_fn=contexts, preserve_rng_state=draws)
    return result


@contextmanager
def _frozen_statistics(module: Any) -> Iterator[None]:
    """Batch norms inside leave their running statistics alone: they saw this batch in the forward pass already."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(m.momentum, m.num_batches_tracked) for m in norms]
    for m in norms:
        m.momentum, m.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for m, (momentum, tracked) in zip(norms, before, strict=True):
            m.momentum, m.num_batches_tracked = momentum, tracked


@torch.no_grad()
def initialize(module: nn.Module, gain: float = 0.02, generator: torch.Generator | None = None) -> None:
    """Draws all weights anew, as the original does: convolutions N(0, gain), batch-norm weights N(1, gain), biases 0.

    What the original lacks: linear layers N(0, 1 / sqrt(inputs)) (LeCun 1998), group- and layer-norm weights 1, gains
    0. The order of the draws is that of ``module.modules()``: the same generator state gives the same network.
    """
    for m in module.modules():
        if isinstance(m, nn.modules.conv._ConvNd):
            m.weight.normal_(0.0, gain, generator=generator)
        elif isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.weight.normal_(1.0, gain, generator=generator)
        elif isinstance(m, nn.Linear):
            m.weight.normal_(0.0, m.in_features**-0.5, generator=generator)
        elif isinstance(m, nn.GroupNorm | nn.LayerNorm):
            m.weight.fill_(1.0)
        elif isinstance(m, Gain):
            m.value.zero_()
            continue
        else:
            continue
        if m.bias is not None:
            m.bias.zero_()
        if isinstance(m, SpectralConv):
            m.follow(SETTLED)


def _is_planar(ndim: int) -> bool:
    if ndim not in (2, 3):
        raise ModelError(f"ndim {ndim!r} is not possible; networks work on 2 (slices) or 3 (volumes) space axes")
    return ndim == 2
