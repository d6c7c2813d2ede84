"""A DICOM series as a Volume, or a reason why not: positions, not names or order, decide where each slice goes.

Refused rather than guessed: several series, a missing slice (unless accepted), a doubled one, slices of mixed size,
orientation, spacing or frame of reference, images without a place in the patient, doses and segmentations, colour,
undecodable pixels, sizes that the file cannot hold. Straightened, and said so: a tilted gantry's sheared stack.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.io.dicom_decode import decode
from medcycle.io.dicom_file import Header, check_claim, quiet
from medcycle.io.dicom_kinds import screenshot
from medcycle.io.dicom_series import find_series
from medcycle.io.dicom_stack import Slice, Stack, Vector, check_alike, planes_at, stack
from medcycle.io.dicom_tilt import direction, straighten
from medcycle.io.files import LPS, unreadable
from medcycle.volume import Volume

_LARGEST = 1e6  # mm: no scanner's positions or spacings go beyond it
_AIR = -1000.0  # HU
_MARKS = {
    "FrameContentSequence": ("StackID", "TemporalPositionIndex"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRTimingAndRelatedParametersSequence": ("RepetitionTime", "FlipAngle"),
    "MRModifierSequence": ("InversionTimes",),
    "MRDiffusionSequence": ("DiffusionBValue", "DiffusionDirectionality"),
    "MRImageFrameTypeSequence": ("FrameType", "ComplexImageComponent"),
    "CTImageFrameTypeSequence": ("FrameType",),
    "CTReconstructionSequence": ("ConvolutionKernel",),
    "CTXRayDetailsSequence": ("KVP",),
    "CardiacSynchronizationSequence": ("NominalCardiacTriggerDelayTime",),
    "TemporalPositionSequence": ("TemporalPositionTimeOffset",),
}
"""Functional groups (PS3.3 C.7.6.16) and their attributes that tell two frames at one place from one another."""


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
        number between two planes for a slice off the even grid. A straightened scan's has "tilt", in degrees: its
        grid, which is wider than a slice, is not the slices' own.

    Raises:
        ScanError: for all that is listed at the top of this module, naming the file or series.
    """
    with quiet(), np.errstate(all="ignore"):  # absurd numbers overflow; the Volume refuses what is not finite
        headers, passed_over = find_series(path, series)
        slices = [one for header in headers for one in _slices(header)]
        check_alike(path, slices)
        stacked = stack(path, slices, resample_gaps=resample_gaps)
        slices = stacked.slices
        first = slices[0].header
        modality = first.text("Modality")
        unit = _unit(path, slices, modality, unit)
        source = {
            "path": str(path),
            "format": "dicom",
            "modality": modality,
            "series": first.text("SeriesInstanceUID"),
            "files": [str(one.header.path) for one in slices],
            "places": stacked.places.tolist(),
        }
        volume, straightened = _volume(path, stacked, unit, source)
    for said in (passed_over, stacked.gaps(), straightened):
        if said:
            warnings.warn(f"{path}: {said}", stacklevel=3)
    return volume


def _volume(path: Path, stacked: Stack, unit: str, source: dict[str, Any]) -> tuple[Volume, str]:
    """The Volume of a stack, and what was done about its tilt, in words ("" if it had none)."""
    affine, said = stacked.affine, ""
    try:
        array = _pixels(stacked.slices, invert=unit != "HU")
        if stacked.shifts is not None:
            air = _AIR if unit == "HU" else float(array.min())
            height = float(stacked.places[-1] * np.linalg.norm(affine[:3, 2]))
            angle, way = direction(stacked.shifts, affine, height)
            array, affine = straighten(array, stacked.shifts, affine, air)
            source = {**source, "tilt": angle}
            said = (
                f"the slices are sheared by a gantry tilt of {angle:.1f} degrees towards {way}; each was moved within "
                f"its plane, by linear interpolation, onto a right-angled grid of {array.shape[0]} x {array.shape[1]} "
                "pixels, with air around"
            )
        array = planes_at(array, stacked.places, np.arange(stacked.count, dtype=np.float64))
    except MemoryError as error:
        raise ScanError(
            f"{path}: {stacked.count} slices of {stacked.slices[0].header.text('Rows')} x "
            f"{stacked.slices[0].header.text('Columns')} pixels do not fit into the memory of this machine."
        ) from error
    return Volume(array[None], LPS @ affine, unit, source), said


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
    try:
        return _slices_of(header)
    except ScanError:
        raise
    except Exception as error:  # pydicom converts sequences late, and damaged ones raise many kinds
        raise unreadable(header.path, "DICOM", error) from error


