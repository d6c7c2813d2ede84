"""The memory plan: what it counts against what a step really keeps, what it chooses, what it says."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import medcycle.training.memory as memory
from medcycle.config import Config
from medcycle.training.contrast import ContrastSettings
from medcycle.training.memory import MemoryPlan, choose, plans, set_checkpointing, settings_that_fit, step_bytes
from medcycle.training.setup import build_gan
from medcycle.training.step import CycleGAN, LossSettings, generator_losses

CPU = torch.device("cpu")


def make_config(size: list[int], norm: str = "instance", **train: Any) -> Config:
    domain = {"path": "x", "modality": "mr"}
    return Config.model_validate(
        {
            "domains": {"a": domain | {"name": "a"}, "b": domain | {"name": "b"}},
            "prepare": {"spacing": None, "invert": False},
            "sample": {"size": size},
            "model": {
                "generator": {"filters": 8, "blocks": 3, "norm": norm},
                "discriminator": {"filters": 8, "layers": 1},
            },
            "train": train,
        }
    )


def maker(config: Config) -> Any:
    return functools.partial(build_gan, config, (1, 1), CPU, "fp32")


def saved_bytes(gan: CycleGAN, size: tuple[int, ...], samples: int) -> int:
    """What autograd keeps of a direction, counted by PyTorch's hooks on a real step."""
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for network in gan.networks.values() for p in network.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = [torch.zeros((samples, 1, *size)) for _ in "ab"]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        generator_losses(gan, images[0], images[1], LossSettings(), a_to_b=True)
    return sum(kept.values())


@pytest.mark.parametrize("size", [(64, 64), (16, 24, 16)])
@pytest.mark.parametrize("samples", [1, 2])
def test_the_count_is_what_a_real_step_keeps(size: tuple[int, ...], samples: int) -> None:
    config = make_config(list(size))
    gan = maker(config)()
    found = step_bytes(maker(config), False, (samples, (1, 1), size))
    assert found is not None
    trained = 4 * sum(p.numel() for p in [*gan.generator_parameters, *gan.discriminator_parameters])
    pool = 4 * 2 * 51 * torch.Size(size).numel()
    peak = (found - pool) / memory.MARGIN - 2 * trained
    # At the start of the backward pass all of it is alive, with a few gradients.
    saved = saved_bytes(gan, size, samples)
    assert saved < peak < 1.5 * saved + 4 * trained


def test_it_measures_without_computing_or_disturbing() -> None:
    config = make_config([512, 512])
    assert (step_bytes(maker(config), False, (4096, (1, 1), (512, 512))) or 0) > 2**40  # more than any machine has


def test_two_directions_at_once_need_twice_the_inner_values() -> None:
    make = maker(make_config([128, 128]))
    one, two = (step_bytes(make, False, (1, (1, 1), (128, 128)), flag) or 0 for flag in (False, True))
    assert 1.5 * one < two < 2 * one


def test_what_a_step_takes_is_counted_with_every_loss_and_average_and_without_a_warning(
    recwarn: pytest.WarningsRecorder,
) -> None:
    make = maker(make_config([64, 64], ema=0.9))
    loss = LossSettings(contrast=ContrastSettings(weight=50.0))
    plain, guided = (step_bytes(make, False, (1, (1, 1), (64, 64)), loss=one) or 0 for one in (LossSettings(), loss))
    assert guided >= plain > 0
    assert not recwarn.list


def test_a_pair_needs_the_inner_values_of_one_more_image() -> None:
    make = maker(make_config([128, 128]))
    samples = 1, (1, 1), (128, 128)
    without, paired = (step_bytes(make, False, samples, loss=LossSettings(paired=w)) or 0 for w in (0, 1))
    assert 1.1 * without < paired < 1.5 * without


def test_checkpointing_needs_less() -> None:
    make = maker(make_config([128, 128]))
    whole, frugal = (step_bytes(make, flag, (1, (1, 1), (128, 128))) for flag in (False, True))
    assert whole is not None
    assert frugal is not None
    assert frugal < 0.8 * whole


