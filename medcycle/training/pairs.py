"""A few registered pairs beside the unpaired scans: prepared, sorted by their patients' side, sampled, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medcycle.config import Config
from medcycle.data import Augment, PairedSampler, WithPairs, check_sizes
from medcycle.data.augment import AIR
from medcycle.data.loader import Sampler
from medcycle.errors import ConfigError, ScanError
from medcycle.io.manifest import Row
from medcycle.prepare import CohortError, Preparation, PreparedPair, PreparedScan, prepare_cohort, prepare_pair
from medcycle.training.cohorts import Cohort, Pairs, Progress, reading, slicing_axis
from medcycle.training.split import ListedPair, scans_and_sides

MEASURED = 16  # samples of held-out pairs, at least one of each
UNLIKE = 0.7  # Dice of the two bodies below which a pair is suspected not to be registered


def prepare_pairs(
    config: Config,
    cohorts: Mapping[str, Cohort],
    progress: Progress | None,
    warn: Callable[[str], None],
    *,
    strict: bool = False,
) -> Pairs | None:
    """Prepare the registered pairs as all other scans are, and bring each onto one grid; None if there are none.

    Args:
        config: where they are.
        cohorts: both domains, prepared.
        progress: called with (scans done, scans in all, name of the last one), for each domain.
        warn: called with each sentence that the user should read.
        strict: refuse all for a single bad pair; else the bad ones are listed in `Pairs.refused`.

    Raises:
        ConfigError: the pairs are wrong (:func:`medcycle.training.split.listed_pairs`), or none is left to train on.
        ScanError: a pair cannot be used (strict), or is smaller than half a sample.
    """
    if config.pairs is None:
        return None
    rows, listed, _ = scans_and_sides(config)
    tested = [pair for pair, side in listed if side == "test"]
    if tested:
        warn(f"pairs: {len(tested)} left out, of patients whose split is test: {_told(tested)}")
    wanted = {(pair.a, pair.b): (pair, side) for pair, side in listed if side != "test"}
    wrong: dict[Path, str] = {}
    scans = []
    for number, key in enumerate("ab"):
        paths = [pair[number] for pair in wanted]
        prepared, bad = _prepared(config, cohorts[key], rows[key], paths, progress)
        scans.append(prepared)
        wrong |= bad
    found, unseen = Pairs(), {scan.key for cohort in cohorts.values() for scan in cohort.held_out}
    learnt = {scan.key for cohort in cohorts.values() for scan in cohort.training}
    for (a, b), (pair, side) in wanted.items():
        try:
            if a in wrong or b in wrong:
                raise ScanError(wrong.get(a) or wrong[b])
            joined = _joined(config, cohorts, scans[0][a], scans[1][b])
        except ScanError as error:
            found.refused.append(f"pairs ({pair.where}): {error}")
            continue
        if joined.overlap < UNLIKE:
            warn(
                f"pairs ({pair.where}): the bodies of {joined.name} overlap little (Dice {joined.overlap:.2f}): are "
                "they registered to each other?"
            )
        own = {scans[0][a].key, scans[1][b].key}  # the content tells, whatever a file is called
        if side == "val" and own & learnt:
            warn(f"pairs ({pair.where}): {joined.name} are measured, but one is trained on under another name")
        (found.held_out if side == "val" or own & unseen else found.training).append(joined)
    if strict and found.refused:
        raise ScanError("\n".join(found.refused))
    if config.pairs.path is not None and not found.training:
        told = "".join(f"\n  {line}" for line in found.refused[:20])
        raise ConfigError(
            f"pairs.path: no pair is left to train on: {len(found.held_out)} are of held-out patients, {len(tested)} "
            f"left out for testing, {len(found.refused)} cannot be used. Say split train for a patient in a .csv of "
            f"domains.a.path or domains.b.path, lower train.validation, or take pairs.path out.{told}"
        )
    check_sizes([*found.training, *found.held_out], config.sample.size, config.sample.axes)
    return found


def _prepared(
    config: Config, cohort: Cohort, rows: Mapping[Path, Row], paths: Sequence[Path], progress: Progress | None
) -> tuple[dict[Path, PreparedScan], dict[Path, str]]:
    """The pairs' scans of one domain, prepared as its others are, and why some cannot be."""
    if not paths:
        return {}, {}
    how = replace(cohort.preparation, scale=None)  # which was fitted to the scans of the domain afterwards
    settings = reading(config, cohort.domain, rows, paths) | {"progress": progress, "strict": False}
    try:
        prepared = prepare_cohort(paths, how, Path(config.prepare.cache), axis=slicing_axis(config), **settings)
    except CohortError as error:  # every one
        return {}, dict.fromkeys(paths, str(error))
    return {scan.path: scan for scan in prepared.scans}, dict(prepared.failures)


