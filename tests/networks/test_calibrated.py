from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medcycle.errors import ModelError
from medcycle.networks import build_generator
from medcycle.networks.calibrated import CalibratedGenerator

CURVE = [-1.0, -0.5, 0.0, 0.1, 1.0], [-1.0, -0.5, 0.25, 0.75, 1.0]


class Half(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.bfloat16()


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_curve_is_applied_to_what_the_network_makes(ndim):
    network = build_generator("resnet", in_channels=1, out_channels=2, ndim=ndim, filters=2, blocks=1)
    images = torch.rand(2, 1, *(9, 12, 5)[:ndim], generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        made, calibrated = network(images), CalibratedGenerator.fit(network, CURVE)(images)
    np.testing.assert_allclose(calibrated, np.interp(made, *CURVE), atol=1e-6)


def test_it_is_the_identity_until_it_is_fitted():
    network = CalibratedGenerator(nn.Identity(), 17)
    images = torch.linspace(-1, 1, 1001)[None, None, None]
    torch.testing.assert_close(network(images), images)


def test_ends_knots_and_what_lies_beyond():
    network = CalibratedGenerator.fit(nn.Identity(), CURVE)
    images = torch.tensor([[[[-7.0, -1, -0.5, 0.1, 1, 7]]]])
    torch.testing.assert_close(network(images), torch.tensor([[[[-1.0, -1, -0.5, 0.75, 1, 1]]]]))


def test_it_gives_float32_whatever_the_network_computes_in():
    network = CalibratedGenerator.fit(Half(), CURVE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = network(torch.full((1, 1, 2, 2), 0.0))
    assert made.dtype == torch.float32
    assert (made == 0.25).all()


@pytest.mark.parametrize("knots", [1, 5000, "7", 3.0, True])
def test_other_numbers_of_knots_are_refused(knots):
    with pytest.raises(ModelError, match="a number from 2 to 4096"):
        CalibratedGenerator(nn.Identity(), knots)


def test_it_tells_what_its_network_tells_of_itself():
    network = build_generator("unet", in_channels=1, out_channels=2, filters=2, downs=3)
    calibrated = CalibratedGenerator(network, 3)
    assert (calibrated.in_channels, calibrated.out_channels, calibrated.multiple) == (1, 2, 8)
    assert not hasattr(CalibratedGenerator(nn.Identity(), 3), "multiple")
    assert not hasattr(calibrated, "features")
