from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcycle.data.textures import (
    Animal,
    background_error,
    draw_animal,
    stripe_contrast,
    stripe_score,
    write_miniature,
)
from medcycle.errors import ScanError
from medcycle.io import find_scans

SIZE = 64


def animals(striped: bool, count: int = 12) -> list[Animal]:
    return [draw_animal(np.random.default_rng([7, striped, n]), SIZE, striped=striped) for n in range(count)]


@pytest.fixture(scope="module")
def plain() -> list[Animal]:
    return animals(False)


@pytest.fixture(scope="module")
def zebras() -> list[Animal]:
    return animals(True)


def gratings(period: float, angle: float, amplitude: float) -> np.ndarray:
    """A pure sine of the luminance; (rows, columns, 3)."""
    down, along = np.mgrid[:SIZE, :SIZE]
    wave = np.sin(2 * np.pi / period * (along * np.cos(angle) + down * np.sin(angle)))
    return np.repeat((127.5 + amplitude * wave)[..., None], 3, axis=2)


EVERYWHERE = np.ones((SIZE, SIZE), np.bool_)


def test_the_two_domains_differ_in_stripes_alone(plain, zebras) -> None:
    for some in (plain, zebras):
        share = [animal.mask.mean() for animal in some]
        assert min(share) > 0.1
        assert max(share) < 0.4
    outside = [np.mean([a.picture[~a.mask].mean(0) for a in some], 0) for some in (plain, zebras)]
    np.testing.assert_allclose(outside[0], outside[1], atol=15)
    colour = [np.mean([np.ptp(a.picture[a.mask].mean(0)) for a in some]) for some in (plain, zebras)]
    assert colour[0] > 40 > 10 > colour[1]  # brown, and black and white


def test_no_two_animals_are_alike(zebras) -> None:
    pictures = {animal.picture.tobytes() for animal in zebras}
    assert len(pictures) == len(zebras)


def test_real_animals_are_far_apart_on_the_stripes_scale(plain, zebras) -> None:
    low, high = ([stripe_contrast(a.picture, a.mask) for a in some] for some in (plain, zebras))
    assert max(low) < 0.15 * min(high)
    assert stripe_score(low, float(np.mean(low)), float(np.mean(high))) == pytest.approx(0)
    assert stripe_score(high, float(np.mean(low)), float(np.mean(high))) == pytest.approx(1)


@pytest.mark.parametrize("angle", [0.0, 0.7, 1.5])
def test_a_grating_has_its_own_standard_deviation(angle: float) -> None:
    period = SIZE / 7.5
    # What a Gaussian of standard deviation s leaves of a wave: exp(-2 (pi s / period)^2).
    left = [np.exp(-2 * (np.pi * s / period) ** 2) for s in (SIZE / 64, SIZE / 10)]
    found = stripe_contrast(gratings(period, angle, 50), EVERYWHERE)
    assert found == pytest.approx(50 / np.sqrt(2) * (left[0] - left[1]), rel=0.06)


def test_only_stripes_count_as_stripes() -> None:
    striped = stripe_contrast(gratings(SIZE / 7, 0.3, 50), EVERYWHERE)
    checks = stripe_contrast(gratings(SIZE / 7, 0, 50) + gratings(SIZE / 7, np.pi / 2, 50) - 127.5, EVERYWHERE)
    noise = stripe_contrast(np.random.default_rng(0).normal(127, 60, (SIZE, SIZE, 3)), EVERYWHERE)
    coarse = stripe_contrast(gratings(4 * SIZE, 0.3, 50), EVERYWHERE)
    assert max(checks, noise, coarse) < 0.15 * striped


def test_stripes_are_looked_for_inside_the_mask_alone(plain) -> None:
    animal = plain[0]
    painted = np.where(animal.mask[..., None], animal.picture, gratings(8, 0, 120))
    assert stripe_contrast(painted, animal.mask) == pytest.approx(stripe_contrast(animal.picture, animal.mask), abs=1)
    assert stripe_contrast(animal.picture, np.zeros((SIZE, SIZE), np.bool_)) == 0


def test_background_error_is_the_mean_change_outside(plain) -> None:
    animal = plain[0]
    inside = np.where(animal.mask[..., None], 255 - animal.picture, animal.picture)
    assert background_error(inside, animal.picture, animal.mask) == 0
    brighter = animal.picture.astype(np.int16) + 7
    assert background_error(brighter, animal.picture, animal.mask) == 7
    assert background_error(255 - animal.picture, animal.picture, animal.mask) > 50
    assert background_error(brighter, animal.picture, EVERYWHERE) == 0  # there is none


def test_the_folder_is_laid_out_as_the_published_sets(tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    folder = write_miniature(tmp_path / "m", 24, 3, 2, progress=lambda *call: calls.append(call))
    assert sorted(path.name for path in folder.iterdir()) == ["masks", "testA", "testB", "trainA", "trainB"]
    for part, count in (("trainA", 3), ("trainB", 3), ("testA", 2), ("testB", 2)):
        assert len(find_scans(folder / part)) == count
    for part in ("testA", "testB"):
        for path in (folder / part).iterdir():
            picture, mask = Image.open(path), Image.open(folder / "masks" / part / path.name)
            assert (picture.mode, picture.size, mask.mode, mask.size) == ("RGB", (24, 24), "L", (24, 24))
            assert set(np.unique(np.asarray(mask))) == {0, 255}
    assert calls[-1] == (10, 10, "testB/0001.png")


def test_a_picture_follows_from_its_seed_and_number(tmp_path: Path) -> None:
    few, many = write_miniature(tmp_path / "few", 24, 1, 1), write_miniature(tmp_path / "many", 24, 2, 2)
    other = write_miniature(tmp_path / "other", 24, 1, 1, seed=1)
    for path in (p for p in few.rglob("*.png") if "masks" not in p.parts):
        same = many / path.relative_to(few)
        assert same.read_bytes() == path.read_bytes()
        assert (other / path.relative_to(few)).read_bytes() != path.read_bytes()
    assert (few / "trainA" / "0000.png").read_bytes() != (few / "testA" / "0000.png").read_bytes()


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="from 16 pixels"):
        write_miniature(tmp_path / "m", 8)
    with pytest.raises(ScanError, match="one or more"):
        write_miniature(tmp_path / "m", test=0)
    write_miniature(tmp_path / "m", 16, 1, 1)
    with pytest.raises(ScanError, match="exists already"):
        write_miniature(tmp_path / "m", 16, 1, 1)
    with pytest.raises(RuntimeError):
        write_miniature(tmp_path / "n", 16, 1, 1, progress=lambda *_: (_ for _ in ()).throw(RuntimeError))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
