"""From the configuration to the scans: split by patient, prepared, and the samplers that draw from them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcycle.config import Config, Domain
from medcycle.data import (
    ALL,
    AXES,
    Augment,
    Picture,
    PictureSampler,
    PicturesError,
    SizeError,
    UnpairedSampler,
    check_sizes,
    device_can_hold,
    load_pictures,
)
from medcycle.errors import ConfigError, ScanError
from medcycle.io.files import refused_leaves_nothing
from medcycle.io.find import PICTURES, suffix_of
from medcycle.io.manifest import Row
from medcycle.prepare import CohortError, Preparation, PreparedPair, PreparedScan, fit_landmarks, prepare_cohort
from medcycle.training.split import patients_of, scans_and_sides

Progress = Callable[[int, int, str], None]
CROP_MM = 10.0  # round the body, for prepare.crop
SCANS_MEASURED = 8  # whose structure agreement a model keeps
UNEVEN = 1.5  # longest edge of a voxel over its shortest, from which planes of all directions are not alike


@dataclass
class Cohort:
    """The prepared scans of one domain, split by patient.

    Attributes:
        domain, preparation: how they are found and prepared; the preparation is fitted to the training scans.
        training, held_out: PreparedScans, or Pictures.
        refused: the scans that cannot be used, each with the reason.
        sites: how many training scans are of which site, as far as a manifest says.
        patients: how many the training scans are of, as file names, headers or a manifest tell; 0: unknown.
    """

    domain: Domain
    preparation: Preparation
    training: list[Any] = field(default_factory=list)
    held_out: list[Any] = field(default_factory=list)
    refused: list[tuple[Path, str]] = field(default_factory=list)
    sites: dict[str, int] = field(default_factory=dict)
    patients: int = 0

    @property
    def channels(self) -> int:
        """Channels of every scan (a sample has as many for each of its planes)."""
        return int(self.training[0].channels)


@dataclass
class Pairs:
    """The registered pairs that could be prepared.

    Attributes:
        training: to train on.
        held_out: to be measured: of held-out patients, or named for it.
        refused: a line for each pair that cannot be used.
    """

    training: list[PreparedPair] = field(default_factory=list)
    held_out: list[PreparedPair] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def preparation(config: Config, domain: Domain) -> Preparation:
    """How this domain's scans are prepared."""
    both_ct = config.domains.a.modality == config.domains.b.modality == "ct"
    return Preparation(
        modality=domain.modality,
        orientation=config.prepare.orientation,
        spacing=config.prepare.spacing,
        window=config.prepare.window,
        stretch=config.prepare.stretch,
        percentiles=config.prepare.percentiles,
        range=config.prepare.range,
        foreground=not both_ct if config.prepare.foreground is None else config.prepare.foreground,
        invert=config.inverted(domain),
        cavities=config.prepare.cavities and domain.modality == "mr",
        floor=config.prepare.floor if domain.modality == "mr" else -1.0,
        n4=config.prepare.n4,
        threshold=domain.threshold,
        crop=CROP_MM if config.prepare.crop else None,
    )


def prepare_domains(
    config: Config, progress: Progress | None, warn: Callable[[str], None], *, strict: bool = False
) -> dict[str, Cohort]:
    """Find, split and prepare (from the cache where it can) the scans of both domains.

    Args:
        config: where they are and how to prepare them.
        progress: called with (scans done, scans in all, name of the last one).
        warn: called with each sentence that the user should read.
        strict: refuse the cohort for a single bad scan; else the bad ones are listed in `Cohort.refused`.

    Raises:
        ConfigError, ScanError: see `rows_of`, `split`, `prepare_cohort` (the bad scans of both domains at once); no
            good scan is left to train on; and scans of one domain that differ in channels.
    """
    rows, _, sides = scans_and_sides(config)
    cohorts = {}
    failures = []
    for key in ("a", "b"):
        domain: Domain = getattr(config.domains, key)
        try:
            how, prepared, refused = _prepared(config, domain, rows, sides, key, progress, strict)
        except (CohortError, PicturesError, SizeError) as error:
            failures.append(f"domains.{key} ({domain.name}): {error}")
            continue
        odd = [scan for scan in prepared if scan.warning]
        if odd:
            others = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
            warn(f"domains.{key} ({domain.name}): {odd[0].warning}{others}")
        channels = {scan.channels for scan in prepared}
        if len(channels) > 1:
            raise ScanError(f"domains.{key}: scans with {sorted(channels)} channels; all must have the same number")
        training = [scan for scan in prepared if sides[key][scan.path] == "train"]
        unseen = [scan for scan in prepared if sides[key][scan.path] == "val"]
        if not training:
            listed = "\n".join(f"  {message}" for _, message in refused[:20])
            failures.append(f"domains.{key} ({domain.name}): every scan to train on is refused:\n{listed}")
            continue
        sites = Counter(site for scan in training if (site := rows[key][scan.path].site))
        fitted = how.fitted(scan.scale for scan in training)
        whose = patients_of(rows[key], domain.patient)
        patients = len({whose[scan.path] for scan in training})
        cohorts[key] = Cohort(domain, fitted, training, unseen, refused, dict(sites), patients)
    if failures:
        raise ScanError("\n".join(failures))
    if config.train.validation and not any(cohort.held_out for cohort in cohorts.values()):
        warn(
            f"train.validation: {config.train.validation:.0%} of the patients, rounded down, is nobody: nothing is "
            "held out, and previews show training scans"
        )
    if config.sample.axes == ALL:
        for key, cohort in cohorts.items():
            _tell_thick(f"domains.{key} ({cohort.domain.name})", cohort.training, warn)
    a, b = cohorts["a"].channels, cohorts["b"].channels
    if config.loss.identity and a != b:
        raise ConfigError(
            f"loss.identity: the identity loss shows images of one domain to the other's generator, but the domains "
            f"have {a} and {b} channels; set loss.identity=0"
        )
    return cohorts


