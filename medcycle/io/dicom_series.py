"""Which DICOM files make up one series: finding them, reading their headers, and choosing among several series."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcycle.errors import ScanError
from medcycle.io.files import unreadable

SUFFIXES = (".dcm", ".dicom", ".ima")
"""Endings that promise a DICOM file; DICOM files may as well have any other ending, or none."""

_LISTED = 20  # series named in one message


@dataclass(frozen=True)
class Header:
    """A DICOM file and its data set without pixels."""

    path: Path
    data: Any

    def text(self, keyword: str) -> str:
        """An attribute as text, "" if absent or empty."""
        try:
            value = self.data.get(keyword)
        except Exception:  # pydicom converts values late, and damaged ones raise many kinds
            value = None
        return "" if value is None else str(value).strip()


def is_dicom(path: Path) -> bool:
    """Whether the file's first bytes look like DICOM, with the preamble or (old files) without.

    A DICOMDIR, which only lists files, does not count; nor does a file that cannot be opened.
    """
    if path.name.upper() == "DICOMDIR":
        return False
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
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


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files directly in a folder: those that look so, and those whose ending promises it. Sorted by name."""
    try:
        names = sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file())
    except OSError as error:
        raise unreadable(folder, "a folder", error) from error
    return [file for file in names if file.suffix.lower() in SUFFIXES or is_dicom(file)]


def read_header(path: Path) -> Header:
    """Read a DICOM file up to its pixels.

    Raises:
        ScanError: if it is not DICOM or damaged.
    """
    import pydicom

    try:
        if not path.is_file():
            raise FileNotFoundError(path)
        if not is_dicom(path):
            raise ValueError("no DICOM preamble and no data set where one should begin")
        return Header(path, pydicom.dcmread(path, stop_before_pixels=True, force=True))
    except Exception as error:  # pydicom raises many kinds for damaged bytes
        raise unreadable(path, "DICOM", error) from error


def series_headers(path: Path, series: str | None = None) -> list[Header]:
    """The headers of the images of one series, localizers and non-images (reports, structures) left out.

    Args:
        path: a DICOM file, which is taken as it is, or a folder, whose direct files are looked at.
        series: where a folder holds several: the number, description, or (end of the) UID of the one wanted.

    Raises:
        ScanError: no DICOM files, no images, several series and none chosen, or a file that cannot be read.
    """
    files = dicom_files(path) if path.is_dir() else [path]
    if not files:
        raise ScanError(f"{path}: no DICOM files directly in this folder{_elsewhere(path)}")
    headers = [read_header(file) for file in files]
    images = [header for header in headers if header.data.get("Rows") and header.data.get("Columns")]
    if not images:
        kinds = sorted({header.text("Modality") or "unknown" for header in headers})
        raise ScanError(
            f"{path}: {len(headers)} DICOM files without an image (modality {', '.join(kinds)}). Give the series that "
            "holds the slices."
        )
    scans = [header for header in images if "LOCALIZER" not in header.text("ImageType").upper()]
    if not scans:
        raise ScanError(f"{path}: only localizers (ImageType LOCALIZER), {len(images)} of them, and no scan")
    return _choose(path, scans, series)


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
