"""The original CycleGAN's networks, written plainly from their published facts: what ours must equal.

Their state dicts have the original's keys, shapes and order, so that its files can be made here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """The layers under the name that stands at the start of every key."""

    def __init__(self, name: str, layers: nn.Module) -> None:
        super().__init__()
        self.add_module(name, layers)

    def forward(self, x: Tensor) -> Tensor:
        (layers,) = self.children()
        return layers(x)


def layer(name: str, ndim: int) -> type[nn.Module]:
    """nn.Conv2d, nn.Conv3d and so on: the same networks for volumes."""
    return getattr(nn, f"{name}{ndim}d")


def norm_layers(norm: str, width: int, old: bool = False, ndim: int = 2) -> nn.Module:
    """`old`: with the running statistics that files of the first years hold."""
    if norm == "batch":
        return layer("BatchNorm", ndim)(width)
    return layer("InstanceNorm", ndim)(width, track_running_stats=old) if norm == "instance" else nn.Identity()


def resnet(
    filters: int = 64,
    blocks: int = 9,
    channels: int = 3,
    *,
    out_channels: int | None = None,
    norm: str = "instance",
    dropout: bool = False,
    old: bool = False,
    ndim: int = 2,
) -> Network:
    conv, up, pad = (layer(name, ndim) for name in ("Conv", "ConvTranspose", "ReflectionPad"))
    bias = norm == "instance"

    def normed(convolution: nn.Module, width: int) -> list[nn.Module]:
        return [convolution, norm_layers(norm, width, old, ndim), nn.ReLU()]

    f = filters
    parts: list[nn.Module] = [pad(3), *normed(conv(channels, f, 7, bias=bias), f)]
    parts += normed(conv(f, 2 * f, 3, stride=2, padding=1, bias=bias), 2 * f)
    parts += normed(conv(2 * f, 4 * f, 3, stride=2, padding=1, bias=bias), 4 * f)
    parts += [Residual(4 * f, norm, dropout, old, ndim) for _ in range(blocks)]
    for w in (2 * f, f):
        parts += normed(up(2 * w, w, 3, stride=2, padding=1, output_padding=1, bias=bias), w)
    parts += [pad(3), conv(f, out_channels or channels, 7), nn.Tanh()]
    return Network("model", nn.Sequential(*parts))


class Residual(nn.Module):
    def __init__(self, width: int, norm: str, dropout: bool, old: bool, ndim: int) -> None:
        super().__init__()
        conv, pad = layer("Conv", ndim), layer("ReflectionPad", ndim)
        bias = norm == "instance"
        self.conv_block = nn.Sequential(
            pad(1),
            conv(width, width, 3, bias=bias),
            norm_layers(norm, width, old, ndim),
            nn.ReLU(),
            *([nn.Dropout(0.5)] if dropout else []),
            pad(1),
            conv(width, width, 3, bias=bias),
            norm_layers(norm, width, old, ndim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


def patchgan(
    filters: int = 64, channels: int = 3, *, layers: int = 3, norm: str = "instance", old: bool = False, ndim: int = 2
) -> Network:
    conv = layer("Conv", ndim)
    parts: list[nn.Module] = [conv(channels, filters, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    width = filters
    for level in range(1, layers + 1):
        before, width = width, filters * min(2**level, 8)
        stride = 2 if level < layers else 1
        parts += [conv(before, width, 4, stride=stride, padding=1, bias=norm == "instance")]
        parts += [norm_layers(norm, width, old, ndim), nn.LeakyReLU(0.2)]
    return Network("model", nn.Sequential(*parts, conv(width, 1, 4, stride=1, padding=1)))


def pixel(filters: int = 64, channels: int = 3, *, norm: str = "instance", old: bool = False) -> Network:
    bias = norm == "instance"
    return Network(
        "net",
        nn.Sequential(
            nn.Conv2d(channels, filters, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(filters, 2 * filters, 1, bias=bias),
            norm_layers(norm, 2 * filters, old),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * filters, 1, 1, bias=bias),
        ),
    )


class UnetBlock(nn.Module):
    """One level round the level below it, with the in-place LeakyReLU that changes what the skip carries."""

    def __init__(
        self,
        outer: int,
        inner: int,
        inside: nn.Module | None,
        norm: str,
        *,
        channels: int | None = None,
        dropout: bool = False,
        old: bool = False,
    ) -> None:
        super().__init__()
        self.outermost = channels is not None
        bias = norm == "instance"
        down = nn.Conv2d(outer if channels is None else channels, inner, 4, stride=2, padding=1, bias=bias)
        incoming = inner if inside is None else 2 * inner
        up = nn.ConvTranspose2d(incoming, outer, 4, stride=2, padding=1, bias=bias or self.outermost)
        if self.outermost:
            assert inside is not None
            parts = [down, inside, nn.ReLU(inplace=True), up, nn.Tanh()]
        else:
            parts = [nn.LeakyReLU(0.2, inplace=True), down]
            parts += [] if inside is None else [norm_layers(norm, inner, old), inside]
            parts += [nn.ReLU(inplace=True), up, norm_layers(norm, outer, old)]
            parts += [nn.Dropout(0.5)] if dropout else []
        self.model = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


def unet(
    filters: int = 64,
    downs: int = 8,
    channels: int = 3,
    *,
    out_channels: int | None = None,
    norm: str = "instance",
    dropout: bool = False,
    old: bool = False,
) -> Network:
    f = filters
    block = UnetBlock(8 * f, 8 * f, None, norm, old=old)
    for _ in range(downs - 5):
        block = UnetBlock(8 * f, 8 * f, block, norm, dropout=dropout, old=old)
    for outer in (4 * f, 2 * f, f):
        block = UnetBlock(outer, 2 * outer, block, norm, old=old)
    return Network("model", UnetBlock(out_channels or channels, f, block, norm, channels=channels))


def convolutions(module: nn.Module) -> list[nn.Module]:
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d)
    return [m for m in module.modules() if isinstance(m, kinds)]


def weighted(module: nn.Module, seed: int = 1) -> nn.Module:
    """With weights large enough that no layer is near constant, and biases and statistics that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in module.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight.normal_(1, 0.2, generator=generator)
                m.bias.normal_(0, 0.2, generator=generator)
            if isinstance(m, nn.BatchNorm2d | nn.InstanceNorm2d) and m.track_running_stats:
                m.running_mean.normal_(0, 0.2, generator=generator)
                m.running_var.uniform_(0.5, 1.5, generator=generator)
                m.num_batches_tracked.fill_(7)
        for m in convolutions(module):
            fan = m.weight[0].numel() if "Transpose" not in type(m).__name__ else m.weight[:, 0].numel() / 4
            m.weight.normal_(0, 1 / fan**0.5, generator=generator)
            if m.bias is not None:
                m.bias.normal_(0, 0.3, generator=generator)
    return module