def _tell_thick(where: str, scans: Sequence[PreparedScan], warn: Callable[[str], None]) -> None:
    """Warn of scans whose planes look otherwise in each direction."""
    sizes = [np.linalg.norm(scan.state.prepared_affine[:3, :3], axis=0) for scan in scans]
    thick = [size for size in sizes if size.max() > UNEVEN * size.min()]
    if thick:
        shown = " x ".join(f"{size:.3g}" for size in thick[0])
        warn(
            f"{where}: {len(thick)} of {len(scans)} scans have voxels of {shown} mm or the like, and sample.axes all "
            "takes planes of every direction for alike: give prepare.spacing three equal sizes, or take axial planes"
        )


def _large_enough(
    config: Config, scans: Sequence[PreparedScan], *, strict: bool
) -> tuple[list[PreparedScan], list[tuple[Path, str]]]:
    """The scans that samples can be drawn from, and those that are too small, each with the reason.

    Raises:
        SizeError: all are too small; or any is, and `strict`.
    """
    size, axes = config.sample.size, config.sample.axes
    large, small = [], []
    for scan in scans:
        try:
            check_sizes([scan], size, axes)
            large.append(scan)
        except SizeError as error:
            small.append((scan.path, str(error)))
    if small and (strict or not large):
        check_sizes(scans, size, axes)  # all of them in one message
    return large, small


def _prepared(
    config: Config,
    domain: Domain,
    rows: Mapping[str, Mapping[Path, Row]],
    sides: Mapping[str, Mapping[Path, str]],
    key: str,
    progress: Progress | None,
    strict: bool,
) -> tuple[Preparation, Sequence[PreparedScan | Picture], list[tuple[Path, str]]]:
    """A domain's preparation, its scans from the cache (pictures, where both domains are such files: decoded), and the
    refused ones.
    """
    how = preparation(config, domain)
    paths = [path for path, side in sides[key].items() if side != "test"]
    workers = config.prepare.workers or os.cpu_count() or 1
    if config.pictures and all(suffix_of(path) in PICTURES for found in rows.values() for path in found):
        refused: list[tuple[Path, str]] = []
        pictures = load_pictures(
            paths,
            resize=config.sample.resize,
            limits=config.prepare.range,
            threads=workers,
            progress=progress,
            refused=None if strict else refused,
        )
        return how, pictures, refused
    if config.sample.resize is not None:
        raise ConfigError(
            f"sample.resize: works on picture files ({', '.join(PICTURES)}) only, and the domains hold others. Set "
            "sample.resize: null."
        )
    settings = reading(config, domain, rows[key], paths) | {"progress": progress}
    cache = Path(config.prepare.cache)
    with refused_leaves_nothing(cache, "identities.json"):  # where no scan could be prepared
        if config.prepare.nyul:
            how = fit_landmarks([path for path in paths if sides[key][path] == "train"], how, cache, **settings)
        cohort = prepare_cohort(paths, how, cache, axis=slicing_axis(config), strict=strict, **settings)
    large, small = _large_enough(config, cohort.scans, strict=strict)
    return how, large, [*cohort.failures, *small]


