"""Every kind of generator and discriminator, from a configuration: trains, is measured, is exported and read back."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medcycle.config import Config
from medcycle.errors import ConfigError, TrainingError
from medcycle.model import DomainInfo, Model, load_model, save_model
from medcycle.networks import DISCRIMINATORS, GENERATORS
from medcycle.prepare import Preparation
from medcycle.training.memory import set_checkpointing, step_bytes
from medcycle.training.runtime import SideBySide
from medcycle.training.setup import build_gan, check_sample, generator_arguments, loss_settings
from medcycle.training.step import CycleGAN, training_step

CPU = torch.device("cpu")
GENERATOR: dict[str, dict[str, Any]] = {
    "resnet": {"blocks": 2, "attention": True, "position": True},
    "unet": {"downs": 2, "upsample": "resize", "position": True},
    "vit": {"downs": 2, "layers": 2, "heads": 3},
    "masked": {"blocks": 2, "upsample": "resize", "position": True},
}
DISCRIMINATOR: dict[str, dict[str, Any]] = {
    "patchgan": {"layers": 1, "scales": 2, "spectral": True, "norm": "none"},
    "pixel": {},
}
SIZE = {2: [12, 16], 3: [12, 12, 16]}


def make_config(generator: str = "resnet", discriminator: str = "patchgan", ndim: int = 2, **loss: Any) -> Config:
    domain = {"path": "x", "modality": "mr"}
    if generator == "masked":
        loss = {"mask": 0.5} | loss
    return Config.model_validate(
        {
            "domains": {"a": domain | {"name": "a"}, "b": domain | {"name": "b"}},
            "prepare": {"invert": False},
            "sample": {"size": SIZE[ndim]},
            "model": {
                "generator": {"kind": generator, "filters": 2} | GENERATOR[generator],
                "discriminator": {"kind": discriminator, "filters": 2} | DISCRIMINATOR[discriminator],
            },
            "loss": {"r1": 1.0, "structure": {"patch_nce": 1.0}} | loss,
        }
    )


def make_gan(config: Config) -> CycleGAN:
    return build_gan(config, (1, 1), CPU, "fp32")


def samples(steps: int, ndim: int, batch: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    pairs = torch.rand((steps, 2, batch, 1, *SIZE[ndim]), generator=generator) * 2 - 1
    return [(a, b) for a, b in pairs]


def test_every_kind_is_here() -> None:
    assert set(GENERATOR) == set(GENERATORS)
    assert set(DISCRIMINATOR) == set(DISCRIMINATORS)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(
    ("generator", "discriminator"), [*((kind, "patchgan") for kind in GENERATORS), ("unet", "pixel")]
)
def test_trains_is_measured_and_read_back(generator: str, discriminator: str, ndim: int, tmp_path: Path) -> None:
    config = make_config(generator, discriminator, ndim)
    gan, loss = make_gan(config), loss_settings(config, 1)
    assert type(gan.a_to_b) is GENERATORS[generator]
    assert type(gan.discriminator_a) is DISCRIMINATORS[discriminator]
    assert gan.deterministic
    before = copy.deepcopy({name: network.state_dict() for name, network in gan.networks.items()})
    for a, b in samples(3, ndim):  # from the second on, what fades in has an effect and so a gradient
        values = training_step(gan, a, b, loss)
    assert all(bool(torch.isfinite(value)) and value.dtype == torch.float32 for value in values.values())
    assert ("mask_b" in values) == (generator == "masked")
    for name, network in gan.networks.items():
        for key, value in network.state_dict().items():
            assert not torch.equal(value, before[name][key]) or value.numel() == 1, f"{name}.{key}"

    make = functools.partial(make_gan, config)
    plain, frugal = (step_bytes(make, flag, (1, (1, 1), config.sample.size), loss=loss) or 0 for flag in (False, True))
    assert frugal > 0
    assert plain > 0

    how = DomainInfo("a", Preparation(modality="image", scale=(0.0, 255.0)))
    arguments = generator_arguments(config, 1, 1)
    sample = {"axes": "axial", "size": SIZE[ndim]}
    path = save_model(tmp_path / "m.safetensors", Model(gan.a_to_b, arguments, how, how, sample))
    with torch.no_grad():
        assert torch.equal(load_model(path).network(a), gan.a_to_b.eval()(a))


@pytest.mark.parametrize("generator", GENERATORS)
def test_both_directions_at_once_give_the_same_bits(generator: str) -> None:
    config = make_config(generator)
    one, two = make_gan(config), make_gan(config)
    two.both = SideBySide(1)
    for a, b in samples(4, 2, batch=2):
        expected, found = (training_step(gan, a, b, loss_settings(config, 1), 1) for gan in (one, two))
        assert {name: float(value) for name, value in expected.items()} == {n: float(v) for n, v in found.items()}


@pytest.mark.parametrize("generator", ["vit", "masked"])
def test_parts_of_a_batch_and_checkpointing_change_nothing(generator: str) -> None:
    """Spectral norm, R1 and the mask's mean included."""
    config = make_config(generator)
    runs = []
    for microbatch, checkpointing in ((None, False), (1, True)):
        gan = make_gan(config)
        set_checkpointing(gan, checkpointing)
        for a, b in samples(2, 2, batch=3):
            values = training_step(gan, a, b, loss_settings(config, 1), microbatch)
        runs.append(values)
    for name, value in runs[0].items():
        torch.testing.assert_close(runs[1][name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_a_resumed_state_goes_on_bit_for_bit() -> None:
    config = make_config("masked")
    one, two = make_gan(config), make_gan(config)
    data = samples(4, 2)
    for a, b in data[:2]:
        training_step(one, a, b, loss_settings(config, 1))
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    two.pool_a.load_state_dict(one.pool_a.state_dict())
    two.pool_b.load_state_dict(one.pool_b.state_dict())
    for a, b in data[2:]:
        found = [training_step(gan, a, b, loss_settings(config, 1)) for gan in (one, two)]
    assert {n: float(v) for n, v in found[0].items()} == {n: float(v) for n, v in found[1].items()}


def test_the_masks_mean_is_that_of_what_is_translated() -> None:
    config = make_config("masked", mask=3.0, r1=0)
    gan = make_gan(config)
    a, b = samples(1, 2)[0]
    with torch.no_grad():
        expected = gan.a_to_b.with_mask(a)[1].mean()  # type: ignore[operator]
    with_mask, without = (
        training_step(copy.deepcopy(gan), a, b, loss_settings(c, 1))
        for c in (config, make_config("masked", mask=0, r1=0))
    )
    torch.testing.assert_close(with_mask["mask_b"], expected)
    assert "mask_b" not in without
    torch.testing.assert_close(
        with_mask["generator"] - without["generator"], 3 * (with_mask["mask_a"] + with_mask["mask_b"])
    )


def test_a_heavy_mask_loss_closes_the_mask() -> None:
    config = make_config("masked", mask=100.0)
    gan = make_gan(config)
    gan.set_learning_rate(5e-3)
    a, b = samples(1, 2)[0]
    first, *_, last = (float(training_step(gan, a, b, loss_settings(config, 1))["mask_b"]) for _ in range(30))
    assert first > 0.4
    assert last < 0.1


def test_a_mask_loss_without_a_mask_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model.generator.kind resnet has none; take kind masked, or loss.mask 0"):
        make_config("resnet", mask=0.1)
    gan = make_gan(make_config("unet"))
    with pytest.raises(TrainingError, match="a UnetGenerator has none"):
        training_step(gan, *samples(1, 2)[0], loss_settings(make_config("masked"), 1))


def test_a_sample_too_small_for_the_scales_is_refused() -> None:
    check_sample(make_config())
    values = make_config().model_dump()
    values["sample"]["size"] = (10, 16)
    with pytest.raises(ConfigError, match=r"layers=1 with scales=2 needs at least 11 voxels .* fewer layers or scales"):
        check_sample(Config.model_validate(values))
