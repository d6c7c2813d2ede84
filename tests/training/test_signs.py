"""The label-free figures, against plain implementations and cases whose answer is known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medcycle.evaluation.features import StandIn
from medcycle.similarity import mind_distance, mutual_information
from medcycle.training.signs import (
    REALS,
    SAMPLES,
    Signs,
    correlation,
    displacement,
    edge_correlation,
    pictures,
    polarity,
)

CPU = torch.device("cpu")


class Discs:
    """Discs (balls) in air: bright in A, with a bright rim in B; a sample is a function of its number."""

    held_on_device = False
    samples_per_epoch = 1

    def __init__(self, *size: int) -> None:
        self.size = size

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Any:
        rng = np.random.default_rng(step)
        grid = np.stack(np.meshgrid(*[np.arange(n) for n in self.size], indexing="ij"))
        found = []
        for domain in (0, 1):
            centre = [rng.uniform(0.4, 0.6) * n for n in self.size]
            far = np.linalg.norm(grid - np.reshape(centre, (-1, *[1] * len(self.size))), axis=0)
            radius = rng.uniform(0.2, 0.35) * min(self.size)
            inside = 0.3 - 0.4 * domain + 0.1 * rng.standard_normal(self.size)
            image = np.where(far < radius, np.where(domain * far > 0.8 * radius, 0.8, inside), -1)
            found.append(image[None, None].astype(np.float32))
        return tuple(found)


def images_of(signs: Signs, change: Any = lambda x: x, **more: Any) -> Any:
    """Generators that change an image in this way."""

    def images(n: int) -> dict[str, Tensor | None]:
        a, b = signs.pair(n)
        fakes = {"fake_b": change(a), "fake_a": change(b)}
        back = {"cycle_a": change(fakes["fake_b"]), "cycle_b": change(fakes["fake_a"])}
        return {"real_a": a, "real_b": b, "same_a": change(a), "same_b": None} | fakes | back | more

    return images


@pytest.mark.parametrize("size", [(32, 28), (16, 16, 12)])
def test_figures_are_what_they_say(size: tuple[int, ...]) -> None:
    signs = Signs(Discs(*size), CPU, air=True)
    rng = np.random.default_rng(0)
    noise = torch.as_tensor(0.1 * rng.standard_normal((1, 1, *size)), dtype=torch.float32)
    figures = signs.measure(images_of(signs, lambda x: 0.8 * x + noise), "balance")
    a, b = (torch.cat([pair[n] for pair in signs.pairs]) for n in (0, 1))
    made = 0.8 * a + noise
    assert figures["cycle_a"] == pytest.approx(float((0.8 * made + noise - a).abs().mean()), rel=1e-4)
    assert figures["identity_a"] == pytest.approx(float((made - a).abs().mean()), rel=1e-4)
    assert "identity_b" not in figures
    one_by_one = [(a[n : n + 1], made[n : n + 1]) for n in range(SAMPLES)]
    assert figures["mind_b"] == pytest.approx(np.mean([float(mind_distance(*x)) for x in one_by_one]), rel=1e-4)
    information = np.mean([float(mutual_information(*x)) for x in one_by_one])
    assert figures["mutual_information_b"] == pytest.approx(information, rel=1e-4)
    others = [float(mind_distance(a[n : n + 1], made[n - 1 : n])) for n in range(1, SAMPLES)]
    assert figures["mind_ratio_b"] == pytest.approx(figures["mind_b"] / np.mean(others), rel=1e-4)
    variety = made.numpy().std(0).mean() / b.numpy().std(0).mean()
    assert figures["variety_b"] == pytest.approx(variety, rel=1e-3)
    straight = [np.corrcoef(x.flatten(), y.flatten())[0, 1] for x, y in zip(a.numpy(), made.numpy(), strict=True)]
    assert figures["identity_correlation_a"] == pytest.approx(np.mean(straight), rel=1e-4)
    light = [float(y[x > -0.9].mean() - y[x <= -0.9].mean()) for x, y in zip(a, made, strict=True)]
    assert figures["polarity_b"] == pytest.approx(np.mean(light), rel=1e-4)
    assert figures["displacement_b"] == 0
    assert figures == signs.measure(images_of(signs, lambda x: 0.8 * x + noise), "balance")  # whenever it is asked


def plain_distance(x: list[Any], y: list[Any]) -> float:
    """Gretton 2012, eq. 3 written out, on features standardized by y."""
    x, y = ([(row - np.mean(y, axis=0)) / (np.std(y, axis=0) + 1e-3) for row in rows] for rows in (x, y))
    width = np.median([np.square(u - v).sum() for u, v in itertools.combinations(y, 2)])

    def kernel(u: Any, v: Any) -> float:
        return float(np.exp(-np.square(u - v).sum() / (2 * width)))

    def within(z: list[Any]) -> float:
        return float(np.mean([kernel(u, v) for u, v in itertools.permutations(z, 2)]))

    return within(x) + within(y) - 2 * float(np.mean([kernel(u, v) for u, v in itertools.product(x, y)]))


@pytest.mark.parametrize("size", [(32, 32), (12, 12, 12)])
def test_the_kernel_distance_is_the_unbiased_one_to_other_real_samples(size: tuple[int, ...]) -> None:
    sampler = Discs(*size)
    signs, extractor = Signs(sampler, CPU, air=True), StandIn()

    def features(n: int, domain: int) -> Any:
        shown = pictures(torch.as_tensor(sampler.batch(n, 1)[domain]))
        assert shown.shape == (1 if len(size) == 2 else 3, 3, 32, 32)
        return extractor.features(shown).flatten().double().numpy()

    figures = signs.measure(images_of(signs), "balance")
    found = {}
    for domain, other in ((1, 0), (0, 1)):
        real = [features(SAMPLES + n, domain) for n in range(REALS)]
        found["ab"[domain]] = plain_distance([features(n, other) for n in range(SAMPLES)], real)
    assert figures["kernel_distance_b"] == pytest.approx(found["b"], rel=1e-4)
    assert figures["kernel_distance_a"] == pytest.approx(found["a"], rel=1e-4)
    # A network that copies agrees with its input entirely and is as far from the target as its input: 0 + 1.
    assert figures["score"] == pytest.approx(1, rel=1e-6)
    assert signs.measure(images_of(signs), "agreement")["score"] == 0
    assert signs.measure(images_of(signs), "cycle")["score"] == 0
    assert signs.measure(images_of(signs), "kernel_distance")["score"] == pytest.approx(np.mean(list(found.values())))
    assert "score" not in signs.measure(images_of(signs))
    # What is made of A is now real B, though another: no likeness to the input, none lacking to the target.
    there = [torch.as_tensor(sampler.batch(1000 + n, 1)[1]) for n in range(SAMPLES)]
    back = [torch.as_tensor(sampler.batch(1000 + n, 1)[0]) for n in range(SAMPLES)]
    wrong = signs.measure(lambda n: images_of(signs)(n) | {"fake_b": there[n], "fake_a": back[n]}, "balance")
    assert wrong["kernel_distance_b"] < 0.2 * figures["kernel_distance_b"]
    assert wrong["mind_ratio_b"] == pytest.approx(1, abs=0.15)


def test_the_spread_is_that_of_all_answers() -> None:
    signs = Signs(Discs(16, 16), CPU, air=True)
    answers = torch.randn(SAMPLES, 2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    found = signs.measure(lambda n: images_of(signs, scores_a=answers[n], scores_b=torch.full((2, 1), 0.5))(n))
    assert found["spread_a"] == pytest.approx(float(answers.std()), rel=1e-5)
    assert found["spread_b"] == 0


def test_outputs_that_are_not_finite_give_figures_that_are_not() -> None:
    signs = Signs(Discs(16, 16), CPU, air=True)
    figures = signs.measure(images_of(signs, lambda x: x * torch.nan), "balance")
    assert np.isnan([figures[name] for name in ("score", "kernel_distance_b", "mind_a", "cycle_a")]).all()


def test_pictures_have_no_air() -> None:
    signs = Signs(Discs(16, 16), CPU, air=False)
    assert not [name for name in signs.measure(images_of(signs)) if name.startswith("polarity")]


def test_polarity_and_correlation_turn_with_the_contrast() -> None:
    a, _ = (torch.as_tensor(x) for x in Discs(20, 20).batch(0, 1))
    assert polarity(a, a) > 1
    assert polarity(a, -a) == pytest.approx(-float(polarity(a, a)))
    assert polarity(torch.zeros(1, 1, 4, 4), a) is None  # no air
    assert polarity(-torch.ones(1, 1, 4, 4), a) is None  # nothing but air
    assert float(correlation(a, -3 * a + 0.1)) == pytest.approx(-1)
    assert float(correlation(a, torch.zeros_like(a))) == 0


@pytest.mark.parametrize("shift", [(0, 0), (6, 0), (-3, 4), (0, -1), (2, -1, 3), (0, 0, 0)])
def test_displacement_is_the_shift_whatever_the_contrast(shift: tuple[int, ...]) -> None:
    edges = 0
    for n in range(4):
        a, _ = (torch.as_tensor(x) for x in Discs(*[32] * len(shift)).batch(n, 1))
        made = torch.roll((-0.5 * a).exp(), shift, tuple(range(2, a.ndim)))
        edges = edges + edge_correlation(a, made)
    assert displacement(edges) == pytest.approx(float(np.linalg.norm(shift)))


def test_a_ring_inside_another_is_not_displaced() -> None:
    grid = np.stack(np.meshgrid(np.arange(80), np.arange(80), indexing="ij")) - 40.2
    far = np.linalg.norm(grid, axis=0)
    scalp, skull = (torch.as_tensor(np.where(far < radius, 0.5, -1.0))[None, None] for radius in (30, 26))
    edges = edge_correlation(scalp, skull)
    assert edges.max() > edges[0, 0] + 0.1  # the best shift alone would say otherwise
    assert displacement(edges) == 0
    assert displacement(edge_correlation(scalp, torch.roll(skull, 9, 2))) > 4
