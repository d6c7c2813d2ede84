"""Structure losses in the step: all of them, with their weights, and what they achieve."""

from __future__ import annotations

import pytest
import torch

from medcycle.config import Config
from medcycle.networks import build_discriminator, build_generator
from medcycle.training.setup import loss_settings
from medcycle.training.step import CycleGAN, LossSettings, training_step
from medcycle.training.structure import StructureSettings

ALL = {"gradient_correlation": 1.0, "mind": 1.0, "mutual_information": 1.0, "outline": 1.0}


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_step_takes_them_all_in_with_their_weights(ndim: int) -> None:
    torch.manual_seed(0)
    sizes = {"in_channels": 1, "out_channels": 1, "ndim": ndim, "filters": 4, "blocks": 1}
    nets = [build_generator("resnet", **sizes) for _ in "ab"]
    nets += [build_discriminator("patchgan", channels=1, ndim=ndim, filters=4, layers=1) for _ in "ab"]
    gan = CycleGAN(*nets)
    a, b = (torch.rand((1, 1, *(16,) * ndim), generator=torch.Generator().manual_seed(n)) * 2 - 1 for n in (1, 2))
    given = LossSettings(structure=StructureSettings(**ALL, warm_up=2))
    for step in range(3):
        found = training_step(gan, a, b, given)
        names = [f"{name}_{domain}" for name in ALL for domain in "ab"]
        classic = found["adversarial_a"] + found["adversarial_b"] + 10 * (found["cycle_a"] + found["cycle_b"])
        classic = classic + 5 * (found["identity_a"] + found["identity_b"])
        expected = classic + min(1, step / 2) * sum(found[name] for name in names)
        assert float(found["generator"]) == pytest.approx(float(expected), rel=1e-5)


def test_it_keeps_the_made_image_to_the_given_ones_structure() -> None:
    """With the adversary and the cycle silent, a generator learns whatever has the input's structure."""
    torch.manual_seed(0)
    nets = [build_generator("unet", in_channels=1, out_channels=1, ndim=2, filters=4, downs=2) for _ in "ab"]
    nets += [build_discriminator("pixel", channels=1, ndim=2, filters=4) for _ in "ab"]
    gan = CycleGAN(*nets, learning_rate=2e-3)
    image = torch.full((1, 1, 48, 48), -1.0)
    image[..., 8:40, 10:38], image[..., 16:30, 14:26] = 0.2, 0.8
    loss = LossSettings(cycle=0, identity=0, structure=StructureSettings(mind=50))
    values = [float(training_step(gan, image, image.flip(2), loss)["mind_b"]) for _ in range(40)]
    assert values[-1] < 0.6 * values[0]


def test_settings_reach_the_step_from_a_configuration() -> None:
    domain = {"path": "x", "modality": "mr"}
    config = Config.model_validate(
        {
            "domains": {"a": domain | {"name": "a"}, "b": domain | {"name": "b"}},
            "prepare": {"spacing": None, "invert": False},
            "loss": {"structure": {"mind": 2, "warm_up": 100}},
        }
    )
    found = loss_settings(config).structure
    assert found == StructureSettings(mind=2, warm_up=100)
    assert [found.ramp(step) for step in (0, 50, 200)] == [0, 0.5, 1]
