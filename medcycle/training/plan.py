"""What would be trained, told without training: the plan of a dry run, and the audit of the scans."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from medcycle.config import Config, Domain, load_config, shipped
from medcycle.data import AXES
from medcycle.errors import ScanError
from medcycle.io import read_volume
from medcycle.io.manifest import Row
from medcycle.networks import build_discriminator, build_generator
from medcycle.prepare import Audit, audit, swap_warning
from medcycle.training.cohorts import Progress, preparation
from medcycle.training.setup import check_batch, check_sample, generator_arguments
from medcycle.training.split import patients_of, rows_in, rows_of, scans_and_sides
from medcycle.volume import Volume


def plan(config: Config) -> dict[str, str]:
    """What a training would do, found without preparing or writing anything (`--dry-run`)."""
    check_batch(config, int(os.environ.get("WORLD_SIZE", "1")))
    check_sample(config)
    facts = {}
    rows, pairs, sides = scans_and_sides(config)
    channels = []
    for key, found in rows.items():
        domain: Domain = getattr(config.domains, key)
        volume, refused = _first(found, domain)
        channels.append(volume.channels)
        sorted_out = Counter(sides[key].values())
        tested = f", {sorted_out['test']} left out for testing" if sorted_out["test"] else ""
        facts[f"domain {key} ({domain.name})"] = (
            f"{sorted_out['train']} scans to train, {sorted_out['val']} held out{tested}; the first: "
            f"{' x '.join(map(str, volume.space))} voxels of {' x '.join(f'{s:.3g}' for s in volume.spacing)} mm, "
            f"{volume.orientation}, {volume.unit}"
        )
        if refused:
            facts[f"refused {key}"] = f"{refused[0]} (`medcycle inspect` looks at all)"
        warning = swap_warning(volume, domain.modality)
        if warning:
            facts[f"warning {key}"] = warning
    if config.train.validation and not any("val" in side.values() for side in sides.values()):
        facts["validation"] = f"{config.train.validation:.0%} of the patients, rounded down, is nobody"
    if config.pairs is not None:
        of_side = Counter(side for _, side in pairs)
        facts["pairs"] = (
            f"{of_side['train']} to train on (weight {config.pairs.weight:g}), {of_side['val']} measured"
            + (f", {of_side['test']} left out for testing" if of_side["test"] else "")
        )
    a, b = (config.sample.planes * count for count in channels)
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
    context = f", {config.sample.context} neighbours on either side" if config.sample.context else ""
    facts["sample"] = f"{' x '.join(map(str, config.sample.size))}{context}, batch of {config.train.batch_size}"
    facts["schedule"] = f"{epochs} epochs of " + (
        f"{samples} samples: {epochs * -(-samples // config.train.batch_size):,} steps"
        if samples
        else "as many samples as the larger domain has slices or patches"
    )
    return facts


def _first(rows: Mapping[Path, Row], domain: Domain) -> tuple[Volume, list[str]]:
    """The domain's first scan that can be read, and what is wrong with those before it."""
    refused: list[str] = []
    unit = "HU" if domain.modality == "ct" else None
    for path, row in rows.items():
        try:
            series = row.series or domain.series
            return read_volume(path, unit=unit, series=series, resample_gaps=domain.resample_gaps), refused
        except ScanError as error:
            refused.append(str(error))
    raise ScanError(refused[0])


def audit_targets(targets: list[str], progress: Progress | None = None) -> Audit:
    """The audit of a configuration's two domains, or of files, folders and globs of scans, one domain each.

    Args:
        targets: a configuration (a YAML file, or the name of a shipped one) and its overrides; or scans.
        progress: called with (scans done, scans in all, name of the last one).
    """
    first = targets[0]
    if Path(first).suffix in (".yaml", ".yml") or (f"{first}.yaml" in shipped() and not Path(first).exists()):
        config = load_config(first, targets[1:])
        rows, domains, reading = {}, {}, {}
        for key, domain in (("a", config.domains.a), ("b", config.domains.b)):
            rows[domain.name] = _told(rows_of(domain, key), domain.patient)
            domains[domain.name] = (list(rows[domain.name]), preparation(config, domain))
            reading[domain.name] = {"series": domain.series, "resample_gaps": domain.resample_gaps}
        axis = AXES.get(config.sample.axes) if len(config.sample.size) == 2 else 2
        return audit(domains, size=config.sample.size, axis=axis, reading=reading, rows=rows, progress=progress)
    found = {target: _told({row.path: row for row in rows_in(target)}, None) for target in targets}
    return audit({target: (list(rows), None) for target, rows in found.items()}, rows=found, progress=progress)


def _told(rows: Mapping[Path, Row], pattern: str | None) -> dict[Path, Row]:
    """The rows with every scan's patient."""
    patients = patients_of(rows, pattern)
    return {path: replace(row, patient=patients[path]) for path, row in rows.items()}
