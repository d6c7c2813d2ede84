"""From the configuration to the scans: found, split by patient, prepared, and the samplers that draw from them."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from medcycle.config import Config, Domain
from medcycle.data import (
    AXES,
    Augment,
    Picture,
    PictureSampler,
    PicturesError,
    UnpairedSampler,
    device_can_hold,
    load_pictures,
)
from medcycle.errors import ConfigError, ScanError
from medcycle.io import find_scans, patient_of, scan_name
from medcycle.io.find import PICTURES, suffix_of
from medcycle.prepare import CohortError, Preparation, PreparedScan, prepare_cohort

Progress = Callable[[int, int, str], None]


@dataclass
class Cohort:
    """The prepared scans of one domain, split by patient."""

    domain: Domain
    preparation: Preparation
    training: list[Any] = field(default_factory=list)  # of PreparedScan, or of Picture
    held_out: list[Any] = field(default_factory=list)

    @property
    def channels(self) -> int:
        """Channels of every scan."""
        return int(self.training[0].channels)


def preparation(config: Config, domain: Domain) -> Preparation:
    """How this domain's scans are prepared."""
    both_ct = config.domains.a.modality == config.domains.b.modality == "ct"
    return Preparation(
        modality=domain.modality,
        orientation=config.prepare.orientation,
        spacing=config.prepare.spacing,
        window=config.prepare.window,
        percentiles=config.prepare.percentiles,
        range=config.prepare.range,
        foreground=not both_ct if config.prepare.foreground is None else config.prepare.foreground,
        invert=config.prepare.invert and domain.modality == "mr",
        n4=config.prepare.n4,
    )


def scans_of(domain: Domain, key: str) -> list[Path]:
    """The domain's scans, in natural order.

    Raises:
        ConfigError: none is found; names the key.
    """
    patterns = [domain.path] if isinstance(domain.path, str) else domain.path
    try:
        return list(dict.fromkeys(path for pattern in patterns for path in find_scans(pattern)))
    except ScanError as error:
        raise ConfigError(f"domains.{key}.path: {error}") from None


def split(paths: dict[str, list[Path]], config: Config) -> dict[str, set[Path]]:
    """The held-out scans of each domain: the same patients in both, never so many that a domain is left empty."""
    patients = {key: _patients(found, getattr(config.domains, key).patient) for key, found in paths.items()}
    everyone = sorted({patient for found in patients.values() for patient in found.values()})
    random.Random(config.train.seed).shuffle(everyone)
    # A share of the smaller domain, so that a large domain does not empty a small one.
    held_out: set[str] = set()
    for found in patients.values():
        own = [patient for patient in everyone if patient in set(found.values())]
        wanted = int(config.train.validation * len(own))
        already = sum(patient in held_out for patient in own)
        held_out |= set([p for p in own if p not in held_out][: max(0, wanted - already)])
    answer = {}
    for key, found in patients.items():
        answer[key] = {path for path, patient in found.items() if patient in held_out}
        if len(answer[key]) == len(found):
            raise ConfigError(
                f"train.validation: holding out {config.train.validation:.0%} of the patients would leave domain "
                f"{key} without any; lower it or add scans"
            )
    return answer


def _patients(paths: list[Path], pattern: str | None) -> dict[Path, str]:
    """The patient of every scan; where files of one name lie in many folders (p01/T1.nii.gz), the folder's name."""
    patients = {path: patient_of(path, pattern) for path in paths}
    names = {scan_name(path) for path in paths}
    if pattern is None and len(names) < len(paths) and all(path.is_file() for path in paths):
        return {path: path.parent.name for path in paths}
    return patients


def prepare_domains(config: Config, progress: Progress | None, warn: Callable[[str], None]) -> dict[str, Cohort]:
    """Find, prepare (from the cache where it can) and split the scans of both domains.

    Raises:
        ConfigError, ScanError: see `scans_of`, `prepare_cohort` (the bad scans of both domains at once); and scans of
            one domain that differ in channels.
    """
    paths = {key: scans_of(getattr(config.domains, key), key) for key in ("a", "b")}
    held_out = split(paths, config)
    cohorts = {}
    failures = []
    for key in ("a", "b"):
        domain: Domain = getattr(config.domains, key)
        how = preparation(config, domain)
        try:
            prepared = _prepared(config, domain, paths, key, progress)
        except (CohortError, PicturesError) as error:
            failures.append(f"domains.{key} ({domain.name}): {error}")
            continue
        odd = [scan for scan in prepared if scan.warning]
        if odd:
            others = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
            warn(f"domains.{key} ({domain.name}): {odd[0].warning}{others}")
        channels = {scan.channels for scan in prepared}
        if len(channels) > 1:
            raise ScanError(f"domains.{key}: scans with {sorted(channels)} channels; all must have the same number")
        training = [scan for scan in prepared if Path(scan.path) not in held_out[key]]
        unseen = [scan for scan in prepared if Path(scan.path) in held_out[key]]
        cohorts[key] = Cohort(domain, how.fitted(scan.scale for scan in training), training, unseen)
    if failures:
        raise ScanError("\n".join(failures))
    a, b = cohorts["a"].channels, cohorts["b"].channels
    if config.loss.identity and a != b:
        raise ConfigError(
            f"loss.identity: the identity loss shows images of one domain to the other's generator, but the domains "
            f"have {a} and {b} channels; set loss.identity=0"
        )
    return cohorts


def _prepared(
    config: Config, domain: Domain, paths: dict[str, list[Path]], key: str, progress: Progress | None
) -> Sequence[PreparedScan | Picture]:
    """A domain's scans from the cache; where both domains are picture files, decoded pictures."""
    if config.pictures and all(suffix_of(path) in PICTURES for found in paths.values() for path in found):
        return load_pictures(
            paths[key],
            resize=config.sample.resize,
            limits=config.prepare.range,
            threads=config.prepare.workers or os.cpu_count() or 1,
            progress=progress,
        )
    if config.sample.resize is not None:
        raise ConfigError(
            f"sample.resize: works on picture files ({', '.join(PICTURES)}) only, and the domains hold others. Set "
            "sample.resize: null."
        )
    return prepare_cohort(
        paths[key],
        preparation(config, domain),
        Path(config.prepare.cache),
        # Starting a process takes as long as preparing some scans.
        workers=config.prepare.workers or min(os.cpu_count() or 1, 1 + len(paths[key]) // 8),
        axis=AXES[config.sample.axes] if len(config.sample.size) == 2 else 2,
        series=domain.series,
        resample_gaps=domain.resample_gaps,
        progress=progress,
    ).scans


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


def data_digest(cohorts: dict[str, Cohort]) -> str:
    """Changes with the content or preparation of any scan, and with the split."""
    digest = hashlib.blake2b(digest_size=16)
    for cohort in cohorts.values():
        for scans in (cohort.training, cohort.held_out):
            digest.update(repr([scan.key for scan in scans]).encode())
    return digest.hexdigest()