def test_a_network_that_needs_numbers_is_unknown() -> None:
    def make() -> CycleGAN:
        class Odd(torch.nn.Conv2d):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x * float(x.mean()))

        return CycleGAN(*(Odd(1, 1, 3, padding=1) for _ in range(4)))

    assert step_bytes(make, False, (1, (1, 1), (8, 8))) is None


@pytest.mark.parametrize(
    ("free", "name", "checkpointing"),
    [(2**50, "split", False), (150e6, "checkpointed", True), (1e6, "checkpointed", True)],
)
def test_the_fastest_that_fits_is_chosen(
    free: float, name: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config([256, 256], batch_size=2)
    gan = maker(config)()
    need = {flag: step_bytes(maker(config), flag, (1, (1, 1), (256, 256))) or 0 for flag in (False, True)}
    assert need[True] < 150e6 * memory.SHARE < need[False]
    monkeypatch.setattr(memory, "free_memory", lambda device: int(free))
    plan = choose(config, gan, maker(config), (1, 1))
    assert (plan.name, plan.checkpointing, plan.microbatch) == (name, checkpointing, 1)
    assert ("may run out" in plan.sentence()) == (free == 1e6)
    assert ("far below" in plan.sentence()) == (free == 2**50)


def test_what_is_set_is_taken() -> None:
    gpu = torch.device("cuda")
    config = make_config([64, 64], batch_size=4)
    assert [p.name for p in plans(config, gpu, independent=True)] == ["batched", "split", "checkpointed"]
    assert [p.name for p in plans(config, CPU, independent=True)] == ["split", "checkpointed"]
    together = plans(config, CPU, independent=False)  # batch norm: samples of a batch belong together
    assert [(p.name, p.microbatch) for p in together] == [("split", None), ("checkpointed", None)]
    sides = plans(config, CPU, independent=True, sides=1)
    assert [(p.name, p.microbatch, p.sides) for p in sides] == [
        ("batched", 1, 1),
        ("split", 1, 0),
        ("checkpointed", 1, 0),
    ]
    config = make_config([64, 64], batch_size=4, memory="batched", microbatch=2)
    assert plans(config, CPU, independent=True) == [MemoryPlan("batched", 2, False)]
    assert "as set" in plans(config, CPU, independent=True)[0].sentence()


def test_checkpointing_reaches_the_generators() -> None:
    gan = maker(make_config([64, 64]))()
    set_checkpointing(gan, True)
    assert gan.a_to_b.checkpointing
    assert gan.b_to_a.checkpointing
    assert not hasattr(gan.discriminator_a, "checkpointing")


def test_two_runs_differing_in_memory_are_the_same_to_rounding(tmp_path: Path) -> None:
    from medcycle.training.step import training_step

    config = make_config([32, 32])
    images = [torch.rand((2, 1, 32, 32), generator=torch.Generator().manual_seed(n)) for n in (1, 2)]
    found = []
    for microbatch, checkpointing in ((None, False), (1, False), (1, True)):
        gan = maker(config)()
        set_checkpointing(gan, checkpointing)
        found.append(training_step(gan, images[0], images[1], LossSettings(), microbatch))
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-6)


def test_only_settings_that_fit_are_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config([256, 256], batch_size=2, memory="split")
    gan, make = maker(config)(), maker(config)
    (plan,) = plans(config, CPU, independent=True)
    checkpointed = step_bytes(make, True, (1, (1, 1), (256, 256))) or 0
    for free, listed in ((2 * checkpointed, True), (checkpointed // 2, False)):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        text = settings_that_fit(config, plan, gan, make, (1, 1))
        assert ("train.memory=checkpointed" in text) == listed
        size = int(re.findall(r"sample\.size=\[(\d+), \1\]", text)[0])
        assert (step_bytes(make, False, (1, (1, 1), (size, size))) or 0) <= free * memory.SHARE or size == 16
