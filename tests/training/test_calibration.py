from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medcycle.networks.calibrated import CalibratedGenerator
from medcycle.training.calibration import fit_curve

AIR = -0.7


class Curve(nn.Module):
    """Changes every value by one rising function, as a generator that is right in everything but that."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.function(images)


def samples(seed: int, count: int = 4, low: float = -0.6, high: float = 0.9) -> list[torch.Tensor]:
    """Bodies of values between low and high, a quarter of each sample, in air."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        image = torch.full((1, 1, 128, 128), -1.0)
        image[..., 32:96, 32:96] = low + (high - low) * torch.rand(1, 1, 64, 64, generator=generator) ** 2
        found.append(image)
    return found


def paled(images: torch.Tensor) -> torch.Tensor:
    """Half as far above soft tissue (-0.6) as it should be; air, and what is hardly more, as they are."""
    return torch.where(images > -0.6, -0.6 + (images + 0.6) / 2, images)


def test_values_that_were_made_too_low_come_back():
    network = Curve(paled)
    curve = fit_curve(network, samples(0), samples(1), AIR)
    fitted = CalibratedGenerator.fit(network, curve)
    image = samples(2)[0]
    made = fitted(image)
    assert float((made - image).abs().mean()) < 0.02 * float((paled(image) - image).abs().mean()) + 0.003
    assert (made[image == -1] == -1).all()
    quantiles = torch.tensor([0.1, 0.5, 0.9])
    body = image > -1
    np.testing.assert_allclose(made[body].quantile(quantiles), image[body].quantile(quantiles), atol=0.03)


def test_what_lies_outside_the_body_does_not_count():
    def with_a_table(images: torch.Tensor) -> torch.Tensor:
        made = paled(images)
        made[..., 120:, :] = 0.8
        return made

    assert fit_curve(Curve(with_a_table), samples(0), samples(1), AIR) == fit_curve(
        Curve(paled), samples(0), samples(1), AIR
    )


def test_how_much_air_is_in_the_body_does_not_count():
    def hollow(images: torch.Tensor) -> torch.Tensor:
        made = paled(images)
        made[..., 32:40, :] = -0.95
        return made

    before, after = fit_curve(Curve(hollow), samples(0), samples(1), AIR)
    plain = fit_curve(Curve(paled), samples(0), samples(1), AIR)
    places = np.linspace(-0.55, 0.1, 20)
    np.testing.assert_allclose(np.interp(places, before, after), np.interp(places, *plain), atol=0.03)
    assert np.interp([-1, -0.9, AIR], before, after) == pytest.approx([-1, -0.9, AIR])


@pytest.mark.parametrize(
    ("made", "real"),
    [
        (samples(0), samples(1, count=0)),
        ([torch.full((1, 1, 128, 128), -1.0)], samples(1)),
        ([torch.where(samples(0)[0] > -1, 0.25, -1.0)], samples(1)),
        ([torch.where(image > -1, 0.2 + 0.05 * image, -1.0) for image in samples(0)], samples(1)),
    ],
    ids=["none of the target", "no body", "one value", "all but even"],
)
def test_there_is_no_curve_where_nothing_tells_of_one(made, real):
    assert fit_curve(nn.Identity(), made, real, AIR) is None


def test_the_network_comes_back_in_its_mode():
    network = nn.Sequential(nn.Dropout(0.5)).train()
    first = fit_curve(network, samples(0), samples(1), AIR)
    assert network.training
    assert fit_curve(network.eval(), samples(0), samples(1), AIR) == first
    assert not network.training


@settings(max_examples=25, deadline=None)
@given(
    slope=st.floats(0.05, 3),
    shift=st.floats(-0.5, 0.5),
    low=st.floats(-0.65, 0),
    high=st.floats(0.05, 1),
    air=st.floats(-0.95, -0.66),
)
def test_the_curve_rises_from_end_to_end(slope, shift, low, high, air):
    network = Curve(lambda images: torch.tanh(slope * images + shift))
    curve = fit_curve(network, samples(0, 1), samples(1, 2, low, high), air)
    if curve is None:
        return
    before, after = map(np.array, curve)
    assert (np.diff(before) > 0).all()
    assert (np.diff(after) >= 0).all()
    assert (before[0], after[0], before[-1], after[-1]) == (-1, -1, 1, after[-1])
    assert after[-1] <= 1
    assert np.interp(air, before, after) == pytest.approx(air, abs=1e-5)
