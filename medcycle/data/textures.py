"""A procedural miniature of horse2zebra: plain and striped animals on meadows.

Two figures tell whether a generator has learned the stripes and kept the meadow.

Pictures follow from (seed, part, index) alone and are drawn here, so they need no licence and no download.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.io.files import staged

Picture: TypeAlias = npt.NDArray[np.uint8]
Mask: TypeAlias = npt.NDArray[np.bool_]
Field: TypeAlias = npt.NDArray[np.float64]

PARTS = ("trainA", "trainB", "testA", "testB")
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
PERIODS = (1 / 9, 1 / 6)  # of the stripes, as fractions of the picture's side
FINE = 2  # drawn this much finer, then averaged: smooth edges


@dataclass(frozen=True)
class Animal:
    """One drawn picture.

    Attributes:
        picture: (rows, columns, 3), 8-bit RGB.
        mask: (rows, columns), where the animal is.
    """

    picture: Picture
    mask: Mask


def draw_animal(rng: np.random.Generator, size: int, *, striped: bool) -> Animal:
    """One animal on a meadow.

    Args:
        rng: decides everything.
        size: rows and columns.
        striped: a zebra rather than a horse; all else has the same distribution.
    """
    down, along = np.meshgrid(*[(np.arange(size * FINE) + 0.5) / (size * FINE)] * 2, indexing="ij")
    meadow = _meadow(rng, down)
    inside, height = _body(rng, down, along)
    shade = (0.75 + 0.25 * height)[..., None]
    if striped:
        coat = _stripes(rng, down, along)[..., None] * np.array([1.0, 1.0, 0.97])
    else:
        coat = np.array([1.0, rng.uniform(0.62, 0.74), rng.uniform(0.36, 0.5)]) * rng.uniform(0.5, 0.75)
        coat = coat * (1 + 0.06 * _noise(rng, down.shape, 4)[..., None])
    fine = np.where(inside[..., None], coat * shade, meadow)
    grain = 0.01 * rng.standard_normal((size, size, 1))
    levels = np.rint(255 * np.clip(_pooled(fine) + grain, 0, 1)).astype(np.uint8)
    return Animal(levels, _pooled(inside.astype(np.float64)[..., None])[..., 0] > 0.5)


def write_miniature(
    folder: str | Path,
    size: int = 64,
    train: int = 100,
    test: int = 20,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Write the miniature in horse2zebra's layout.

        trainA/0000.png, ...  trainB/  testA/  testB/  (A: plain, B: striped)   masks/testA/0000.png, ...  masks/testB/

    Args:
        folder: must not exist yet; appears complete or not at all.
        size: rows and columns of every picture, pixels.
        train, test: pictures of each domain to train on and to test on.
        seed: of the whole set; every picture has its own stream, whatever the numbers of pictures.
        progress: called with (pictures written, of how many, name).

    Returns:
        The folder.

    Raises:
        ScanError: pictures too small or too few to be of use, a folder that exists, or one that cannot be written.
    """
    from PIL import Image

    root = Path(folder)
    if size < 16 or min(train, test) < 1:
        raise ScanError(
            f"{root}: {train} + {test} pictures of {size} pixels; expected one or more of each, from 16 pixels"
        )
    if root.exists():
        raise ScanError(f"{root}: exists already. Remove it, or name another folder.")
    counts = dict(zip(PARTS, (train, train, test, test), strict=True))
    done = 0
    with staged(root) as draft:
        for number, (part, count) in enumerate(counts.items()):
            masks = draft / "masks" / part if part.startswith("test") else None
            for place in (draft / part, masks):
                if place is not None:
                    place.mkdir(parents=True)
            for index in range(count):
                animal = draw_animal(np.random.default_rng([seed, number, index]), size, striped=part.endswith("B"))
                name = f"{index:04d}.png"
                Image.fromarray(animal.picture).save(draft / part / name)
                if masks is not None:
                    Image.fromarray(animal.mask.astype(np.uint8) * 255).save(masks / name)
                done += 1
                if progress is not None:
                    progress(done, sum(counts.values()), f"{part}/{name}")
    return root


# --- Figures ----------------------------------------------------------------------------------------------------------