def initialized(module: nn.Module, seed: int) -> nn.Module:
    """As the original starts: convolutions N(0, 0.02), batch-norm weights N(1, 0.02), biases 0."""
    generator = torch.Generator().manual_seed(seed)
    for m in module.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            nn.init.normal_(m.weight, float(isinstance(m, nn.BatchNorm2d)), 0.02, generator=generator)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    return module


def cancelled(network: nn.Module) -> set[str]:
    """Names of the biases that an instance or batch norm right behind them takes away again."""

    def walk(module: nn.Module, prefix: str) -> Iterator[str]:
        for (name, _), (_, behind) in pairwise(module.named_children()):
            if isinstance(behind, nn.InstanceNorm2d | nn.BatchNorm2d):
                yield f"{prefix}{name}.bias"
        for name, child in module.named_children():
            yield from walk(child, f"{prefix}{name}.")

    return set(walk(network, "")) & set(network.state_dict())


def copy_weights(source: list[nn.Module], target: list[nn.Module]) -> None:
    """Convolution by convolution; a bias where the target has one (elsewhere a norm cancels the source's)."""
    with torch.no_grad():
        for theirs, ours in zip(source, target, strict=True):
            ours.weight.copy_(theirs.weight)
            if ours.bias is not None:
                ours.bias.copy_(theirs.bias)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
