"""CSV tables: of scans, with what the files do not tell (patient, site, split, series); and of registered pairs."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medcycle.errors import ScanError
from medcycle.io.files import unreadable

COLUMNS = ("path", "patient", "site", "split", "series")
SPLITS = ("train", "val", "test")
LONGEST_SITE = 64


@dataclass(frozen=True)
class Row:
    """What a manifest says of one scan; None where it says nothing.

    Attributes:
        path: the scan.
        patient: who it is of: scans of one patient stay on one side of the split.
        site: where it was acquired.
        split: "train", "val" (held out) or "test" (left out of training and validation).
        series: which DICOM series of the folder.
        where: file and line, for messages.
    """

    path: Path
    patient: str | None = None
    site: str | None = None
    split: str | None = None
    series: str | None = None
    where: str = ""


@dataclass(frozen=True)
class PairRow:
    """Two registered scans of one patient.

    Attributes:
        a, b: of domains A and B.
        patient: who it is; None where nothing is said.
        where: file and line, or key, for messages.
    """

    a: Path
    b: Path
    patient: str | None = None
    where: str = ""


def read_manifest(table: Path) -> list[Row]:
    """The rows of a CSV file in UTF-8 with a column `path`, relative to the CSV; other columns may be missing.

    Lines without a path are passed over, and columns that mean nothing here are ignored with a warning.

    Raises:
        ScanError: naming the line that is wrong: a scan that is not there, listed twice with different words, or a
            split of another name.
    """
    found: dict[Path, Row] = {}
    for where, values in _lines(table, {name: name for name in COLUMNS}, ("path",)):
        if not values["path"]:
            continue
        row = _row(table, where, values)
        before = found.setdefault(row.path, row)
        odd = [name for name in COLUMNS if getattr(before, name) != getattr(row, name)]
        if odd:
            raise ScanError(
                f"{where}: the scan of line {before.where.rpartition(':')[2]} again, with another {' and '.join(odd)}. "
                "Keep one of the two lines (two series of one folder: put them into folders of their own)."
            )
    if not found:
        raise ScanError(f"{table}: no scans listed in its column 'path'")
    return list(found.values())


def read_pairs(table: Path, names: tuple[str, str]) -> list[PairRow]:
    """The rows of a CSV file in UTF-8 with a column of scans for each domain, relative to the CSV.

    Args:
        table: the file. Lines without scans are passed over; a column `patient` may be missing.
        names: of domains A and B; the columns are called so, or `a` and `b`.

    Raises:
        ScanError: naming the line that is wrong: one scan of the two missing, or not there.
    """
    found = []
    known = {"a": "a", "b": "b", "patient": "patient"} | {names[0]: "a", names[1]: "b"}
    for where, values in _lines(table, known, ("a", "b")):
        a, b = values["a"], values["b"]
        if bool(a) != bool(b):
            raise ScanError(f"{where}: names only one scan, {a or b}; a pair is two. Add the other or drop the line.")
        if a:
            first, second = (there(table.parent / scan, where) for scan in (a, b))
            found.append(PairRow(first, second, values["patient"] or None, where))
    if not found:
        raise ScanError(f"{table}: no pairs listed")
    return found


def there(path: Path, where: str) -> Path:
    """The path, if something lies there.

    Raises:
        ScanError: beginning with `where`: there is no such file or folder.
    """
    try:
        found = path.exists()
    except (OSError, ValueError):  # a name too long, or with a null byte
        found = False
    if not found:
        raise ScanError(f"{where}: no such file or folder: {path}")
    return path


def _row(table: Path, where: str, values: dict[str, str]) -> Row:
    path = there(table.parent / values["path"], where)
    split = values["split"].lower() or None
    split = {"validation": "val", "training": "train"}.get(split or "", split)
    if split not in (None, *SPLITS):
        raise ScanError(f"{where}: split {values['split']!r}; allowed are {', '.join(SPLITS)}, or nothing")
    site = "".join(c for c in values["site"] if c.isprintable())[:LONGEST_SITE]
    return Row(path, values["patient"] or None, site or None, split, values["series"] or None, where)


def _lines(table: Path, known: Mapping[str, str], needed: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """ "FILE:LINE" and the cells of each line, "" where one is missing.

    Args:
        table: the file.
        known: columns that mean something, and what each cell is called in the result.
        needed: what must be there.
    """
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(table, "a CSV in UTF-8", error) from error
    header = lines[0] if lines else ""
    rows = csv.DictReader(lines, delimiter=max(",;\t", key=header.count))
    try:
        columns = [name.strip() for name in rows.fieldnames or []]
    except csv.Error as error:
        raise ScanError(f"{table}:1: cannot be read as a CSV ({error})") from None
    for need in needed:
        if not any(known.get(name) == need for name in columns):
            names = " or ".join(repr(name) for name in known if known[name] == need)
            raise ScanError(
                f"{table}: no column {names} (its first line names {columns}). Name the column of files so."
            )
    unknown = [name for name in columns if name not in known]
    if unknown:
        warnings.warn(f"{table}: columns ignored: {', '.join(unknown)} (known are {', '.join(known)})", stacklevel=2)
    meant = [known.get(name, name) for name in columns]
    if len(set(meant)) < len(columns):
        raise ScanError(f"{table}: two columns of one name in its first line: {columns}")
    rows.fieldnames = meant
    try:
        for row in rows:
            if None in row:
                raise ScanError(
                    f"{table}:{rows.line_num}: more cells than the first line has columns. Put text that holds the "
                    'separator into "quotes".'
                )
            yield f"{table}:{rows.line_num}", {name: (row.get(name) or "").strip() for name in known.values()}
    except csv.Error as error:
        raise ScanError(f"{table}:{rows.line_num}: cannot be read as a CSV ({error})") from None
