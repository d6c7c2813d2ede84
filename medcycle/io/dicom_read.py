"""A DICOM series as a Volume, or a reason why not: positions, not names or order, decide where each slice goes.

Refused rather than guessed: several series, a missing slice (unless accepted), a doubled one, slices of mixed size,
orientation, spacing or frame of reference, gantry tilt (sheared stacks), images without a place in the patient, colour,
undecodable pixels.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.io.dicom_series import Header, series_headers
from medcycle.io.dicom_stack import Slice, Vector, check_alike, planes_at, stack
from medcycle.io.files import LPS, unreadable
from medcycle.volume import Volume


def read_dicom(
    path: Path, unit: str | None = None, series: str | None = None, *, resample_gaps: bool = False
) -> Volume:
    """Read a DICOM file (one slice, or enhanced multi-frame) or a folder that holds one series.

    Args:
        path: the file or folder.
        unit: "HU" demands a series in HU, "a.u." takes it as it is; None: HU for CT with a rescale, else "a.u.".
        series: which series, where the folder holds several (number, description, or end of the UID).
        resample_gaps: accept missing or unevenly spaced slices, with a warning: the planes of an even grid of the usual
            (median) step on which no slice lies are interpolated linearly along the normal.

    Returns:
        A Volume of shape (1, columns, rows, slices), slices along the right-handed normal. Its source has "path",
        "format", "modality", "series" (the UID), "files", one for each acquired slice (the same one again for frames),
        and "places", where along the third axis each of them lies: 0.0, 1.0, 2.0, ... without the missing ones; a
        number between two planes for a slice off the even grid.

    Raises:
        ScanError: for all that is listed at the top of this module, naming the file or series.
    """
    headers = series_headers(path, series)
    slices = [one for header in headers for one in _slices(header)]
    check_alike(path, slices)
    stacked = stack(path, slices, resample_gaps=resample_gaps)
    slices = stacked.slices
    first = slices[0].header
    modality = first.text("Modality")
    unit = _unit(path, slices, modality, unit)
    array = planes_at(_pixels(slices, invert=unit != "HU"), stacked.places, np.arange(stacked.count, dtype=np.float64))
    if gaps := stacked.gaps():
        warnings.warn(f"{path}: {gaps}", stacklevel=3)
    source = {
        "path": str(path),
        "format": "dicom",
        "modality": modality,
        "series": first.text("SeriesInstanceUID"),
        "files": [str(one.header.path) for one in slices],
        "places": stacked.places.tolist(),
    }
    return Volume(array[None], LPS @ stacked.affine, unit, source)


# --- What the headers say ---------------------------------------------------------------------------------------------


def _numbers(data: Any, keyword: str, count: int) -> Vector | None:
    """The `count` finite numbers of an attribute, or None if it is absent, empty, or not that."""
    try:
        value = np.array(data.get(keyword), dtype=np.float64).reshape(-1)
    except Exception:  # pydicom converts values late, and damaged ones raise many kinds
        return None
    return value if value.shape == (count,) and np.isfinite(value).all() else None


def _slices(header: Header) -> list[Slice]:
    """The slices in one file: one, or the frames of an enhanced image."""
    data = header.data
    if header.text("SamplesPerPixel") not in ("1", "") or header.text("PhotometricInterpretation") == "PALETTE COLOR":
        raise ScanError(
            f"{header.path}: a colour image ({header.text('PhotometricInterpretation')}); one value a pixel was "
            "expected. Export it as PNG and use modality: image."
        )
    frames = data.get("PerFrameFunctionalGroupsSequence")
    count = header.text("NumberOfFrames")
    if frames:
        if count != str(len(frames)):
            raise ScanError(f"{header.path}: says it has {count or 'no'} frames, but describes {len(frames)}")
        shared = data.get("SharedFunctionalGroupsSequence") or [{}]
        return [_slice(header, index, (frame, shared[0])) for index, frame in enumerate(frames)]
    if count not in ("", "0", "1"):
        raise ScanError(
            f"{header.path}: {count} frames that say nothing of their places (no functional groups). Only enhanced "
            "multi-frame images can be read; export it as one file a slice, or a cine of one plane (ultrasound, say) "
            "as a video for `medcycle translate`."
        )
    return [_slice(header, 0, ())]


def _slice(header: Header, frame: int, groups: tuple[Any, ...]) -> Slice:
    """One slice from its functional groups (frame's own, then shared), or from the top of the data set."""

    def place(sequence: str) -> Any:
        found = next((group[sequence][0] for group in groups if group.get(sequence)), None)
        return header.data if found is None else found

    position = _numbers(place("PlanePositionSequence"), "ImagePositionPatient", 3)
    directions = _numbers(place("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    measures = place("PixelMeasuresSequence")
    between = _numbers(measures, "PixelSpacing", 2)  # mm between rows, mm between columns
    if position is None or directions is None or between is None:
        wanted = {"Image Position (Patient)": position, "Image Orientation (Patient)": directions}
        lacking = [name for name, value in {**wanted, "Pixel Spacing": between}.items() if value is None]
        raise ScanError(
            f"{header.path}: no usable {', '.join(lacking)}, so the image has no place in the patient. Give the "
            "original series, or export it as PNG and use modality: image."
        )
    axes = directions.reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if abs(lengths - 1).max() > 0.01 or abs(axes[0] @ axes[1]) > 0.01 or between.min() <= 0:
        raise ScanError(
            f"{header.path}: Image Orientation {directions.tolist()} with Pixel Spacing {between.tolist()} is no plane "
            "of unit directions at right angles with positive spacing. Repair the file's geometry."
        )
    values = place("PixelValueTransformationSequence")
    slope, intercept = _numbers(values, "RescaleSlope", 1), _numbers(values, "RescaleIntercept", 1)
    if (slope is None) != (intercept is None) or (slope is not None and slope[0] == 0):
        raise ScanError(f"{header.path}: Rescale Slope and Rescale Intercept are not a pair of usable numbers")
    thickness = _numbers(measures, "SpacingBetweenSlices", 1)
    thickness = thickness if thickness is not None else _numbers(measures, "SliceThickness", 1)
    kind = str(values.get("RescaleType") or "").strip().upper()
    return Slice(
        header,
        frame,
        position,
        axes / lengths[:, None],
        between[::-1],
        float(abs(thickness[0])) if thickness is not None and thickness[0] else 1.0,
        1.0 if slope is None else float(slope[0]),
        0.0 if intercept is None else float(intercept[0]),
        kind if slope is not None else "-",
    )


# --- What the slices hold ---------------------------------------------------------------------------------------------


def _unit(path: Path, slices: list[Slice], modality: str, asked: str | None) -> str:
    """The Volume's unit: what is asked for, if the headers bear it out."""
    rescale = slices[0].rescale
    hounsfield = rescale == "HU" or (
        modality == "CT" and rescale == ""
    )  # CT without a Rescale Type is in HU (PS3.3 C.8.2.1)
    if asked == "HU" and not hounsfield:
        raise ScanError(
            f"{path}: HU asked for, but the series is not in HU: Modality {modality or 'unknown'}, Rescale Type "
            f"{'absent, no rescale' if rescale == '-' else rescale or 'absent'}. Use modality: mr for an MR."
        )
    if asked in ("uint8", "uint16"):
        raise ScanError(f"{path}: a DICOM series cannot be read as {asked}. Use modality: ct or modality: mr.")
    return asked or ("HU" if hounsfield else "a.u.")


def _pixels(slices: list[Slice], *, invert: bool) -> npt.NDArray[np.float32]:
    """The real values (columns, rows, slices); a MONOCHROME1 image is turned to bright-is-high if `invert`."""
    rows, columns = (int(slices[0].header.data[keyword].value) for keyword in ("Rows", "Columns"))
    array = np.empty((columns, rows, len(slices)), dtype=np.float32)
    files: dict[Path, list[tuple[int, Slice]]] = {}
    for k, one in enumerate(slices):
        files.setdefault(one.header.path, []).append((k, one))
    for path, members in files.items():
        frames = _decode(path, invert=invert)
        for k, one in members:
            if one.frame >= len(frames) or frames.shape[1:] != (rows, columns):
                raise ScanError(
                    f"{path}: {len(frames)} frames of {frames.shape[1:]} pixels, but its header describes frame "
                    f"{one.frame + 1} and {rows} x {columns} pixels"
                )
            array[:, :, k] = (frames[one.frame] * one.slope + one.intercept).T
    return array


def _decode(path: Path, *, invert: bool) -> npt.NDArray[np.float64]:
    """The stored values (frames, rows, columns) of one file, through its modality lookup table if it has one."""
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut
    from pydicom.uid import UID

    syntax = "unknown syntax"
    try:
        data = pydicom.dcmread(path, force=True)
        if not any(keyword in data for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise ScanError(f"{path}: an image without pixel data. Fetch the file again.")
        if "TransferSyntaxUID" not in data.file_meta:  # a file without preamble says it only by how it is written
            implicit, little = data.original_encoding
            data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2" + ("" if implicit else ".1" if little else ".2"))
        syntax = str(UID(data.file_meta.TransferSyntaxUID).name)
        stored = data.pixel_array
        if invert and data.get("PhotometricInterpretation") == "MONOCHROME1":
            top = (1 << int(data.BitsStored)) - 1 if int(data.PixelRepresentation) == 0 else -1
            stored = top - stored.astype(np.float64)
        if data.get("ModalityLUTSequence"):
            stored = apply_modality_lut(stored, data)
    except ScanError:
        raise
    except Exception as error:  # each decoder raises its own kinds
        raise unreadable(path, f"DICOM pixels ({syntax})", error) from error
    values = np.asarray(stored, dtype=np.float64)
    return values if values.ndim == 3 else values[None]
