"""The section `model`: the kinds of generators and discriminators, and what each can be told."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from medcycle.config.section import Count, Section

Norm: TypeAlias = Literal["instance", "batch", "group", "none"]


class _BlocksConfig(Section):
    """What the resnet and the masked generator, which is one with a mask besides, are both told."""

    kind: str
    filters: Count = 64
    blocks: Annotated[int, Field(ge=1, le=64)] = 9
    norm: Norm = "instance"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    upsample: Literal["transposed", "resize"] = "transposed"
    """resize (nearest neighbour, then convolution) avoids the checkerboard of transposed convolutions."""
    attention: bool = False
    """Self-attention between the two halves of the blocks (Zhang 2019): far parts of a sample are seen together."""
    position: bool = False
    """The place of each voxel in the body, from its outline in the sample, as further input channels (Liu 2018). For
    samples that hold the whole outline."""


class ResnetConfig(_BlocksConfig):
    """The original's generator (Johnson 2016; Zhu 2017)."""

    kind: Literal["resnet"] = "resnet"


class UnetConfig(Section):
    """The U-Net of pix2pix (Isola 2017)."""

    kind: Literal["unet"] = "unet"
    filters: Count = 64
    downs: Annotated[int, Field(ge=2, le=10)] = 8
    """Number of halvings; the sample is padded to a multiple of 2**downs, which must not exceed its longest axis."""
    norm: Norm = "instance"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    upsample: Literal["transposed", "resize"] = "transposed"
    """As of the resnet, and the next too."""
    position: bool = False


class VitConfig(Section):
    """A U-Net with a transformer at its bottom, in the manner of UVCGAN (Torbunov 2023)."""

    kind: Literal["vit"] = "vit"
    filters: Count = 48
    downs: Annotated[int, Field(ge=1, le=8)] = 4
    """Number of halvings: 4 make 256 tokens of 256 x 256 voxels, 64 of 64 x 64 x 64. The sample is padded to a multiple
    of 2**downs, which must not exceed its longest axis."""
    norm: Norm = "instance"
    upsample: Literal["transposed", "resize"] = "resize"
    layers: Annotated[int, Field(ge=1, le=64)] = 12
    """Transformer blocks."""
    heads: Annotated[int, Field(ge=1, le=64)] = 6


class MaskedConfig(_BlocksConfig):
    """A resnet that also makes a mask: where it is 0, the image is copied (Chen 2018). See loss.mask."""

    kind: Literal["masked"] = "masked"


class PatchganConfig(Section):
    """N-layer PatchGAN (Isola 2017); 3 layers see 70x70 voxels."""

    kind: Literal["patchgan"] = "patchgan"
    filters: Count = 64
    layers: Annotated[int, Field(ge=1, le=8)] = 3
    norm: Norm = "instance"
    scales: Annotated[int, Field(ge=1, le=4)] = 1
    """PatchGANs, each further one on images of half the size (Wang 2018); their mean is the loss."""
    spectral: bool = False
    """Kernels of spectral norm 1 (Miyato 2018), usually with norm: none."""


class PixelConfig(Section):
    """1x1 PatchGAN: judges each voxel by itself."""

    kind: Literal["pixel"] = "pixel"
    filters: Count = 64
    norm: Norm = "instance"


class Architecture(Section):
    """The two generators and the two discriminators."""

    generator: Annotated[ResnetConfig | UnetConfig | VitConfig | MaskedConfig, Field(discriminator="kind")] = (
        ResnetConfig()
    )
    discriminator: Annotated[PatchganConfig | PixelConfig, Field(discriminator="kind")] = PatchganConfig()

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, value: Any) -> Any:
        if isinstance(value, dict):
            value = dict(value)
            for key, kind in (("generator", "resnet"), ("discriminator", "patchgan")):
                if isinstance(value.get(key), dict):
                    value[key] = {"kind": kind, **value[key]}
        return value
