"""The recorded step: on a GPU against ordinary steps; without one, what a recording would read and write."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import medcycle.training.graph as graph
from medcycle.networks import build_discriminator, build_generator
from medcycle.training.graph import WARM_UP, Stepper, hindrance
from medcycle.training.runtime import Processes
from medcycle.training.step import CycleGAN, LossSettings, step_on_device, training_step
from medcycle.training.structure import StructureSettings


def make_gan(device: str = "cpu", precision: str = "fp32", **critic: Any) -> CycleGAN:
    torch.manual_seed(0)
    nets = [build_generator("resnet", in_channels=1, out_channels=1, ndim=2, filters=4, blocks=1) for _ in "ab"]
    nets += [build_discriminator("patchgan", channels=1, ndim=2, filters=4, layers=1, **critic) for _ in "ab"]
    return CycleGAN(*(net.to(device) for net in nets), pool=2, ema=0.9, precision=precision)


def samples(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    pairs = torch.rand((count, 2, 2, 1, 16, 20), generator=generator) * 2 - 1
    return [(a, b) for a, b in pairs]


class Recorded:
    """Stands for torch.cuda.CUDAGraph: a replay runs the recorded step again on the very tensors it was given."""

    def __init__(self) -> None:
        self.arguments: Any = None
        self.outputs: dict[str, Tensor] = {}

    def replay(self) -> None:
        for name, value in step_on_device(*self.arguments).items():
            self.outputs[name].copy_(value)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """A GPU that records: what runs inside the recording changes nothing."""
    made: list[Recorded] = []

    @contextmanager
    def record(graph_made: Recorded, **_: Any) -> Iterator[None]:
        made.append(graph_made)
        yield

    def record_step(*arguments: Any) -> dict[str, Tensor]:
        made[-1].arguments = arguments
        gan, *rest = arguments
        made[-1].outputs = step_on_device(copy.deepcopy(gan), *rest)
        return made[-1].outputs

    monkeypatch.setattr(graph, "hindrance", lambda *_: "")
    monkeypatch.setattr(graph, "step_on_device", record_step)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", record)
    for name in ("synchronize", "current_stream", "set_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    return made


def assert_same_run(
    one: CycleGAN, two: CycleGAN, device: str = "cpu", tolerance: float = 1e-6, r1: float = 0.0
) -> None:
    said: list[str] = []
    loss = LossSettings(structure=StructureSettings(mind=1, warm_up=12), r1=r1)
    stepper = Stepper(two, loss, tell=said.append)
    for number, (a, b) in enumerate(samples(20)):
        for gan in (one, two):
            gan.set_learning_rate(2e-4 * (1 - number / 30))
        expected = training_step(one, a.to(device), b.to(device), loss)
        found = stepper(a.to(device), b.to(device))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=f"{name} at {number}")
    assert said == ["The step is recorded as one CUDA graph"]
    assert one.step == two.step == 20
    for name, network in one.networks.items():
        for key, value in network.state_dict().items():
            torch.testing.assert_close(two.networks[name].state_dict()[key], value, rtol=1e-4, atol=1e-5)
    for pool, other in ((one.pool_a, two.pool_a), (one.pool_b, two.pool_b)):
        torch.testing.assert_close(torch.stack(pool.images), torch.stack(other.images), rtol=1e-4, atol=1e-4)


def test_a_replay_reads_new_images_decisions_and_rates(recorder: list[Recorded]) -> None:
    """Whatever were read from a Python value instead of a tensor would stay as it was when recorded."""
    assert_same_run(make_gan(), make_gan())
    assert len(recorder) == 1


def test_a_replay_follows_the_spectral_norms(recorder: list[Recorded]) -> None:
    assert_same_run(*(make_gan(spectral=True, scales=2, norm="none") for _ in "12"), r1=1.0)
    assert len(recorder) == 1


def test_a_replay_reads_new_pairs(recorder: list[Recorded]) -> None:
    one, two, loss = make_gan(), make_gan(), LossSettings(paired=10)
    stepper = Stepper(two, loss)
    data = samples(2 * WARM_UP + 4)
    for (a, b), (pair_a, pair_b) in zip(data[::2], data[1::2], strict=True):
        expected = training_step(one, a, b, loss, None, (pair_a, pair_b))
        found = stepper(a, b, pair_a, pair_b)
        assert {name: float(value) for name, value in expected.items()} == pytest.approx(
            {name: float(value) for name, value in found.items()}, rel=1e-5
        )
    assert len(recorder) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_real_recording_equals_ordinary_steps(precision: str) -> None:
    tolerance = 1e-4 if precision == "fp32" else 0.05
    assert_same_run(make_gan("cuda", precision), make_gan("cuda", precision), "cuda", tolerance)
    critic: dict[str, Any] = {"spectral": True, "scales": 2, "norm": "none"}
    assert_same_run(*(make_gan("cuda", precision, **critic) for _ in "12"), "cuda", tolerance, r1=1.0)


def test_a_recording_that_fails_leaves_an_ordinary_run(
    recorder: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def record(*_: Any, **__: Any) -> Iterator[None]:
        yield
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", record)
    one, two, said = make_gan(), make_gan(), []
    stepper = Stepper(two, LossSettings(), tell=said.append)
    monkeypatch.setattr(graph, "step_on_device", idle_once(step_on_device))
    for a, b in samples(WARM_UP + 3):
        expected, found = training_step(one, a, b, LossSettings()), stepper(a, b)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)
    assert said == [
        "The step cannot be recorded as a CUDA graph, ordinary steps go on: operation not permitted when stream is "
        "capturing"
    ]


def idle_once(real: Any) -> Any:
    calls = 0

    def run(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            return real(*arguments)
        gan = arguments[0]  # the first is the recording: all of its Python runs, and nothing is computed
        pools = gan.pool_a, gan.pool_b
        real(copy.deepcopy(gan), *arguments[1:])
        for pool in pools:
            pool._asked = 2
        return {}

    return run


def test_other_shapes_take_an_ordinary_step(recorder: list[Recorded]) -> None:
    gan = make_gan()
    stepper = Stepper(gan, LossSettings())
    for a, b in samples(WARM_UP + 2):
        stepper(a, b)
    a, b = samples(1)[0]
    losses = stepper(a[:1], b[:1])
    assert gan.step == WARM_UP + 3
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    stepper(a, b)
    assert len(recorder) == 1


def test_what_is_in_the_way_is_named() -> None:
    gan = make_gan()
    assert "no GPU" in hindrance(gan, Processes())
    gan.device = torch.device("cuda")
    assert hindrance(gan, Processes()) == ""
    assert "several processes" in hindrance(gan, Processes(0, 2, 0))
    gan.precision = "fp16"
    assert "fp16" in hindrance(gan, Processes())
