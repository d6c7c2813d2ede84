"""From what a user points at (file, folder, glob, CSV) to a list of scans, their names and their patients."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from medcycle.errors import ScanError
from medcycle.io import dicom_series
from medcycle.io.dicom_series import dicom_files, is_dicom, is_directory, read_header
from medcycle.io.files import unreadable
from medcycle.io.manifest import read_manifest

NIFTI = (".nii", ".nii.gz")
ITK = (".mha", ".mhd", ".nrrd", ".nhdr")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif")
SUFFIXES = (*NIFTI, *ITK, *PICTURES, *dicom_series.SUFFIXES)
"""Endings of the files that can be read (DICOM files may have any or none)."""

_NOT_SCANS = (".txt", ".md", ".json", ".csv", ".tsv", ".yaml", ".xml", ".html", ".pdf", ".log", ".zip", ".gz", ".raw")
"""Common endings that need no look inside to know that they are no DICOM file."""


def suffix_of(path: str | Path) -> str:
    """The known ending of a file name in lower case (".nii.gz" counts as one; also a video's), or ""."""
    name = Path(path).name.lower()
    return max(
        (suffix for suffix in (*SUFFIXES, *VIDEOS) if name.endswith(suffix) and name != suffix), key=len, default=""
    )


def scan_name(path: str | Path) -> str:
    """A scan's name: its file name without the ending, or the name of its DICOM folder."""
    path = Path(path)
    name = path.name or path.resolve().name
    return name if path.is_dir() else name[: len(name) - len(suffix_of(path))]


def find_scans(path: str | Path, *, videos: bool = False) -> list[Path]:
    """The scans that `path` stands for, in natural order (head2 before head10).

    - a file: that file; a DICOMDIR: the folder it lies in, as below (its records are not followed, so that nothing
      outside is read); a .csv: the files or folders in its column `path`, relative to the CSV, in order;
    - a folder, searched through: every readable file, and every folder that directly holds DICOM files, as one scan;
    - a pattern with `*`, `?`, `[...]` or `**`: the files and folders it matches; DICOM files as their folder.

    Hidden files and files of other kinds (.txt, .json, ...) are passed over, and so are pictures beside DICOM slices
    (exports put thumbnails there), and videos unless `videos` asks for them, too.

    Raises:
        ScanError: nothing there, nothing found, a wrong CSV, or NIfTI (or MHA, NRRD) and DICOM mixed in one folder.
    """
    text = os.fspath(path)
    path = Path(text)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # a folder that must not be entered, a name too long
        raise unreadable(path, "a scan", error) from error
    if is_folder:
        found = _in_folder(path, videos)
        looked = "NIfTI, MHA, NRRD, PNG, JPEG, TIFF, BMP files or folders of DICOM files"
        if not found:
            raise ScanError(f"{path}: no scans in this folder; looked through it for {looked}")
        return sorted(set(found), key=_natural)
    if is_file:
        if path.suffix.lower() == ".csv":
            return [row.path for row in read_manifest(path)]
        if is_directory(path):
            return find_scans(path.parent, videos=videos)
        if not (suffix_of(path) or is_dicom(path)):
            raise ScanError(f"{path}: no scan that can be read; known are {', '.join(SUFFIXES)} and DICOM files")
        return [path]
    if glob.has_magic(text):
        found = _in_pattern(text, videos)
        if not found:
            raise ScanError(f"{text}: no file or folder of scans matches this pattern (seen from {Path.cwd()})")
        return sorted(set(found), key=_natural)
    raise ScanError(f"{path}: no such file or folder (seen from {Path.cwd()})")


def _natural(path: Path) -> list[list[tuple[int, int, str]]]:
    """A sorting key by which the numbers in names count as numbers."""
    return [
        [
            (0, int(piece), "") if piece.isdigit() else (1, 0, piece)
            for piece in re.split(r"([0-9]+)", part.lower())
            if piece
        ]
        for part in path.parts
    ]


def _in_folder(folder: Path, videos: bool) -> list[Path]:
    found = [scan for parent, names in _walk(folder, set()) for scan in _in_one_folder(parent, names, videos)]
    _warn_of_parts(found)
    return found


def _warn_of_parts(scans: list[Path]) -> None:
    """Warn of a DICOM series whose slices lie in several folders, or that is there twice: each folder is a scan."""
    folders: dict[str, list[Path]] = {}
    for scan in (scan for scan in scans if scan.is_dir()):
        first = next((f for f in sorted(scan.iterdir()) if not f.name.startswith(".") and is_dicom(f)), None)
        try:
            uid = read_header(first).text("SeriesInstanceUID") if first is not None else ""
        except ScanError:
            continue  # reading it will tell
        folders.setdefault(uid, []).append(scan)
    for uid, parts in folders.items():
        if uid and len(parts) > 1:
            named = ", ".join(map(str, parts[:3])) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")
            warnings.warn(
                f"{named}: one DICOM series lies in these folders, as parts or copies, and each folder is taken for a "
                "scan of its own. Put parts into one folder; remove copies.",
                stacklevel=2,
            )


def _walk(top: Path, seen: set[Path]) -> Iterator[tuple[Path, list[str]]]:
    """Every folder from `top` down that is not hidden, with its files' names.

    Links are followed, after all else, and no folder comes twice: a link to a folder above itself is a loop.

    Args:
        top: where to begin.
        seen: the real paths of the folders that have come already; added to.
    """
    links: list[Path] = []
    for parent, folders, names in os.walk(top, onerror=_passed_over):
        here = Path(parent)
        real = here.resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links += [here / name for name in folders if (here / name).is_symlink()]
        yield here, names
    for link in links:
        yield from _walk(link, seen)


def _passed_over(error: OSError) -> None:
    if isinstance(error, FileNotFoundError | NotADirectoryError):  # a pattern's folder that is not there
        return
    warnings.warn(
        f"{error.filename}: cannot be looked through ({error.strerror}); scans in there are left out", stacklevel=2
    )


def _in_one_folder(folder: Path, names: Iterable[str], videos: bool) -> list[Path]:
    """The scans directly in a folder: its readable files, or the folder itself if it holds DICOM files."""
    files = [folder / name for name in sorted(names) if not name.startswith(".")]
    wanted = (*NIFTI, *ITK, *PICTURES, *(VIDEOS if videos else ()))
    scans = [file for file in files if suffix_of(file) in wanted]
    if not any(_is_dicom_by_name_or_content(file) for file in files):
        return scans
    volumes = [file.name for file in scans if suffix_of(file) in (*NIFTI, *ITK)]
    if volumes:
        raise ScanError(
            f"{folder}: holds DICOM files and {len(volumes)} other scans ({', '.join(volumes[:3])}), which may be "
            "the same images twice. Separate them, or give a pattern such as 'folder/**/*.nii.gz'."
        )
    return [folder]


def _is_dicom_by_name_or_content(file: Path) -> bool:
    if is_directory(file):
        return False
    suffix = suffix_of(file)
    if suffix:
        return suffix in dicom_series.SUFFIXES
    return file.suffix.lower() not in _NOT_SCANS and is_dicom(file)


def _in_pattern(pattern: str, videos: bool) -> list[Path]:
    found: list[Path] = []
    for path in _matches(pattern):
        if os.path.isdir(path):  # noqa: PTH112  Path.is_dir raises where a folder must not be entered
            # A pattern that ends in ** matches every folder below, each with its own files.
            found += (
                _in_one_folder(path, [file.name for file in path.iterdir()], videos)
                if pattern.endswith("**")
                else _in_folder(path, videos)
            )
        elif _is_dicom_by_name_or_content(path):
            found.append(path.parent)
        elif suffix_of(path) and (videos or suffix_of(path) not in VIDEOS):
            found.append(path)
    return found


def _matches(pattern: str) -> list[Path]:
    """What :func:`glob.glob` finds, but `**` goes through every real folder once, where glob runs round in loops."""
    before, *after = re.split(
        rf"(?:^|(?<=[/{re.escape(os.sep)}]))\*\*(?:[/{re.escape(os.sep)}]|$)", pattern, maxsplit=1
    )
    if not after:
        return [Path(match) for match in glob.glob(pattern)]  # noqa: PTH207  Path.glob refuses absolute patterns
    seen: set[Path] = set()
    tops = _matches(before) if glob.has_magic(before) else [Path(before)]
    folders = [folder for top in tops for folder, _ in _walk(top, seen)]
    if not after[0]:
        return folders
    return [path for folder in folders for path in _matches(os.path.join(glob.escape(str(folder)), after[0]))]  # noqa: PTH118


def patient_of(path: str | Path, pattern: str | None = None) -> str:
    """The patient a scan belongs to, so that a split can keep patients apart.

    Args:
        path: the scan.
        pattern: a regular expression with one group, searched in the path ("/" between folders); the group is the
            patient. Without it a DICOM scan's patient is a short hash of its Patient ID, any other's its scan name.

    Raises:
        ScanError: the pattern is wrong or does not match.
    """
    path = Path(path)
    if pattern is not None:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ScanError(f"patient pattern {pattern!r}: no regular expression ({error})") from error
        if compiled.groups != 1:
            raise ScanError(
                f"patient pattern {pattern!r}: has {compiled.groups} groups; put the patient into one (...)"
            )
        match = compiled.search(path.as_posix())
        if match is None or not match.group(1):
            raise ScanError(f"{path}: the patient pattern {pattern!r} does not match this path")
        return str(match.group(1))
    files = dicom_files(path)[:1] if path.is_dir() else [path] if _is_dicom_by_name_or_content(path) else []
    identity = read_header(files[0]).text("PatientID") if files else ""
    return hashlib.blake2b(identity.encode(), digest_size=6).hexdigest() if identity else scan_name(path)