def reading(config: Config, domain: Domain, rows: Mapping[Path, Row], paths: Sequence[Path]) -> dict[str, Any]:
    """How these scans of a domain are read, for :func:`medcycle.prepare.prepare_cohort`, and by how many processes."""
    said = {path: rows[path].series if path in rows else None for path in paths}
    return {
        # Starting a process takes as long as preparing some scans.
        "workers": config.prepare.workers or min(os.cpu_count() or 1, 1 + len(paths) // 8),
        "series": {path: series or domain.series for path, series in said.items()},
        "resample_gaps": domain.resample_gaps,
    }


def slicing_axis(config: Config) -> int:
    """The axis that prepared arrays are sliced along; planes of all directions are read from axial ones."""
    return AXES.get(config.sample.axes, 2) if len(config.sample.size) == 2 else 2


def samplers(
    config: Config, cohorts: dict[str, Cohort], device: torch.device | None = None
) -> tuple[UnpairedSampler | PictureSampler, UnpairedSampler | PictureSampler]:
    """For training, and for previews and validation (held-out scans where there are any, no augmentation)."""
    a, b = cohorts["a"], cohorts["b"]
    shown = (a.held_out or a.training, b.held_out or b.training)
    if isinstance(a.training[0], Picture):
        return _picture_samplers(config, (a.training, b.training), shown, device)
    settings: dict[str, Any] = {
        "size": config.sample.size,
        "axes": config.sample.axes,
        "context": config.sample.context,
        "match_position": config.sample.match_position,
        "modalities": (a.domain.modality, b.domain.modality),
    }
    augment = Augment(**config.sample.augment.model_dump())
    training = UnpairedSampler(
        a.training,
        b.training,
        foreground=config.sample.foreground,
        augment=augment,
        seed=config.train.seed,
        **settings,
    )
    return training, UnpairedSampler(*shown, foreground=1.0, seed=config.train.seed + 1, **settings)


def spread(scans: Sequence[PreparedScan], most: int) -> list[PreparedScan]:
    """So many of the scans at most, spread evenly over all."""
    return [scans[int(n)] for n in np.unique(np.linspace(0, len(scans) - 1, most).round())]


def samples_as_translated(
    config: Config, scans: Sequence[PreparedScan], count: int, *, axes: str | None = None, most: int = SCANS_MEASURED
) -> Iterator[Any]:
    """About `count` samples in the body of a domain's scans: whole planes, as translation takes them, or patches.

    A crop will not do: how much air lies round the body changes what instance norm makes of a plane.

    Args:
        config: of the training.
        scans: of which domain.
        count: of samples.
        axes: of the planes; None: the training's own.
        most: scans, spread over all of them.
    """
    axes = axes or config.sample.axes
    names = tuple(AXES) if axes == ALL else (axes,)
    views = [(scan.along(AXES[name]) if axes == ALL else scan, name) for scan in spread(scans, most) for name in names]
    for scan, name in views:
        size = config.sample.size
        if len(size) == 2:
            size = tuple(max(own, least) for own, least in zip(scan.array.shape[2:], size, strict=True))
        sampler = UnpairedSampler(
            *([scan], [scan]),
            size=size,
            axes=name,
            context=config.sample.context,
            foreground=1.0,
            seed=config.train.seed,
        )
        for n in range(-(-count // len(views))):
            yield sampler.batch(n, 1)[0]


def _picture_samplers(
    config: Config, training: Any, shown: Any, device: torch.device | None
) -> tuple[PictureSampler, PictureSampler]:
    """The same for pictures, held on the device where that is asked for or, on a GPU, fits."""
    size, changes = config.sample.size, config.sample.augment.model_dump()
    flip = changes.pop("flip")
    augment = Augment(flip=0, **changes) if any(changes.values()) else None
    hold, where = config.sample.hold, None
    if hold == "device" and augment is not None:
        raise ConfigError("sample.hold: device: the device only crops and mirrors; set sample.hold: memory")
    if hold == "device" or (hold == "auto" and augment is None and _fits(training, size, device)):
        where = device
    seed = config.train.seed
    return (
        PictureSampler(*training, size=size, flip=flip, augment=augment, seed=seed, device=where),
        PictureSampler(*shown, size=size, flip=0, seed=seed + 1),
    )


def _fits(pictures: Any, size: Sequence[int], device: torch.device | None) -> bool:
    return (
        device is not None
        and device.type == "cuda"
        and device_can_hold(pictures, size, torch.cuda.mem_get_info(device)[0])
    )


def data_digest(cohorts: dict[str, Cohort], pairs: Pairs | None = None) -> str:
    """Changes with the content or preparation of any scan, and with the split."""
    digest = hashlib.blake2b(digest_size=16)
    sides: list[Sequence[Any]] = [side for cohort in cohorts.values() for side in (cohort.training, cohort.held_out)]
    for scans in (*sides, *((pairs.training, pairs.held_out) if pairs else ())):
        digest.update(repr([scan.key for scan in scans]).encode())
    return digest.hexdigest()