def _joined(config: Config, cohorts: Mapping[str, Cohort], a: PreparedScan, b: PreparedScan) -> PreparedPair:
    for key, scan in (("a", a), ("b", b)):
        if scan.channels != cohorts[key].channels:
            raise ScanError(
                f"{scan.path}: {scan.channels} channels, where the scans of domains.{key} have {cohorts[key].channels}"
            )
    return prepare_pair(a, b, Path(config.prepare.cache))


def _told(pairs: Sequence[ListedPair]) -> str:
    names = [pair.a.name for pair in pairs]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def with_pairs(config: Config, sampler: Sampler, pairs: Pairs | None) -> Sampler:
    """The sampler of training, whose batches are followed by paired ones if there are pairs to train on."""
    if pairs is None or not pairs.training:
        return sampler
    sample = config.sample
    augment = Augment(**sample.augment.model_dump())
    return WithPairs(
        sampler,
        PairedSampler(
            pairs.training,
            size=sample.size,
            axes=sample.axes,
            context=sample.context,
            foreground=sample.foreground,
            augment=augment,
            seed=config.train.seed,
        ),
    )


class PairedErrors:
    """Measures both directions on the same samples of held-out pairs each time.

    Args:
        config: size of the samples and seed.
        pairs: which to measure.
        preparations: of domains A and B, fitted.
    """

    def __init__(self, config: Config, pairs: Sequence[PreparedPair], preparations: tuple[Preparation, Preparation]):
        sample = config.sample
        settings: dict[str, Any] = {"size": sample.size, "axes": sample.axes, "context": sample.context}
        seed = config.train.seed + 1
        self._samplers = [PairedSampler([pair], foreground=1.0, seed=seed, **settings) for pair in pairs]
        self._preparations, self._context = preparations, sample.context

    @torch.no_grad()
    def __call__(self, a_to_b: nn.Module, b_to_a: nn.Module, device: torch.device) -> dict[str, float]:
        """Mean absolute errors `paired_mae_b` (of what is made of A) and `paired_mae_a`, in B's and A's own unit.

        Against the prepared scans (resampled, clipped to the window or percentiles), where either scan is not air.
        Nothing if there are no such pairs. The generators are in evaluation mode.
        """
        found: dict[str, list[float]] = {}
        for number in range(max(MEASURED, len(self._samplers)) if self._samplers else 0):
            pair = self._samplers[number % len(self._samplers)].batch(number, 1)
            shown = [self._middle(image) for image in pair]
            body = np.maximum(*(image.max(axis=1) for image in shown)) > AIR
            for given, network in enumerate((a_to_b, b_to_a)):
                made = network(torch.as_tensor(pair[given]).to(device)).float().cpu().numpy()
                units = self._preparations[1 - given].in_units
                error = np.abs(units(self._middle(made)) - units(shown[1 - given])).mean(axis=1)
                if body.any():
                    found.setdefault(f"paired_mae_{'ba'[given]}", []).append(float(error[body].mean()))
        return {name: float(np.mean(values)) for name, values in found.items()}

    def _middle(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Of the planes that are a sample's channels, the one in the middle."""
        planes = 2 * self._context + 1
        middle: npt.NDArray[np.float32] = images.reshape(len(images), planes, -1, *images.shape[2:])[:, planes // 2]
        return middle
