"""Which scans there are, whose they are, and on which side of the split: to train on, to validate, to test."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from medcycle.config import Config, Domain
from medcycle.errors import ConfigError, ScanError
from medcycle.io import find_scans, patient_of, scan_name
from medcycle.io.manifest import Row, read_manifest


def rows_of(domain: Domain, key: str) -> dict[Path, Row]:
    """The domain's scans, in natural order, with what a manifest says of them.

    Raises:
        ConfigError: none is found; names the key.
    """
    patterns = [domain.path] if isinstance(domain.path, str) else domain.path
    found: dict[Path, Row] = {}
    try:
        for row in (row for pattern in patterns for row in rows_in(pattern)):
            found.setdefault(row.path, row)
    except ScanError as error:
        raise ConfigError(f"domains.{key}.path: {error}") from None
    return found


def rows_in(pattern: str) -> list[Row]:
    """The lines of a CSV; the scans of a folder or pattern, of which nothing more is known.

    Raises:
        ScanError: as :func:`find_scans`.
    """
    path = Path(pattern)
    if path.suffix.lower() == ".csv" and path.is_file():
        return read_manifest(path)
    return [Row(found) for found in find_scans(pattern)]


def split(rows: Mapping[str, Mapping[Path, Row]], config: Config) -> dict[str, dict[Path, str]]:
    """The side of each domain's scans, "train", "val" or "test": a patient is on the same side in both domains.

    What manifests say comes first. If they name nobody for "val", a share of the rest is drawn at random, never so many
    that a domain is left empty.

    Raises:
        ConfigError: manifests put one patient on two sides, or nothing is left to train on.
    """
    patients = {key: patients_of(found, getattr(config.domains, key).patient) for key, found in rows.items()}
    said: dict[str, Row] = {}
    for key, found in rows.items():
        for path, row in found.items():
            before = said.setdefault(patients[key][path], row) if row.split else row
            if before.split != row.split:
                raise ConfigError(
                    f"{row.where}: split {row.split}, but {before.where} puts the same patient into {before.split}. "
                    "Scans of one patient must be on one side, in both domains."
                )
    held_out = {patient for patient, row in said.items() if row.split == "val"}
    if not held_out:
        free = {key: {p for p in found.values() if p not in said} for key, found in patients.items()}
        held_out = _drawn(free, config)
    sides: dict[str, dict[Path, str]] = {}
    for key, whose in patients.items():
        tested = {patient for patient, row in said.items() if row.split == "test"}
        sides[key] = {p: "test" if who in tested else "val" if who in held_out else "train" for p, who in whose.items()}
        if "train" not in sides[key].values():
            raise ConfigError(
                f"train.validation: holding out {config.train.validation:.0%} of the patients would leave domain "
                f"{key} without any; lower it or add scans"
                if not said
                else f"domains.{key}.path: no scan is left to train on: the split puts all into val or test"
            )
    return sides


def _drawn(patients: dict[str, set[str]], config: Config) -> set[str]:
    """Patients to hold out: a share of each domain's, the smaller domain's own, so that a large one cannot empty it."""
    everyone = sorted(set().union(*patients.values()))
    random.Random(config.train.seed).shuffle(everyone)
    held_out: set[str] = set()
    for found in patients.values():
        own = [patient for patient in everyone if patient in found]
        wanted = int(config.train.validation * len(own))
        already = sum(patient in held_out for patient in own)
        held_out |= set([p for p in own if p not in held_out][: max(0, wanted - already)])
    return held_out


def patients_of(rows: Mapping[Path, Row], pattern: str | None) -> dict[Path, str]:
    """The patient of every scan; where files of one name lie in many folders (p01/T1.nii.gz), the folder's name."""
    names = {scan_name(path) for path in rows}
    if pattern is None and len(names) < len(rows) and all(path.is_file() for path in rows):
        return {path: row.patient or path.parent.name for path, row in rows.items()}
    return {path: row.patient or _patient_of(path, pattern) for path, row in rows.items()}


def _patient_of(path: Path, pattern: str | None) -> str:
    try:
        return patient_of(path, pattern)
    except ScanError:
        if pattern is not None:
            raise
        return scan_name(path)  # its header cannot be read; preparing it will say so
