from __future__ import annotations

import pytest

from medcycle.errors import ModelError
from medcycle.networks import (
    DISCRIMINATORS,
    GENERATORS,
    PixelDiscriminator,
    UnetGenerator,
    build_discriminator,
    build_generator,
)


def test_every_kind_is_built_by_its_name():
    unet = build_generator("unet", in_channels=1, out_channels=2, filters=2, downs=2, ndim=3)
    assert isinstance(unet, UnetGenerator)
    assert (unet.ndim, unet.in_channels, unet.out_channels, unet.multiple) == (3, 1, 2, 4)
    assert isinstance(build_discriminator("pixel", channels=1, filters=2), PixelDiscriminator)
    for kind in GENERATORS:
        assert isinstance(build_generator(kind, in_channels=1, out_channels=1, filters=1), GENERATORS[kind])
    for kind in DISCRIMINATORS:
        assert isinstance(build_discriminator(kind, channels=1, filters=1), DISCRIMINATORS[kind])


def test_a_wrong_kind_or_argument_is_named_with_what_is_allowed():
    with pytest.raises(ModelError, match="generator kind 'vnet' is unknown; allowed are resnet, unet, vit, masked"):
        build_generator("vnet", in_channels=1, out_channels=1)
    with pytest.raises(ModelError, match="discriminator kind 'resnet' is unknown; allowed are patchgan, pixel"):
        build_discriminator("resnet", channels=1)
    with pytest.raises(ModelError, match=r"generator resnet: .*'downs'; its arguments are in_channels, .*blocks"):
        build_generator("resnet", in_channels=1, out_channels=1, downs=3)
    with pytest.raises(ModelError, match=r"discriminator patchgan: .*'channels'"):
        build_discriminator("patchgan")
