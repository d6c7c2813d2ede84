from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medcycle.data import Augment

ARTEFACTS = ("bias_field", "motion", "ghosting", "spike", "noise")


def blob(shape: tuple[int, ...], channels: int = 1) -> np.ndarray:
    """A smooth lump off centre in air."""
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = sum((g - 0.1 - 0.1 * axis) ** 2 for axis, g in enumerate(grids))
    value = np.where(radius < 0.4, 0.8 - radius, -1).astype(np.float32)
    return np.stack([value] * channels)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("shape", [(16, 12), (8, 10, 6)])
def test_flip_mirrors_the_first_axis_exactly(shape) -> None:
    array = blob(shape, 2)
    flipped = Augment(flip=1)(array, rng(), "ct")
    np.testing.assert_array_equal(flipped, array[:, ::-1])
    assert flipped.flags.c_contiguous
    np.testing.assert_array_equal(Augment(flip=0)(array, rng(), "ct"), array)
    mirrored = sum((Augment(flip=0.3)(array, rng(n), "ct") != array).any() for n in range(300))
    assert 60 < mirrored < 120


def test_a_quarter_turn_is_exact() -> None:
    array = rng().uniform(-1, 1, (1, 9, 9)).astype(np.float32)

    class Quarter(np.random.Generator):
        def uniform(self, low=0.0, high=1.0, size=None):
            return high if size is None else np.zeros(size)

    turned = Augment(flip=0, rotate=90)(array, Quarter(np.random.PCG64()), "ct")
    inner = (0, slice(1, -1), slice(1, -1))  # the border rounds just outside and becomes air
    found = [np.abs(np.rot90(array[0], times)[1:-1, 1:-1] - turned[inner]).max() for times in (1, 3)]
    assert min(found) < 1e-5


def test_translation_moves_by_whole_fractions_and_brings_air_in() -> None:
    array = np.full((1, 10, 10), 0.5, np.float32)
    seen = [Augment(flip=0, translate=0.3)(array, rng(n), "ct")[0] for n in range(20)]
    for moved in seen:
        rows = int((moved.max(1) > 0).sum())
        assert 7 <= rows <= 10
        assert moved.min() == -1 or rows == 10
    assert len({moved.tobytes() for moved in seen}) > 10


def test_scaling_changes_the_area_by_the_square() -> None:
    array = blob((64, 64))
    areas = [(Augment(flip=0, scale=0.2)(array, rng(n), "ct") > -0.5).mean() / (array > -0.5).mean() for n in range(40)]
    assert 0.6 < min(areas) < 0.8
    assert 1.2 < max(areas) < 1.5


@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from([(12, 16), (15, 13), (8, 10, 6), (7, 9, 5)]),
    seed=st.integers(0, 2**32),
    modality=st.sampled_from(["mr", "ct", "image"]),
    channels=st.integers(1, 2),
)
def test_any_sample_keeps_shape_range_and_is_repeatable(shape, seed, modality, channels) -> None:
    everything = Augment(0.5, 15, 0.2, 0.1, 0.5, 0.5, 0.5, 0.5, 0.5)
    array = blob(shape, channels)
    before = array.copy()
    first, again = (everything(array, rng(seed), modality) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(array, before)
    assert first.shape == array.shape
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert first.min() >= -1
    assert first.max() <= 1


@pytest.mark.parametrize("name", ARTEFACTS)
@pytest.mark.parametrize("shape", [(40, 36), (20, 22, 18)])
def test_each_artefact_changes_mr_only_and_leaves_air(name, shape) -> None:
    array = blob(shape)
    augment = Augment(flip=0, **{name: 1.0})
    np.testing.assert_array_equal(augment(array, rng(), "ct"), array)
    changed = augment(array, rng(), "mr")
    body = array > -1
    assert np.abs(changed - array)[body].mean() > 0.002
    assert (changed[~body] == -1).all()
    assert np.corrcoef(changed[body], array[body])[0, 1] > 0.2  # still the same anatomy
    assert not np.array_equal(changed, augment(array, rng(1), "mr"))


def test_air_alone_gets_no_artefact() -> None:
    air = np.full((1, 16, 16), -1, np.float32)
    np.testing.assert_array_equal(Augment(0.5, 10, **dict.fromkeys(ARTEFACTS, 1.0))(air, rng(), "mr"), air)


def test_pytorch_s_generator_is_left_alone_and_threads_agree() -> None:
    everything = Augment(0.5, 10, 0.1, 0.1, **dict.fromkeys(ARTEFACTS, 1.0))
    array = blob((24, 24))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    alone = [everything(array, rng(n), "mr") for n in range(8)]
    together: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda n=n: together.update({n: everything(array, rng(n), "mr")})) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(8):
        np.testing.assert_array_equal(together[n], alone[n])
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_rician() -> None:
    """In a flat signal s the mean of the squares is s^2 + 2 sigma^2: never darker on average."""
    from medcycle.data.augment import _rician_noise

    signal = np.full((1, 64, 64), 0.3, np.float32)
    sigma = rng(5).uniform(0.01, 0.06)
    noisy = _rician_noise(signal, rng(5))
    assert abs((noisy**2).mean() - (0.09 + 2 * sigma**2)) < 0.15 * sigma
    assert noisy.min() >= 0
