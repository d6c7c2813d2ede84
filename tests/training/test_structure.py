"""Structure losses in the step: all of them, with their weights, and what they achieve."""

from __future__ import annotations

import math

import pytest
import torch

from medcycle.config import Config
from medcycle.errors import ConfigError
from medcycle.networks import build_discriminator, build_generator
from medcycle.training.setup import build_gan, loss_settings
from medcycle.training.step import CycleGAN, LossSettings, discriminator_losses, generator_losses, training_step
from medcycle.training.structure import StructureSettings, patch_nce_loss, places_inside, structure_losses

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
    assert values[-1] < 0.7 * values[0]


def test_settings_reach_the_step_from_a_configuration() -> None:
    domain = {"path": "x", "modality": "mr"}
    config = Config.model_validate(
        {
            "domains": {"a": domain | {"name": "a"}, "b": domain | {"name": "b"}},
            "prepare": {"spacing": None, "invert": False},
            "loss": {"structure": {"mind": 2, "warm_up": 100}},
        }
    )
    found = loss_settings(config, 1).structure
    assert found == StructureSettings(mind=2, warm_up=100)
    assert [found.ramp(step) for step in (0, 50, 200)] == [0, 0.5, 1]


def small(size: tuple[int, ...], generator: str = "resnet", **loss: object) -> tuple[CycleGAN, LossSettings]:
    domain = {"path": "x", "modality": "mr"}
    networks = {
        "generator": {"kind": generator, "filters": 4} | ({"downs": 3} if generator == "unet" else {"blocks": 2}),
        "discriminator": {"filters": 4, "layers": 1},
    }
    config = Config.model_validate(
        {
            "domains": {"a": domain | {"name": "a"}, "b": domain | {"name": "b"}},
            "sample": {"size": size},
            "model": networks,
            "loss": loss,
        }
    )
    return build_gan(config, (1, 1), torch.device("cpu"), "fp32"), loss_settings(config, 1)


def scans(size: tuple[int, ...]) -> list[torch.Tensor]:
    """Of both domains: noise in a block, air round it."""
    made = []
    for seed in (1, 2):
        image = torch.full((2, 1, *size), -1.0)
        inner = (..., *(slice(4, n - 4) for n in size))
        image[inner] = torch.rand(image[inner].shape, generator=torch.Generator().manual_seed(seed)) - 0.5
        made.append(image)
    return made


@pytest.mark.parametrize("generator", ["resnet", "unet"])
@pytest.mark.parametrize("size", [(24, 24), (16, 16, 16)])
def test_patch_nce_trains_generator_and_projections_and_goes_on_bit_for_bit(
    size: tuple[int, ...], generator: str
) -> None:
    loss = {"cycle": 0, "identity": 0, "structure": {"patch_nce": 1}}
    gan, settings = small(size, generator, **loss)
    a, b = scans(size)
    before = [p.clone() for p in gan.generator_parameters]
    values = [float(training_step(gan, a, b, settings)["patch_nce_b"]) for _ in range(20)]
    assert values[-1] < values[0] - 0.02
    assert all(not torch.equal(p, old) for p, old in zip(gan.generator_parameters, before, strict=True) if p.ndim > 1)
    again, _ = small(size, generator, **loss)
    again.load_state_dict(gan.state_dict())
    again.pool_a.load_state_dict(gan.pool_a.state_dict())
    again.pool_b.load_state_dict(gan.pool_b.state_dict())
    for this, that in zip(*(training_step(g, a, b, settings).values() for g in (gan, again)), strict=True):
        assert torch.equal(this, that)


@pytest.mark.parametrize("space", [(6, 5), (4, 3, 5)])
def test_places_are_uniform_over_the_body(space: tuple[int, ...]) -> None:
    inside = torch.zeros(2, 1, *(2 * n for n in space))
    inside[0, :, :2, 4:6] = 1  # of the second sample nothing is body: all of it is drawn from
    draws = torch.linspace(0, 1, 6001)[:-1]
    found = places_inside(inside, space, draws)
    assert found.shape == (2, 6000)
    pooled = inside[0, 0].reshape([n for size in space for n in (size, 2)]).amax(tuple(range(1, 2 * len(space), 2)))
    body, counts = found[0].unique(return_counts=True)
    assert body.tolist() == torch.nonzero(pooled.flatten()).flatten().tolist()
    assert int(counts.max() - counts.min()) <= 1
    assert found[1].unique().numel() == math.prod(space)


