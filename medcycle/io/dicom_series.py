"""Which DICOM files make up one series: finding them, reading their headers, and choosing among several series."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from medcycle.errors import ScanError
from medcycle.io import dicom_kinds as kinds
from medcycle.io.dicom_file import Header, load
from medcycle.io.files import unreadable

SUFFIXES = (".dcm", ".dicom", ".ima")
"""Endings that promise a DICOM file; DICOM files may as well have any other ending, or none."""

_LISTED = 20  # series named in one message


class Series(NamedTuple):
    """The slices of one series, and what was passed over to find them (words, "" for nothing)."""

    headers: list[Header]
    passed_over: str


def is_dicom(path: Path) -> bool:
    """Whether the file's first bytes look like DICOM, with the preamble or (old files) without.

    What cannot be opened does not count, nor what is no regular file: to open a pipe is to wait for its writer.
    """
    try:
        return path.is_file() and _begins_so(path)
    except OSError:
        return False


def _begins_so(path: Path) -> bool:
    """As :func:`is_dicom`, for a regular file; OSError if it cannot be opened."""
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return True
    # No preamble: the data set begins with an element of group 0002 or 0008 with a low number, then either a VR of
    # two capitals or a length below 2^16.
    if len(start) < 8:
        return False
    order = "little" if start[0] in (2, 8) and start[1] == 0 else "big"
    group, element = (int.from_bytes(start[i : i + 2], order) for i in (0, 2))  # type: ignore[arg-type]
    if group not in (2, 8) or element > 0x0100:
        return False
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    return explicit or int.from_bytes(start[4:8], order) < 1 << 16  # type: ignore[arg-type]


def is_directory(path: Path) -> bool:
    """Whether the name is that of a DICOMDIR, the table of contents of a CD."""
    return path.name.upper() == "DICOMDIR"


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files directly in a folder, by name: those that look so, or whose ending promises it; no DICOMDIR.

    A file that must not be read counts too: passed over, it could be the slice that a scan then lacks.
    """
    try:
        names = sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file())
    except OSError as error:
        raise unreadable(folder, "a folder", error) from error
    return [file for file in names if not is_directory(file) and _may_be_slice(file)]


def _may_be_slice(file: Path) -> bool:
    try:
        return file.suffix.lower() in SUFFIXES or _begins_so(file)
    except PermissionError:
        return True
    except OSError:
        return False


def read_header(path: Path) -> Header:
    """Read a DICOM file up to its pixels.

    Raises:
        ScanError: if it is not DICOM or damaged.
    """
    try:
        if not path.is_file():
            raise FileNotFoundError(path)
        if not _begins_so(path):
            raise ValueError("no DICOM preamble and no data set where one should begin")
        return Header(path, load(path, pixels=False))
    except Exception as error:  # pydicom raises many kinds for damaged bytes
        raise unreadable(path, "DICOM", error) from error


def find_series(path: Path, series: str | None = None) -> Series:
    """The headers of the slices of one series; what else lies there is passed over.

    That is what holds no image (reports, structures), doses and segmentations, localizers, and, where other slices are
    left, screenshots and images that were computed from those slices.

    Args:
        path: a DICOM file, or a folder, whose direct files are looked at.
        series: where a folder holds several: the number, description, or (end of the) UID of the one wanted.

    Raises:
        ScanError: no DICOM files, no images, no scan, several series and none chosen, or a file that cannot be read.
    """
    files = dicom_files(path) if path.is_dir() else [path]
    if not files:
        raise ScanError(f"{path}: no DICOM files directly in this folder{_elsewhere(path)}")
    headers = [read_header(file) for file in files]
    passed: kinds.Passed = {}
    for kind in (kinds.no_image, kinds.no_scan, kinds.localizer):
        headers = kinds.sift(headers, kind, passed)
    if not headers:
        raise ScanError(
            f"{path}: no slices of a scan in {len(files)} DICOM file(s): {kinds.describe(passed)}. Give the file or "
            "folder of a series that holds slices."
        )
    headers = _unless_all(headers, kinds.screenshot, passed)
    headers = _choose(path, headers, series)
    for kind in (kinds.reformat, kinds.secondary):
        headers = _unless_all(headers, kind, passed)
    count = sum(len(members) for members in passed.values())
    said = f"{count} of {len(files)} DICOM files are no slices of the scan and were passed over: " if count else ""
    return Series(headers, said + kinds.describe(passed))


def _unless_all(headers: list[Header], kind: Callable[[Header], str], passed: kinds.Passed) -> list[Header]:
    """The headers without those of the kind, unless all are."""
    sifted: kinds.Passed = {}
    left = kinds.sift(headers, kind, sifted)
    if not left:
        return headers
    passed.update(sifted)
    return left


def _elsewhere(folder: Path) -> str:
    """What to give instead of a folder without DICOM files."""
    below = [child for child in sorted(folder.iterdir()) if child.is_dir() and dicom_files(child)]
    if below:
        return f"; give one of the folders in it that have some: {', '.join(child.name for child in below[:_LISTED])}"
    return ". Give a folder of DICOM slices, or a scan's file."


def _choose(path: Path, headers: list[Header], wanted: str | None) -> list[Header]:
    """The headers of the one series in the folder, or of the wanted one."""
    groups: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        groups[header.text("SeriesInstanceUID")].append(header)
    if wanted is None:
        chosen = list(groups)
        problem = f"{path}: holds {len(groups)} DICOM series, and a scan is one"
    else:
        chosen = [uid for uid, members in groups.items() if _matches(wanted.strip(), uid, members[0])]
        problem = f"{path}: {len(chosen) or 'no'} DICOM series match {wanted!r}"
    if len(chosen) == 1:
        return groups[chosen[0]]
    listing = [_describe(uid, members) for uid, members in groups.items()]
    more = [f"and {len(listing) - _LISTED} more"] if len(listing) > _LISTED else []
    raise ScanError(
        "\n  ".join(
            [
                f"{problem}. Choose one by its number, description or the end of its UID (--series, series=, or "
                "domains.a.series, domains.b.series of a configuration):",
                *sorted(listing)[:_LISTED],
                *more,
            ]
        )
    )


def _matches(wanted: str, uid: str, header: Header) -> bool:
    named = (header.text("SeriesNumber"), header.text("SeriesDescription").lower())
    return bool(wanted) and (wanted.lower() in named or uid == wanted or (len(wanted) >= 4 and uid.endswith(wanted)))


def _describe(uid: str, members: list[Header]) -> str:
    """One line on a series; nothing in it tells who the patient is."""
    first = members[0]
    return (
        f"number {first.text('SeriesNumber') or '-'}: {first.text('Modality') or '-'} "
        f"{first.text('SeriesDescription')!r}, {len(members)} files, UID ...{uid[-12:]}"
    )
