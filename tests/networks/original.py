"""The original CycleGAN's networks, written plainly from their published facts: what ours must equal."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def resnet(filters: int = 64, blocks: int = 9, channels: int = 3) -> nn.Sequential:
    def normed(convolution: nn.Module, width: int) -> list[nn.Module]:
        return [convolution, nn.InstanceNorm2d(width), nn.ReLU()]

    f = filters
    parts: list[nn.Module] = [nn.ReflectionPad2d(3), *normed(nn.Conv2d(channels, f, 7), f)]
    parts += normed(nn.Conv2d(f, 2 * f, 3, stride=2, padding=1), 2 * f)
    parts += normed(nn.Conv2d(2 * f, 4 * f, 3, stride=2, padding=1), 4 * f)
    parts += [Residual(4 * f) for _ in range(blocks)]
    parts += normed(nn.ConvTranspose2d(4 * f, 2 * f, 3, stride=2, padding=1, output_padding=1), 2 * f)
    parts += normed(nn.ConvTranspose2d(2 * f, f, 3, stride=2, padding=1, output_padding=1), f)
    return nn.Sequential(*parts, nn.ReflectionPad2d(3), nn.Conv2d(f, channels, 7), nn.Tanh())


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


def patchgan(filters: int = 64, channels: int = 3) -> nn.Sequential:
    f = filters
    return nn.Sequential(
        nn.Conv2d(channels, f, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(f, 2 * f, 4, stride=2, padding=1),
        nn.InstanceNorm2d(2 * f),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * f, 4 * f, 4, stride=2, padding=1),
        nn.InstanceNorm2d(4 * f),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4 * f, 8 * f, 4, stride=1, padding=1),
        nn.InstanceNorm2d(8 * f),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8 * f, 1, 4, stride=1, padding=1),
    )


class UnetBlock(nn.Module):
    """One level round the level below it, with the in-place LeakyReLU that changes what the skip carries."""

    def __init__(self, outer: int, inner: int, inside: nn.Module | None, channels: int | None = None) -> None:
        super().__init__()
        outermost = channels is not None
        down = nn.Conv2d(channels if channels is not None else outer, inner, 4, stride=2, padding=1)
        incoming = inner if inside is None else 2 * inner
        up = nn.ConvTranspose2d(incoming, channels if channels is not None else outer, 4, stride=2, padding=1)
        if outermost:
            assert inside is not None
            parts = [down, inside, nn.ReLU(inplace=True), up, nn.Tanh()]
        elif inside is None:
            parts = [nn.LeakyReLU(0.2, inplace=True), down, nn.ReLU(inplace=True), up, nn.InstanceNorm2d(outer)]
        else:
            parts = [nn.LeakyReLU(0.2, inplace=True), down, nn.InstanceNorm2d(inner), inside]
            parts += [nn.ReLU(inplace=True), up, nn.InstanceNorm2d(outer)]
        self.model = nn.Sequential(*parts)
        self.outermost = outermost

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


def unet(filters: int = 64, downs: int = 8, channels: int = 3) -> UnetBlock:
    f = filters
    block = UnetBlock(8 * f, 8 * f, None)
    for _ in range(downs - 5):
        block = UnetBlock(8 * f, 8 * f, block)
    for outer in (4 * f, 2 * f, f):
        block = UnetBlock(outer, 2 * outer, block)
    return UnetBlock(0, f, block, channels=channels)


def convolutions(module: nn.Module) -> list[nn.Module]:
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d)
    return [m for m in module.modules() if isinstance(m, kinds)]


def weighted(module: nn.Module, seed: int = 1) -> nn.Module:
    """With weights large enough that no layer is near constant, and biases that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in convolutions(module):
            fan = m.weight[0].numel() if "Transpose" not in type(m).__name__ else m.weight[:, 0].numel() / 4
            m.weight.normal_(0, 1 / fan**0.5, generator=generator)
            m.bias.normal_(0, 0.3, generator=generator)
    return module


def copy_weights(source: list[nn.Module], target: list[nn.Module]) -> None:
    """Convolution by convolution; a bias where the target has one (elsewhere a norm cancels the source's)."""
    with torch.no_grad():
        for theirs, ours in zip(source, target, strict=True):
            ours.weight.copy_(theirs.weight)
            if ours.bias is not None:
                ours.bias.copy_(theirs.bias)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