def _slices_of(header: Header) -> list[Slice]:
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
        slices = [_slice(header, index, (frame, shared[0])) for index, frame in enumerate(frames)]
        _check_size(header, len(frames))
        return slices
    if count not in ("", "0", "1"):
        if not count.isdigit():
            raise ScanError(f"{header.path}: Number of Frames {count!r} is no number. Repair the file's header.")
        raise ScanError(
            f"{header.path}: {count} frames that say nothing of their places (no functional groups). Only enhanced "
            "multi-frame images can be read; export it as one file a slice, or a cine of one plane (ultrasound, say) "
            "as a video for `medcycle translate`."
        )
    slices = [_slice(header, 0, ())]
    _check_size(header, 1)
    return slices


def _check_size(header: Header, frames: int) -> None:
    """Refuse a size that is no whole number of pixels, or more of them than the file can hold."""
    size = [_numbers(header.data, keyword, 1) for keyword in ("Rows", "Columns", "BitsAllocated")]
    if any(value is None or value[0] != int(value[0]) or not 1 <= value[0] <= 65535 for value in size):
        wanted = ("Rows", "Columns", "BitsAllocated")
        found = ", ".join(f"{keyword} {header.text(keyword) or 'absent'}" for keyword in wanted)
        raise ScanError(f"{header.path}: {found} give no size of an image. Repair the file's header.")
    rows, columns, bits = (int(value[0]) for value in size if value is not None)
    check_claim(header.path, header.meta("TransferSyntaxUID"), rows * columns * frames * bits // 8)


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
        kind = "a secondary capture" if screenshot(header) else "an image"
        raise ScanError(
            f"{header.path}: {kind} with no usable {', '.join(lacking)}, so it has no place in the patient. Give the "
            "original series, or export it as PNG and use modality: image."
        )
    if max(abs(position).max(), between.max()) > _LARGEST:
        raise ScanError(
            f"{header.path}: Image Position {position.tolist()} and Pixel Spacing {between.tolist()} lie beyond "
            f"{_LARGEST:.0f} mm. Repair the file's geometry."
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
        _marks(groups),
    )


def _marks(groups: tuple[Any, ...]) -> dict[str, str]:
    """What a frame's groups say that may tell it from another frame at the same place."""
    found: dict[str, str] = {}
    for sequence, keywords in _MARKS.items():
        item: Any = next((group[sequence][0] for group in groups if group.get(sequence)), {})
        found |= {keyword: str(item.get(keyword)) for keyword in keywords if item.get(keyword) is not None}
    return found


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
    files: dict[Path, dict[int, int]] = {}
    for number, one in enumerate(slices):
        files.setdefault(one.header.path, {})[one.frame] = number
    for path, members in files.items():
        found = 0
        for frame in decode(path, invert=invert):
            k = members.get(found)
            found += 1
            if frame.shape != (rows, columns) or k is None:
                raise ScanError(
                    f"{path}: frame {found} has {' x '.join(map(str, frame.shape))} pixels, but its header describes "
                    f"{len(members)} frame(s) of {rows} x {columns}"
                )
            array[:, :, k] = (frame * slices[k].slope + slices[k].intercept).T
        if found != len(members):
            raise ScanError(f"{path}: {found} frames of pixels, but its header describes {len(members)}")
    return array
