"""What would be trained, told without training: the plan of a dry run, and the audit of the scans."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from medcycle.config import Config, Domain, load_config, shipped
from medcycle.data import AXES
from medcycle.io import find_scans, read_volume
from medcycle.networks import build_discriminator, build_generator
from medcycle.prepare.audit import Audit, audit, swap_warning
from medcycle.training.cohorts import Progress, preparation, scans_of, split
from medcycle.training.setup import check_batch, check_sample, generator_arguments


def plan(config: Config) -> dict[str, str]:
    """What a training would do, found without preparing or writing anything (`--dry-run`)."""
    check_batch(config, int(os.environ.get("WORLD_SIZE", "1")))
    check_sample(config)
    facts = {}
    paths = {key: scans_of(getattr(config.domains, key), key) for key in ("a", "b")}
    held_out = split(paths, config)
    channels = []
    for key, found in paths.items():
        domain: Domain = getattr(config.domains, key)
        volume = _read(found[0], domain)
        channels.append(volume.channels)
        facts[f"domain {key} ({domain.name})"] = (
            f"{len(found) - len(held_out[key])} scans to train, {len(held_out[key])} held out; the first: "
            f"{' x '.join(map(str, volume.space))} voxels of {' x '.join(f'{s:.3g}' for s in volume.spacing)} mm, "
            f"{volume.orientation}, {volume.unit}"
        )
        warning = swap_warning(volume, domain.modality)
        if warning:
            facts[f"warning {key}"] = warning
    a, b = channels
    with torch.device("meta"):
        generator = build_generator(**generator_arguments(config, a, b))
        discriminator = build_discriminator(
            **config.model.discriminator.model_dump(), channels=b, ndim=len(config.sample.size)
        )
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        count = sum(p.numel() for p in network.parameters())
        facts[name] = f"{getattr(config.model, name).kind}, {count:,} parameters (two of them)"
    epochs = config.train.epochs + config.train.decay_epochs
    samples = config.train.samples_per_epoch
    facts["sample"] = f"{' x '.join(map(str, config.sample.size))}, batch of {config.train.batch_size}"
    facts["schedule"] = f"{epochs} epochs of " + (
        f"{samples} samples: {epochs * -(-samples // config.train.batch_size):,} steps"
        if samples
        else "as many samples as the larger domain has slices or patches"
    )
    return facts


def _read(path: Path, domain: Domain) -> Any:
    unit = "HU" if domain.modality == "ct" else None
    return read_volume(path, unit=unit, series=domain.series, resample_gaps=domain.resample_gaps)


def audit_targets(targets: list[str], progress: Progress | None = None) -> Audit:
    """The audit of a configuration's two domains, or of files, folders and globs of scans, one domain each.

    Args:
        targets: a configuration (a YAML file, or the name of a shipped one) and its overrides; or scans.
        progress: called with (scans done, scans in all, name of the last one).
    """
    first = targets[0]
    if Path(first).suffix in (".yaml", ".yml") or (f"{first}.yaml" in shipped() and not Path(first).exists()):
        config = load_config(first, targets[1:])
        domains = {
            domain.name: (scans_of(domain, key), preparation(config, domain))
            for key, domain in (("a", config.domains.a), ("b", config.domains.b))
        }
        reading = {
            domain.name: {"series": domain.series, "resample_gaps": domain.resample_gaps}
            for domain in (config.domains.a, config.domains.b)
        }
        axis = AXES[config.sample.axes] if len(config.sample.size) == 2 else 2
        return audit(domains, size=config.sample.size, axis=axis, reading=reading, progress=progress)
    return audit({target: (find_scans(target), None) for target in targets}, progress=progress)
