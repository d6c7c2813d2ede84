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


def test_bright_values_that_were_made_too_low_come_back():
    network = Curve(paled)
    curve = fit_curve(network, samples(0), samples(1), AIR)
    fitted = CalibratedGenerator.fit(network, curve)
    image = samples(2)[0]
    made = fitted(image)
    bright = image > image[image > -1].median() + 0.2
    missing = (paled(image) - image).abs()[bright].mean()
    assert float((made - image).abs()[bright].mean()) < 0.25 * float(missing)
    assert float(made.max()) == pytest.approx(0.9, abs=0.1)


def test_the_darker_half_and_air_stay_as_they_are():
    before, after = fit_curve(Curve(paled), samples(0), samples(1), AIR)
    made = paled(torch.cat(samples(2)))
    middle = float(made[made > AIR].median())
    dark = np.linspace(-1, middle - 0.01, 50)
    np.testing.assert_allclose(np.interp(dark, before, after), dark, atol=1e-6)
    assert np.interp(middle + 0.3, before, after) > middle + 0.4


def test_noise_of_one_tissue_is_not_matched():
    """Real tissue has four times the noise of what is made, and the same bone: bone and contrasts stay."""

    def heads(noise: float, seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        image = torch.full((1, 1, 128, 128), -1.0)
        image[..., 20:108, 20:108] = noise * torch.randn(88, 88, generator=generator)
        image[..., 20:108, 20:36] = 0.6 + 0.1 * torch.rand(88, 16, generator=generator)
        image[..., 20:108, 92:108] = -0.4 + 0.1 * torch.rand(88, 16, generator=generator)
        return [image]

    before, after = fit_curve(nn.Identity(), heads(0.02, 0), heads(0.08, 1), AIR)
    contrast = np.interp([0.02, 0.0], before, after)
    assert 0.01 < contrast[0] - contrast[1] < 0.05
    assert np.interp(0.65, before, after) == pytest.approx(0.65, abs=0.05)


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
    np.testing.assert_allclose(np.interp(places, before, after), np.interp(places, *plain), atol=0.04)
    assert np.interp([-1, -0.9, AIR], before, after) == pytest.approx([-1, -0.9, AIR])


@pytest.mark.parametrize(
    ("made", "real"),
    [
        (samples(0), samples(1, count=0)),
        ([torch.full((1, 1, 128, 128), -1.0)], samples(1)),
        ([torch.where(samples(0)[0] > -1, 0.25, -1.0)], samples(1)),
        ([torch.where(image > -1, 0.2 + 0.05 * image, -1.0) for image in samples(0)], samples(1)),
        ([torch.where(image > -0.5, 1.0, image) for image in samples(0)], samples(1)),
        (samples(0), [torch.where(image > -0.5, 1.0, image) for image in samples(1)]),
    ],
    ids=["none of the target", "no body", "one value", "all but even", "made of the brightest", "the brightest wanted"],
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
    assert (before[0], after[0], before[-1], after[-1]) == pytest.approx((-1, -1, 1, 1))
    assert np.interp(air, before, after) == pytest.approx(air, abs=1e-5)
