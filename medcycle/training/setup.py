"""From the configuration to what the loop runs on: scans, samplers, networks."""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medcycle.config import Config, Domain
from medcycle.data import AXES, UnpairedSampler
from medcycle.data.augment import Augment
from medcycle.errors import ConfigError, ScanError, TrainingError
from medcycle.io import find_scans, patient_of, scan_name
from medcycle.networks import build_discriminator, build_generator
from medcycle.networks.layers import initialize
from medcycle.prepare import CohortError, Preparation, PreparedScan, prepare_cohort
from medcycle.training.step import CycleGAN, LossSettings

SMALL_WORK = 2**20  # voxels times filters of a sample
MakeNetwork = Callable[..., nn.Module]
Progress = Callable[[int, int, str], None]


@dataclass
class Cohort:
    """The prepared scans of one domain, split by patient."""

    domain: Domain
    preparation: Preparation
    training: list[PreparedScan] = field(default_factory=list)
    held_out: list[PreparedScan] = field(default_factory=list)

    @property
    def channels(self) -> int:
        """Channels of every scan."""
        return int(self.training[0].array.shape[1])


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
            prepared = prepare_cohort(
                paths[key],
                how,
                Path(config.prepare.cache),
                # Starting a process takes as long as preparing some scans.
                workers=config.prepare.workers or min(os.cpu_count() or 1, 1 + len(paths[key]) // 8),
                axis=AXES[config.sample.axes] if len(config.sample.size) == 2 else 2,
                series=domain.series,
                resample_gaps=domain.resample_gaps,
                progress=progress,
            )
        except CohortError as error:
            failures.append(f"domains.{key} ({domain.name}): {error}")
            continue
        odd = [scan for scan in prepared.scans if scan.warning]
        if odd:
            others = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
            warn(f"domains.{key} ({domain.name}): {odd[0].warning}{others}")
        channels = {int(scan.array.shape[1]) for scan in prepared.scans}
        if len(channels) > 1:
            raise ScanError(f"domains.{key}: scans with {sorted(channels)} channels; all must have the same number")
        training = [scan for scan in prepared.scans if Path(scan.path) not in held_out[key]]
        unseen = [scan for scan in prepared.scans if Path(scan.path) in held_out[key]]
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


def samplers(config: Config, cohorts: dict[str, Cohort]) -> tuple[UnpairedSampler, UnpairedSampler]:
    """For training, and for previews and validation (held-out scans where there are any, no augmentation)."""
    a, b = cohorts["a"], cohorts["b"]
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
    fixed = UnpairedSampler(
        a.held_out or a.training, b.held_out or b.training, foreground=1.0, seed=config.train.seed + 1, **settings
    )
    return training, fixed


def generator_arguments(config: Config, in_channels: int, out_channels: int) -> dict[str, Any]:
    """What rebuilds a generator; stored in the model file."""
    arguments = config.model.generator.model_dump()
    return arguments | {"in_channels": in_channels, "out_channels": out_channels, "ndim": len(config.sample.size)}


def build_gan(
    config: Config,
    channels: tuple[int, int],
    device: torch.device,
    precision: str,
    *,
    rank: int = 0,
    make_generator: MakeNetwork | None = None,
    make_discriminator: MakeNetwork | None = None,
) -> CycleGAN:
    """The four networks, freshly drawn, with their optimizers."""
    torch.manual_seed(config.train.seed)
    a, b = channels
    networks: list[nn.Module] = []
    for inputs, outputs in ((a, b), (b, a)):
        if make_generator is not None:
            networks.append(make_generator(inputs, outputs))
        else:
            arguments = generator_arguments(config, inputs, outputs) | {"checkpointing": config.train.checkpointing}
            networks.append(build_generator(**arguments))
            initialize(networks[-1])
    for inputs in (a, b):
        if make_discriminator is not None:
            networks.append(make_discriminator(inputs))
        else:
            arguments = config.model.discriminator.model_dump() | {"channels": inputs, "ndim": len(config.sample.size)}
            networks.append(build_discriminator(**arguments))
            initialize(networks[-1])
    torch.manual_seed(config.train.seed + 1 + rank)  # from here on, each process draws for its own samples
    return CycleGAN(
        *(network.to(device) for network in networks),
        learning_rate=config.train.learning_rate,
        betas=config.train.betas,
        pool=config.train.pool,
        ema=config.train.ema,
        precision=precision,
        seed=config.train.seed + 1000 * rank,
    )


def thread_count(config: Config) -> int:
    """CPU threads to compute in; 0 leaves torch's own choice.

    Below SMALL_WORK, waking a second thread for every operation takes longer than it saves: a step on 64 x 64 samples
    with 16 filters took 0.08 s in one thread and 0.1 to 0.6 s in two, depending on what else ran.
    """
    small = math.prod(config.sample.size) * config.model.generator.filters < SMALL_WORK
    return config.train.threads or (1 if small else 0)


def loss_settings(config: Config) -> LossSettings:
    """The losses' section as plain values."""
    return LossSettings(**config.loss.model_dump())


def learning_rate(config: Config, epoch: int) -> float:
    """In the epoch with that index: constant, then linear towards zero (Zhu 2017, section 4)."""
    train = config.train
    return train.learning_rate * (1 - max(0, epoch + 1 - train.epochs) / (train.decay_epochs + 1))


def data_digest(cohorts: dict[str, Cohort]) -> str:
    """Changes with the content or preparation of any scan, and with the split."""
    digest = hashlib.blake2b(digest_size=16)
    for cohort in cohorts.values():
        for scans in (cohort.training, cohort.held_out):
            digest.update(repr([scan.key for scan in scans]).encode())
    return digest.hexdigest()


def check_sample(config: Config) -> None:
    """The samples must be large enough for the discriminator.

    Raises:
        ConfigError: they are not.
    """
    settings = config.model.discriminator.model_dump()
    with torch.device("meta"):
        discriminator: Any = build_discriminator(**settings, channels=1, ndim=len(config.sample.size))
    minimum = discriminator.minimum
    if min(config.sample.size) < minimum:
        raise ConfigError(
            f"sample.size: {list(config.sample.size)} is too small for the discriminator: "
            f"model.discriminator.layers={settings['layers']} needs at least {minimum} voxels along each axis. Take "
            "larger samples, fewer layers, or model.discriminator.kind=pixel."
        )


def check_batch(config: Config, world: int) -> None:
    """The batch must divide among the processes.

    Raises:
        TrainingError: it does not.
    """
    if config.train.batch_size % world:
        raise TrainingError(
            f"train.batch_size: {config.train.batch_size} samples cannot be shared evenly by {world} processes; "
            f"take a multiple of {world}"
        )
