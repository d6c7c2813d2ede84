"""Structure losses: against plain NumPy written from the papers, and what they must and must not see."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from medcycle.similarity import (
    gradient_correlation,
    mind,
    mind_distance,
    mutual_information,
    outline_consistency,
    patch_nce,
)

SHAPES = {2: (2, 1, 12, 15), 3: (1, 1, 7, 8, 9)}
LOSSES = [gradient_correlation, mind_distance, mutual_information, outline_consistency]


def images(ndim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(SHAPES[ndim], generator=generator) * 2 - 1 for _ in "ab")
    return a, b


def head(shift: int = 0, inverted: bool = False) -> torch.Tensor:
    """Rings of a head, -1 outside; the inner ring is moved by `shift`."""
    i, j = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    radius = ((i - 24) ** 2 + (j - 24) ** 2).sqrt()
    image = torch.full((48, 48), -1.0)
    image[radius < 20] = 0.2
    image[((i - 24 - shift) ** 2 + (j - 24) ** 2).sqrt() < 12] = 0.8
    image = torch.where(radius < 20, -image if inverted else image, image)
    return image[None, None]


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradient_correlation_equals_the_formula(ndim: int) -> None:
    a, b = images(ndim)
    correlations = []
    for x, y in zip(a.numpy(), b.numpy(), strict=True):
        for axis in range(1, x.ndim):
            u, v = np.diff(x, axis=axis).ravel(), np.diff(y, axis=axis).ravel()
            correlations.append(np.corrcoef(u, v)[0, 1])
    assert float(gradient_correlation(a, b)) == pytest.approx(1 - np.mean(correlations), abs=1e-5)
    assert float(gradient_correlation(a, 0.3 * a - 0.1)) == pytest.approx(0, abs=1e-5)
    assert float(gradient_correlation(a, -a)) == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_mind_equals_the_formula(ndim: int) -> None:
    image = images(ndim)[0][:1]
    image[:, :, :3] *= 0.02  # nearly even there: below the noise
    found = mind(image)
    array = image[0, 0].numpy().astype(np.float64)
    padded = np.pad(array, 2, mode="edge")
    cube = list(itertools.product((-1, 0, 1), repeat=ndim))
    offsets = [tuple(s if n == axis else 0 for n in range(ndim)) for axis in range(ndim) for s in (-1, 1)]
    every = []
    for place in np.ndindex(array.shape):
        at = np.array(place) + 2
        d = [
            np.mean([(padded[tuple(at + p)] - padded[tuple(at + p + np.array(r))]) ** 2 for p in cube]) for r in offsets
        ]
        every.append(d)
    d = np.array(every)
    expected = np.exp(-d / np.maximum(d.mean(1, keepdims=True), 0.05**2))
    expected /= expected.max(1, keepdims=True)
    assert found.shape == (1, 1, 2 * ndim, *array.shape)
    np.testing.assert_allclose(found[0, 0].flatten(1).T.numpy(), expected, atol=1e-5)


def test_noise_is_no_structure_and_gives_no_gradients_to_speak_of() -> None:
    generator = torch.Generator().manual_seed(0)
    even = (0.005 * torch.randn((1, 1, 20, 20), generator=generator)).requires_grad_(True)
    edge = 0.05 * torch.randn((1, 1, 20, 20), generator=generator)
    edge[..., 10:] += 0.5
    assert float(mind_distance(even, torch.zeros_like(even)).detach()) < 0.02
    edge = edge.requires_grad_(True)
    sizes = []
    for image in (even, edge):
        mind_distance(image, torch.zeros_like(image)).backward()
        sizes.append(float(image.grad.abs().max()))
    assert sizes[0] < sizes[1]  # twenty times as much without the floor


def test_mutual_information_equals_the_formula() -> None:
    a, b = images(2)
    joint = np.zeros((8, 8))
    for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True):
        u, v = ((value + 1) / 2 * 7 for value in (x, y))
        for i, j in itertools.product(range(8), repeat=2):
            joint[i, j] += max(0, 1 - abs(u - i)) * max(0, 1 - abs(v - j))
    joint /= joint.sum()
    p, q = joint.sum(1), joint.sum(0)
    used = joint > 0
    information = (joint[used] * np.log(joint[used] / np.outer(p, q)[used])).sum()
    entropy = math.sqrt((p * np.log(p)).sum() * (q * np.log(q)).sum())
    assert float(mutual_information(a, b, bins=8)) == pytest.approx(1 - information / entropy, abs=1e-4)


def test_mutual_information_with_an_even_image_is_none_and_a_number() -> None:
    generator = torch.Generator().manual_seed(0)
    air = torch.full((1, 1, 40, 40), -1.0)
    for value in (torch.rand(300, generator=generator) * 2 - 1).tolist():
        even = torch.full_like(air, value, requires_grad=True)
        for other in (air, even.detach(), air + 1e-6 * torch.randn(air.shape, generator=generator)):
            found = mutual_information(even, other)
            found.backward()
            assert float(found.detach()) == pytest.approx(1, abs=1e-3)
            assert torch.isfinite(even.grad).all()


def test_patch_nce_equals_the_formula() -> None:
    query, key = (torch.randn((2, 5, 6), generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    expected = []
    for q, k in zip(query.numpy(), key.numpy(), strict=True):
        q, k = q / np.linalg.norm(q, axis=0), k / np.linalg.norm(k, axis=0)
        logits = q.T @ k / 0.07
        expected += [-logits[n, n] + np.log(np.exp(logits[n]).sum()) for n in range(6)]
    assert float(patch_nce(query, key)) == pytest.approx(np.mean(expected) / math.log(6), rel=1e-4)
    assert float(patch_nce(torch.eye(6)[None], torch.eye(6)[None])) < 1e-3


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("ndim", [2, 3])
def test_an_image_agrees_with_itself_and_gradients_are_finite(loss, ndim: int) -> None:
    a, b = images(ndim)
    a.requires_grad_(True)
    assert float(loss(a, a).detach()) == pytest.approx(0, abs=0.3 if loss is mutual_information else 1e-3)
    loss(a, b).backward()
    assert torch.isfinite(a.grad).all()
    assert float(a.grad.abs().max()) > 0
    flat = torch.full(SHAPES[ndim], -1.0, requires_grad=True)  # a plane of air
    loss(flat, flat.detach().clone()).backward()
    assert torch.isfinite(flat.grad).all()


@pytest.mark.parametrize("loss", [mind_distance, mutual_information])
def test_other_contrast_is_no_difference_but_another_place_is(loss) -> None:
    same, moved = float(loss(head(), head(inverted=True))), float(loss(head(), head(shift=6)))
    assert moved > 1.5 * same


def test_the_outline_is_seen_and_what_is_inside_is_not() -> None:
    larger = head().clone()
    larger[..., 20:28, 44:47] = 0.2
    assert float(outline_consistency(head(), head(shift=6))) < 1e-3
    assert float(outline_consistency(head(), larger)) > 5e-3


def test_sizes_of_the_distances_are_those_of_their_formulas() -> None:
    a, b = images(2)
    expected = np.abs(mind(a).numpy() - mind(b).numpy()).mean()
    assert float(mind_distance(a, b)) == pytest.approx(float(expected), rel=1e-5)
    x, y = (1 / (1 + np.exp(-50 * (image.numpy().astype(np.float64)[:, 0] + 0.9))) for image in (a, b))
    dice = [(2 * (p * q).sum() + 1) / ((p * p).sum() + (q * q).sum() + 1) for p, q in zip(x, y, strict=True)]
    assert float(outline_consistency(a, b)) == pytest.approx(1 - np.mean(dice), abs=1e-6)