def test_patch_nce_looks_at_places_of_the_body_alone() -> None:
    asked: list[torch.Tensor] = []

    class Features(torch.nn.Module):
        def features(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [images]

        def forward(self, levels: list[torch.Tensor], places: list[torch.Tensor]) -> list[torch.Tensor]:
            asked.extend(places)
            return [level.flatten(2)[..., :4] for level in levels]

    given = torch.full((1, 1, 6, 6), -1.0)
    given[..., 2:4, 1:3] = -0.99  # dark, but no air
    patch_nce_loss(Features(), Features(), given, given.clone(), torch.linspace(0, 0.99, 50))
    assert all(set(places.flatten().tolist()) == {13, 14, 19, 20} for places in asked)
    assert len(asked) == 2


def test_a_generator_without_features_cannot_have_patch_nce() -> None:
    domain = {"path": "x", "modality": "mr"}
    config = Config.model_validate(
        {
            "domains": {"a": domain | {"name": "a"}, "b": domain | {"name": "b"}},
            "loss": {"structure": {"patch_nce": 1}},
        }
    )
    with pytest.raises(ConfigError, match="gives no features"):
        build_gan(config, (1, 1), torch.device("cpu"), "fp32", make_generator=lambda i, o: torch.nn.Conv2d(i, o, 1))


@pytest.mark.parametrize("size", [(24, 24), (16, 16, 16)])
def test_masked_losses_ignore_what_happens_in_the_air(size: tuple[int, ...]) -> None:
    """A generator that is right inside and wild outside has no loss but the adversarial one, of air that is air."""

    class Wild(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(x > -1, x, 0.7)

    class Watch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.seen = torch.nn.Parameter(torch.ones(())), []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(x)
            return self.weight * x

    gan, settings = small(size, body_only=True)
    gan.a_to_b = gan.b_to_a = Wild()
    gan.discriminator_b = watch = Watch()
    a, b = scans(size)
    losses, _, fake = generator_losses(gan, a, b, settings, a_to_b=True)
    assert float(losses["cycle_a"]) == float(losses["identity_b"]) == 0
    assert torch.equal(fake, a)
    assert torch.equal(watch.seen[0], a)
    expected = ((a - 1).square()[a > -1]).mean()
    assert float(losses["adversarial_b"].detach()) == pytest.approx(float(expected), rel=1e-5)
    discriminator, _ = discriminator_losses(gan, "b", b, fake, settings)
    expected = ((b - 1).square()[b > -1].mean() + a.square()[a > -1].mean()) / 2
    assert float(discriminator["discriminator_b"].detach()) == pytest.approx(float(expected), rel=1e-5)


def test_masked_losses_need_a_body() -> None:
    with pytest.raises(ValueError, match="body_only needs the body"):
        Config.model_validate(
            {
                "domains": {k: {"name": k, "path": "x", "modality": "image"} for k in ("a", "b")},
                "loss": {"body_only": True},
            }
        )


@pytest.mark.parametrize("name", ["gradient_correlation", "mind", "outline"])
def test_channels_that_are_planes_are_compared_one_by_one(name: str) -> None:
    torch.manual_seed(0)
    given, made = (torch.rand((2, 6, 12, 12)) * 2 - 1 for _ in "ab")  # three planes of two channels
    (_, together), *_ = structure_losses(StructureSettings(**{name: 1.0}, planes=3), given, made).values()
    apart = []
    for plane in range(3):
        part = slice(2 * plane, 2 * plane + 2)
        (_, value), *_ = structure_losses(StructureSettings(**{name: 1.0}), given[:, part], made[:, part]).values()
        apart.append(float(value))
    assert float(together) == pytest.approx(sum(apart) / 3, rel=1e-5)


def test_planes_in_another_order_are_told_apart() -> None:
    """The mean over a stack would not see it."""
    given = torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(0)) * 2 - 1
    for name in ALL:
        for planes, same in ((1, True), (3, False)):
            (_, value), *_ = structure_losses(
                StructureSettings(**{name: 1.0}, planes=planes), given, given.flip(1)
            ).values()
            (_, best), *_ = structure_losses(StructureSettings(**{name: 1.0}, planes=planes), given, given).values()
            assert (float(value) == pytest.approx(float(best), abs=1e-5)) == same, (name, planes)
