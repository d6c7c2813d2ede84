"""nn.Modules and nothing else: generators and discriminators, each in two and three dimensions from one source."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from medcycle.errors import ModelError
from medcycle.networks.layers import initialize, pad_to_multiple
from medcycle.networks.masked import MaskedGenerator
from medcycle.networks.patchgan import PatchDiscriminator, PixelDiscriminator
from medcycle.networks.resnet import ResnetGenerator
from medcycle.networks.spectral import follow_spectral_norms
from medcycle.networks.unet import UnetGenerator
from medcycle.networks.vit import VitGenerator

__all__ = [
    "DISCRIMINATORS",
    "GENERATORS",
    "MaskedGenerator",
    "PatchDiscriminator",
    "PixelDiscriminator",
    "ResnetGenerator",
    "UnetGenerator",
    "VitGenerator",
    "build_discriminator",
    "build_generator",
    "follow_spectral_norms",
    "initialize",
    "pad_to_multiple",
]

GENERATORS: dict[str, type[nn.Module]] = {
    "resnet": ResnetGenerator,
    "unet": UnetGenerator,
    "vit": VitGenerator,
    "masked": MaskedGenerator,
}
DISCRIMINATORS: dict[str, type[nn.Module]] = {"patchgan": PatchDiscriminator, "pixel": PixelDiscriminator}


def build_generator(kind: str, **arguments: Any) -> nn.Module:
    """The generator ``kind`` of :data:`GENERATORS`, made with its own keyword arguments.

    Raises:
        ModelError: if the kind is unknown, or an argument is missing, unknown or not possible.
    """
    return _build("generator", GENERATORS, kind, arguments)


def build_discriminator(kind: str, **arguments: Any) -> nn.Module:
    """The discriminator ``kind`` of :data:`DISCRIMINATORS`, made with its own keyword arguments.

    Raises:
        ModelError: if the kind is unknown, or an argument is missing, unknown or not possible.
    """
    return _build("discriminator", DISCRIMINATORS, kind, arguments)


def _build(role: str, kinds: Mapping[str, type[nn.Module]], kind: str, arguments: dict[str, Any]) -> nn.Module:
    if kind not in kinds:
        raise ModelError(f"{role} kind {kind!r} is unknown; allowed are {', '.join(kinds)}")
    signature = inspect.signature(kinds[kind])
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ModelError(f"{role} {kind}: {error}; its arguments are {', '.join(signature.parameters)}") from None
    return kinds[kind](**arguments)