def stripe_contrast(picture: npt.NDArray[np.generic], mask: Mask) -> float:
    """How striped the masked object is, in grey levels.

    The standard deviation of its luminance in the band of stripe widths (a difference of Gaussians that does not look
    beyond the mask), times how much of the band's gradient has one direction: the coherence of the structure tensor
    (Bigun & Granlund 1987), 1 for parallel stripes and about 0 for spots, checkerboards and noise.

    Args:
        picture: (rows, columns, 3), values 0..255.
        mask: (rows, columns).

    Returns:
        0 for an object that is too small to tell.
    """
    from scipy import ndimage

    size = mask.shape[0]
    grey = picture.astype(np.float64) @ np.array(LUMINANCE)
    weight = mask.astype(np.float64)

    def smooth(sigma: float) -> Field:
        seen: Field = ndimage.gaussian_filter(weight, sigma)
        blurred: Field = ndimage.gaussian_filter(grey * weight, sigma) / np.maximum(seen, 1e-6)
        return blurred

    band = smooth(size / 64) - smooth(size / 10)
    inner = ndimage.binary_erosion(mask, iterations=max(1, size // 32))
    if inner.sum() < 16:
        return 0.0
    down, along = (np.asarray(np.gradient(band, axis=axis))[inner] for axis in (0, 1))
    dd, aa, da = float(down @ down), float(along @ along), float(down @ along)
    coherence = float(np.hypot(dd - aa, 2 * da)) / max(dd + aa, 1e-12)
    return coherence * float(band[inner].std())


def stripe_score(contrasts: Sequence[float], plain: float, striped: float) -> float:
    """Mean stripe contrast on a scale where the real plain animals have 0 and the real striped ones 1.

    Args:
        contrasts: of the translated animals (`stripe_contrast`).
        plain, striped: mean contrast of the real animals of A and of B.
    """
    return (float(np.mean(contrasts)) - plain) / max(striped - plain, 1e-6)


def background_error(translated: npt.NDArray[np.generic], real: npt.NDArray[np.generic], mask: Mask) -> float:
    """Mean absolute change outside the mask (grown by 3 % of the side), in grey levels of 0..255.

    Args:
        translated, real: (rows, columns, 3), values 0..255.
        mask: (rows, columns), where the animal is.
    """
    from scipy import ndimage

    outside = ~ndimage.binary_dilation(mask, iterations=max(1, mask.shape[0] // 32))
    change = np.abs(translated.astype(np.float64) - real.astype(np.float64))
    return float(change[outside].mean()) if outside.any() else 0.0


# --- Drawing ----------------------------------------------------------------------------------------------------------


def _meadow(rng: np.random.Generator, down: Field) -> Field:
    """Sky above green and dry grass, both with soft clouds of brightness."""
    horizon = rng.uniform(0.2, 0.5) + 0.03 * _noise(rng, down.shape, 3)
    sky = np.array([0.55, 0.7, 0.9]) * rng.uniform(0.92, 1.0)
    dry = (1 / (1 + np.exp(-2 * _noise(rng, down.shape, 4))))[..., None]
    grass = dry * np.array([0.58, 0.56, 0.2]) + (1 - dry) * np.array([0.22, 0.5, 0.24])
    share = (1 / (1 + np.exp(-(down - horizon) / 0.02)))[..., None]
    light = 1 + 0.16 * _noise(rng, down.shape, 5)[..., None] + 0.1 * (down[..., None] - 0.5)
    meadow: Field = ((1 - share) * sky + share * grass) * light
    return meadow


def _body(rng: np.random.Generator, down: Field, along: Field) -> tuple[Mask, Field]:
    """A smooth closed outline, and the height of the rounded body above it (0 at the outline, 1 in the middle)."""
    y, x = down - rng.uniform(0.45, 0.6), along - rng.uniform(0.42, 0.58)
    turn = rng.uniform(-0.4, 0.4)
    u, v = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    u, v = u / rng.uniform(0.28, 0.36), v / rng.uniform(0.2, 0.27)
    angle = np.arctan2(v, u)
    outline = np.ones_like(angle)
    for waves in (2, 3, 4, 5):
        outline += 0.2 / waves * rng.standard_normal() * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    radius = np.hypot(u, v) / np.clip(outline, 0.6, 1.4)
    return radius < 1, np.sqrt(np.clip(1 - radius**2, 0, 1))


def _stripes(rng: np.random.Generator, down: Field, along: Field) -> Field:
    """Black and white stripes with a direction, period and phase of their own, slightly bent."""
    turn, period = rng.uniform(-0.6, 0.6), rng.uniform(*PERIODS)
    place = along * np.cos(turn) + down * np.sin(turn) + 0.012 * _noise(rng, down.shape, 3)
    wave = np.sin(2 * np.pi * (place / period + rng.uniform()))
    stripes: Field = 0.5 + 0.42 * np.tanh(3 * wave)
    return stripes


def _noise(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> Field:
    """Smooth noise, standard deviation about 1, with about `cells` bumps a side."""
    from scipy import ndimage

    coarse = rng.standard_normal((cells + 3, cells + 3))
    places = np.meshgrid(*[np.linspace(1, cells + 1, n) for n in shape], indexing="ij")
    field: Field = ndimage.map_coordinates(coarse, places, order=3, mode="nearest")
    return field * 1.5


def _pooled(fine: Field) -> Field:
    """Means over squares of FINE x FINE pixels."""
    n = fine.shape[0] // FINE
    pooled: Field = fine.reshape(n, FINE, n, FINE, -1).mean((1, 3))
    return pooled
