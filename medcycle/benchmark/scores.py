"""The figures of a benchmark: how far two sets of pictures lie apart; stripes and background of the miniature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from medcycle.data import read_picture
from medcycle.data.textures import background_error, stripe_contrast, stripe_score
from medcycle.errors import ModelError
from medcycle.evaluation.features import Extractor, Features, StandIn, inception
from medcycle.evaluation.frechet import frechet_distance, inception_score, kernel_distance
from medcycle.io import find_scans

Figures: TypeAlias = dict[str, float]

STRIPES = 0.5  # the miniature is passed above this: half the stripes of the real striped animals
BACKGROUND = 16.0  # and below this, in grey levels; one mean picture for all gives 27, an untrained network 54
SPLITS = 10  # of the Inception score


@dataclass(frozen=True)
class Names:
    """What figures are called: FID, KID and IS with the Inception network of their papers and no other."""

    frechet: str
    kernel: str
    score: str

    @classmethod
    def of(cls, extractor: Extractor) -> Names:
        """Those of a feature network."""
        if extractor.is_inception:
            return cls("FID", "KID x 1000", "IS")
        own = f"({extractor.name})"
        return cls(f"Fréchet distance {own}", f"kernel distance x 1000 {own}", f"class score {own}")


def choose_extractor(weights: Path | None, device: str, *, fetch: bool) -> tuple[Extractor, str | None]:
    """The Inception network, or the stand-in and the reason why.

    Args:
        weights: the Inception file; None looks in the cache, and else fetches it.
        device: to compute on.
        fetch: whether a file of 96 MB is worth it.

    Raises:
        ModelError: `weights` cannot be used.
    """
    if weights is not None:
        return inception(weights, device=device), None
    reason, remedy = "the miniature is judged by its own figures", ""
    if fetch:
        try:
            return inception(device=device), None
        except ModelError as error:
            reason, remedy = str(error), ". --weights names the file"
    stand_in = StandIn(device)
    return stand_in, f"no FID, KID and IS ({reason}); the distances are those of {stand_in.name}{remedy}"


def distances(fake: Features, real: Features, names: Names) -> Figures:
    """How far two sets of pictures lie apart, and the class score of the first where the network knows classes."""
    found = _apart(fake.features, real.features, names)
    if fake.probabilities is not None:
        score, spread = inception_score(fake.probabilities, min(SPLITS, len(fake.probabilities)))
        found |= {names.score: score, f"{names.score}, std": spread}
    return found


def halves(real: Features, names: Names) -> Figures:
    """How far two halves of one real set lie apart: what a perfect translation of as few pictures would have."""
    return _apart(real.features[0::2], real.features[1::2], names) if len(real.features) >= 4 else {}


def _apart(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], names: Names) -> Figures:
    mean, std = kernel_distance(one, other)
    found = {names.frechet: frechet_distance(one, other), names.kernel: 1000 * mean}
    return found if math.isnan(std) else found | {f"{names.kernel}, std": 1000 * std}


@dataclass(frozen=True)
class Animals:
    """The miniature's test pictures, by which translated ones are judged.

    Attributes:
        plain, striped: mean stripe contrast of the real animals of A and B: 0 and 1 of the scale.
        folder: of the miniature.
    """

    plain: float
    striped: float
    folder: Path

    @classmethod
    def of(cls, folder: Path) -> Animals:
        """Measure the real ones."""
        means = []
        for part in ("testA", "testB"):
            found = [stripe_contrast(_pixels(path), _mask(folder, part, path)) for path in find_scans(folder / part)]
            means.append(float(np.mean(found)))
        return cls(means[0], means[1], folder)

    def figures(self, translated: Path, part: str) -> Figures:
        """Stripes and background error of the translations of testA or testB."""
        contrasts, errors = [], []
        for path in find_scans(translated):
            mask, pixels = _mask(self.folder, part, path), _pixels(path)
            contrasts.append(stripe_contrast(pixels, mask))
            errors.append(background_error(pixels, _pixels(self.folder / part / path.name), mask))
        stripes = stripe_score(contrasts, self.plain, self.striped)
        return {"stripes": stripes, "background error": float(np.mean(errors))}


def passes(figures: Figures) -> bool:
    """Whether a translation of plain animals is passed: stripes where the animal is, and the meadow as it was."""
    return figures["stripes"] > STRIPES and figures["background error"] < BACKGROUND


def _pixels(path: Path) -> npt.NDArray[Any]:
    return read_picture(path).transpose(2, 1, 0)


def _mask(folder: Path, part: str, path: Path) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = _pixels(folder / "masks" / part / path.name)[..., 0] > 127
    return mask
