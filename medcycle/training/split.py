"""Which scans there are, whose they are, and on which side of the split: to train on, to validate, to test."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from medcycle.config import Config, Domain
from medcycle.errors import ConfigError, ScanError
from medcycle.io import find_scans, patient_of, scan_name
from medcycle.io.manifest import PairRow, Row, read_manifest, read_pairs, there

Rows = dict[str, dict[Path, Row]]


@dataclass(frozen=True)
class ListedPair:
    """A registered pair as the configuration names it.

    Attributes:
        a, b: the scan of either domain.
        patients: the names that its scans' patient has, in the table of pairs and in either domain.
        measured: whether it is one of `pairs.validation`.
        where: file and line, or key, for messages.
    """

    a: Path
    b: Path
    patients: frozenset[str]
    measured: bool
    where: str


def scans_and_sides(config: Config) -> tuple[Rows, list[tuple[ListedPair, str]], dict[str, dict[Path, str]]]:
    """The scans of each domain, the registered pairs with their sides ("train", "val", "test"), the sides of the scans.

    A pair is on the side of its patient, under whichever name; of a patient who is in neither domain it is to train on.

    Raises:
        ConfigError: see :func:`rows_of`, :func:`listed_pairs`, :func:`split`.
    """
    rows = {key: rows_of(getattr(config.domains, key), key) for key in ("a", "b")}
    pairs = listed_pairs(config, rows)
    kept_out = {patient for pair in pairs if pair.measured for patient in pair.patients}
    sides = split(rows, config, kept_out)
    known = {key: patients_of(found, getattr(config.domains, key).patient) for key, found in rows.items()}
    side_of = {known[key][path]: side for key, found in sides.items() for path, side in found.items()}

    def side(pair: ListedPair) -> str:
        of_patient = {side_of.get(patient, "train") for patient in pair.patients} | (
            {"val"} if pair.measured else set()
        )
        return next(side for side in ("test", "val", "train") if side in of_patient)

    return rows, [(pair, side(pair)) for pair in pairs], sides


def listed_pairs(config: Config, rows: Mapping[str, Mapping[Path, Row]]) -> list[ListedPair]:
    """What `pairs.path` and `pairs.validation` name.

    Raises:
        ConfigError: a table cannot be read, a scan is not there, or its patient cannot be told; names the key.
    """
    if config.pairs is None:
        return []
    names = config.domains.a.name, config.domains.b.name
    found: list[tuple[PairRow, bool]] = []
    for key, given in (("path", config.pairs.path), ("validation", config.pairs.validation)):
        try:
            if isinstance(given, str):
                found += [(row, key == "validation") for row in read_pairs(Path(given), names)]
            else:
                where = f"pairs.{key}"
                listed = [PairRow(there(Path(a), where), there(Path(b), where), where=where) for a, b in given or ()]
                found += [(row, key == "validation") for row in listed]
        except ScanError as error:
            raise ConfigError(f"pairs.{key}: {error}" if isinstance(given, str) else str(error)) from None
    scans: dict[str, list[Path]] = {}
    patients: list[set[str]] = [{row.patient} if row.patient else set() for row, _ in found]
    for key in ("a", "b"):
        domain: Domain = getattr(config.domains, key)
        own = {path.resolve(): path for path in rows[key]}
        scans[key] = [own.get(path.resolve(), path) for path in (getattr(row, key) for row, _ in found)]
        others = {path: Row(path, row.patient) for path, (row, _) in zip(scans[key], found, strict=True)}
        try:
            whose = patients_of(others, domain.patient, like=rows[key]) | patients_of(rows[key], domain.patient)
        except ScanError as error:
            raise ConfigError(f"pairs: {error}. A table of pairs may have a column `patient`.") from None
        for known, path in zip(patients, scans[key], strict=True):
            known.add(whose[path])
    return [
        ListedPair(a, b, frozenset(known), measured, row.where)
        for (row, measured), known, a, b in zip(found, patients, scans["a"], scans["b"], strict=True)
    ]


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


def split(
    rows: Mapping[str, Mapping[Path, Row]], config: Config, kept_out: Set[str] = frozenset()
) -> dict[str, dict[Path, str]]:
    """The side of each domain's scans, "train", "val" or "test": a patient is on the same side in both domains.

    What manifests say comes first. If they name nobody for "val", a share of the rest is drawn at random, never so many
    that a domain is left empty.

    Args:
        rows: the scans of each domain.
        config: the share to hold out, and how patients are found.
        kept_out: patients to hold out in any case, of `pairs.validation`.

    Raises:
        ConfigError: manifests put one patient on two sides, or one of `kept_out` into training, or nothing is left to
            train on.
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
    for patient, row in said.items():
        if row.split == "train" and patient in kept_out:
            raise ConfigError(
                f"{row.where}: split train, but pairs.validation names the same patient, to be held out. Take one back."
            )
    held_out = {patient for patient, row in said.items() if row.split == "val"}
    if not held_out:
        named = said.keys() | kept_out
        free = {key: {p for p in found.values() if p not in named} for key, found in patients.items()}
        held_out = _drawn(free, config)
    held_out |= kept_out
    sides: dict[str, dict[Path, str]] = {}
    for key, whose in patients.items():
        tested = {patient for patient, row in said.items() if row.split == "test"}
        sides[key] = {p: "test" if who in tested else "val" if who in held_out else "train" for p, who in whose.items()}
        if "train" not in sides[key].values():
            if kept_out >= set(whose.values()):
                raise ConfigError(f"pairs.validation: holds out every patient of domain {key}; add scans of others")
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


def patients_of(rows: Mapping[Path, Row], pattern: str | None, like: Collection[Path] = ()) -> dict[Path, str]:
    """The patient of every scan; where files of one name lie in many folders (p01/T1.nii.gz), the folder's name.

    Where that is so of the scans in `like`, it is of these.
    """
    if pattern is None and (_named_by_folder(rows) or _named_by_folder(like)):
        return {path: row.patient or path.parent.name for path, row in rows.items()}
    return {path: row.patient or _patient_of(path, pattern) for path, row in rows.items()}


def _named_by_folder(paths: Collection[Path]) -> bool:
    return len({scan_name(path) for path in paths}) < len(paths) and all(path.is_file() for path in paths)


def _patient_of(path: Path, pattern: str | None) -> str:
    try:
        return patient_of(path, pattern)
    except ScanError:
        if pattern is not None:
            raise
        return scan_name(path)  # its header cannot be read; preparing it will say so
