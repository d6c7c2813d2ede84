"""Files <-> Volume: one function reads every format, one writes every format, one finds the scans."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from medcycle.errors import ScanError
from medcycle.io.dicom_read import read_dicom
from medcycle.io.dicom_series import is_dicom
from medcycle.io.dicom_write import write_dicom_series
from medcycle.io.files import unreadable
from medcycle.io.find import ITK, NIFTI, PICTURES, SUFFIXES, VIDEOS, find_scans, patient_of, scan_name, suffix_of
from medcycle.io.image import read_image, write_image
from medcycle.io.itk import from_sitk, read_itk, to_sitk, write_itk
from medcycle.io.itk_frames import open_itk_recording, write_itk_recording
from medcycle.io.nifti import from_nibabel, read_nifti, to_nibabel, write_nifti
from medcycle.io.nifti_frames import open_nifti_recording, write_nifti_recording
from medcycle.io.recording import Recording
from medcycle.volume import UNITS, Volume

__all__ = [
    "SUFFIXES",
    "find_scans",
    "from_nibabel",
    "from_sitk",
    "open_recording",
    "patient_of",
    "read_volume",
    "scan_name",
    "to_nibabel",
    "to_sitk",
    "write_dicom_series",
    "write_recording",
    "write_volume",
]


def read_volume(
    path: str | Path, *, unit: str | None = None, series: str | None = None, resample_gaps: bool = False
) -> Volume:
    """Read a scan: .nii, .nii.gz, .mha, .mhd, .nrrd, .nhdr, a picture, a DICOM file, or a folder of one DICOM series.

    Args:
        path: the file or folder.
        unit: what the caller knows of the values: "HU" for CT. DICOM CT is in HU by itself and pictures are "uint8"
            or "uint16"; all else is "a.u." unless told.
        series: which series of a DICOM folder that holds several: its number, description, or the end of its UID.
        resample_gaps: accept DICOM series with missing or unevenly spaced slices, with a warning: they are interpolated
            onto an even grid. Writing DICOM like this scan leaves the missing slices out again. Nothing to other files.

    Raises:
        ScanError: missing, damaged, foreign, incomplete or inconsistent, or not in the unit asked for.
    """
    path = Path(path)
    if unit is not None and unit not in UNITS:
        raise ScanError(f"{path}: unit {unit!r}; allowed are {', '.join(UNITS)}")
    try:
        exists, usable = path.exists(), path.is_file() or path.is_dir()
    except OSError as error:  # a folder that must not be entered, a name too long
        raise unreadable(path, "a scan", error) from error
    if not usable:
        what = "is neither a file nor a folder, but a pipe, socket or device" if exists else "no such file or folder"
        raise ScanError(f"{path}: {what}")
    suffix = suffix_of(path)
    if suffix in VIDEOS and not path.is_dir():
        raise ScanError(
            f"{path}: a video is no scan. `medcycle translate` takes it; for training, write its frames as pictures."
        )
    if path.is_dir() or (suffix not in (*NIFTI, *ITK, *PICTURES) and (suffix or is_dicom(path))):
        return read_dicom(path, unit, series, resample_gaps=resample_gaps)
    if series is not None:
        raise ScanError(f"{path}: series {series!r} was asked for, but this is no folder of DICOM series")
    if suffix in NIFTI:
        return read_nifti(path, unit)
    if suffix in ITK:
        return read_itk(path, unit)
    if suffix in PICTURES:
        return read_image(path, unit)
    raise ScanError(f"{path}: no scan that can be read; known are {', '.join(SUFFIXES)} and DICOM files")


def write_volume(volume: Volume, path: str | Path, *, like: Volume | None = None, description: str = "") -> Path:
    """Write a scan in the format that the name asks for; the file (or folder) appears whole or not at all.

    .nii .nii.gz .mha .mhd .nrrd .nhdr hold any Volume (HU as int16, "a.u." as float32, pictures as they are); .png
    .tif .bmp hold pictures; a name without an ending, with a trailing slash, or an existing folder becomes a DICOM
    series: CT for HU, MR for "a.u.".

    Args:
        volume: what to write.
        path: where to; folders above it are made.
        like: for DICOM: the scan it was made from, read from DICOM, whose patient, study and place it keeps.
        description: for DICOM: what the series is.

    Returns:
        The path written.

    Raises:
        ScanError: a name of no known format, values the format cannot hold, or no way to write there.
    """
    text = os.fspath(path)
    path = Path(text)
    suffix = suffix_of(path)
    if text.endswith(("/", os.sep)) or path.is_dir() or not path.suffix:
        return write_dicom_series(volume, path, like=like, description=description)
    if suffix in NIFTI:
        return write_nifti(volume, path)
    if suffix in ITK:
        return write_itk(volume, path)
    if suffix in PICTURES:
        return write_image(volume, path)
    writable = ", ".join((*NIFTI, *ITK, ".png", ".tif", ".bmp"))
    raise ScanError(
        f"{path}: no format to write is named {path.suffix!r}; write {writable}, or a folder (a name with a trailing "
        "slash) for a DICOM series"
    )


def open_recording(path: str | Path, *, unit: str | None = None) -> Recording | None:
    """The recording that a 4D file (.nii, .nii.gz, .mha, .mhd, .nrrd, .nhdr) holds; None for every other file.

    Only the header is read. A damaged file gives None too: :func:`read_volume` says what is wrong with it.

    Args:
        path: the file.
        unit: what the caller knows of the values, as for :func:`read_volume`.
    """
    path = Path(path)
    if not path.is_file():
        return None
    if suffix_of(path) in NIFTI:
        return open_nifti_recording(path, unit)
    return open_itk_recording(path, unit) if suffix_of(path) in ITK else None


def write_recording(frames: Iterable[Volume], path: str | Path, like: Recording) -> Path:
    """Write frames as one 4D file, one frame at a time; it appears whole or not at all.

    Args:
        frames: `like.count` volumes on its grid.
        path: .nii, .nii.gz, .mha, .mhd, .nrrd or .nhdr.
        like: whose place and times the frames have; in a file of the same format they are exactly these.

    Raises:
        ScanError: another ending, frames of different grids, or no way to write there.
    """
    path = Path(path)
    if suffix_of(path) in NIFTI:
        return write_nifti_recording(frames, path, like)
    if suffix_of(path) in ITK:
        return write_itk_recording(frames, path, like)
    raise ScanError(
        f"{path}: a recording of {like.count} volumes ({like.path}) goes into one file of {', '.join((*NIFTI, *ITK))}"
    )
