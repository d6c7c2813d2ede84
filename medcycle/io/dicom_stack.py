"""Where the slices of one DICOM series lie: alike, complete and even, or a reason why not.

A gap or uneven steps are refused, or, if the caller accepts them, become places off the whole numbers of an even grid.
Slices that shift sideways as they rise (a tilted gantry) have that shift told; dicom_tilt takes it out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.io.dicom_file import Header

Vector = npt.NDArray[np.float64]

DIRECTION_TOLERANCE = 1e-3
"""Largest difference between the direction cosines of two slices of one stack (headers round them)."""
SAME_POSITION = 0.01
"""Slices less than this many mm apart along the normal are at the same place."""
STEP_TOLERANCE = 0.1
"""How far a slice may lie from its even place along the normal, as a share of the step (headers round positions)."""
SHIFT_TOLERANCE = (0.1, 0.002)
"""How far a slice may lie sideways of the normal through the first: mm, or this share of its distance (0.1 degree)."""
STEEPEST = 45.0
"""Degrees: slices that shift sideways faster than they rise are no tilted stack (gantries tilt up to 30)."""
_TELLING = (
    "EchoTime",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "AcquisitionNumber",
    "DiffusionBValue",
    "ImageType",
)
_ACCEPT = (
    "or accept it with --resample-gaps / resample_gaps: true: missing slices are interpolated for the computation and "
    "left out of a DICOM output"
)


@dataclass(frozen=True)
class Slice:
    """One frame, where it lies (LPS+, mm), and what turns its stored values into real ones."""

    header: Header
    frame: int
    position: Vector  # (3,) centre of the first pixel
    axes: Vector  # (2, 3) directions of a growing column index, a growing row index
    spacing: Vector  # (2,) mm between columns, between rows
    thickness: float  # mm, what the header says, for a single slice
    slope: float
    intercept: float
    rescale: str  # RescaleType; "-" if the slice has no rescale at all
    marks: dict[str, str] = field(default_factory=dict)  # of a frame: what tells it from others at the same place

    @property
    def name(self) -> str:
        """The file, and which frame of several."""
        frames = self.header.text("NumberOfFrames")
        return self.header.path.name + (f" (frame {self.frame + 1})" if frames not in ("", "0", "1") else "")

    def mark(self, keyword: str) -> str:
        """What the frame's own groups or the file say of an attribute; "" if nothing."""
        return self.marks.get(keyword) or self.header.text(keyword)


@dataclass(frozen=True)
class Stack:
    """The slices of a series on an even grid along their normal."""

    slices: list[Slice]  # sorted along the normal
    places: Vector  # (slices,) where each lies, in steps of the grid; 0, 1, 2, ... if none is missing
    count: int  # planes of the grid
    affine: Vector  # (4, 4) LPS+, mm; of a tilted stack: straight up from the first slice
    shifts: Vector | None  # (slices, 2) mm along the rows and columns' axes by which a tilt moved each; None: straight

    def gaps(self) -> str:
        """Which planes are interpolated, and between which files, in words; "" if every slice has its plane."""
        if np.array_equal(self.places, np.arange(self.count)):
            return ""
        missing = sorted(set(range(self.count)) - set(self.places.tolist()))
        off = int((self.places % 1 != 0).sum())
        step = float(np.linalg.norm(self.affine[:3, 2]))
        # A plane after the last slice, by half a step at most, takes that slice's values.
        right = np.clip(np.searchsorted(self.places, missing), 1, len(self.slices) - 1)
        found = [
            f"{(right == n).sum()} between {self.slices[n - 1].name} and {self.slices[n].name} "
            f"({(self.places[n] - self.places[n - 1]) * step:.3f} mm apart)"
            for n in np.unique(right)
        ]
        more = f", and at {len(found) - 5} more places" if len(found) > 5 else ""
        listed = f": {', '.join(found[:5])}{more}" if found else ""
        beside = f"; {off} of {len(self.slices)} acquired slices lie off this even grid" if off else ""
        return f"{len(missing)} of {self.count} slices, every {step:.3f} mm, are interpolated{listed}{beside}"


def check_alike(path: Path, slices: list[Slice]) -> None:
    """Refuse slices that cannot be one stack, naming the two files and what differs."""
    first = slices[0]
    for other in slices[1:]:
        pairs: list[tuple[str, object, object, bool]] = []
        for keyword in (
            "StudyInstanceUID",
            "Rows",
            "Columns",
            "Modality",
            "PhotometricInterpretation",
            "FrameOfReferenceUID",
        ):
            mine, theirs = first.header.text(keyword), other.header.text(keyword)
            pairs.append((keyword, mine, theirs, mine == theirs))
        turn = bool(abs(first.axes - other.axes).max() <= DIRECTION_TOLERANCE)
        pairs.append(("ImageOrientationPatient", first.axes.round(4).tolist(), other.axes.round(4).tolist(), turn))
        scale = bool(np.allclose(first.spacing, other.spacing, rtol=1e-4, atol=0))
        pairs.append(("PixelSpacing", first.spacing.tolist(), other.spacing.tolist(), scale))
        pairs.append(("RescaleType", first.rescale, other.rescale, first.rescale == other.rescale))
        stacks = first.mark("StackID"), other.mark("StackID")
        pairs.append(("StackID", *stacks, stacks[0] == stacks[1]))
        for name, here, there, same in pairs:
            if not same:
                raise ScanError(
                    f"{path}: slices of one series differ in {name}: {here} in {first.name}, {there} in {other.name}. "
                    "Put the slices that belong together into a folder (or an enhanced file) of their own."
                )


def stack(path: Path, slices: list[Slice], *, resample_gaps: bool = False) -> Stack:
    """The slices sorted along the normal on an even grid, checked to be even unless `resample_gaps`."""
    axes, spacing = slices[0].axes, slices[0].spacing
    normal = np.cross(axes[0], axes[1])
    normal /= np.linalg.norm(normal)
    slices = sorted(slices, key=lambda one: float(one.position @ normal))
    positions = np.array([one.position for one in slices])
    heights = (positions - positions[0]) @ normal
    step, places, shifts = slices[0].thickness, np.zeros(1), None
    if len(slices) > 1:
        _check_doubles(path, slices, heights)
        if resample_gaps:
            step, places = _gapped_grid(path, heights)
        else:
            step, places = _even_step(path, slices, heights), np.arange(len(slices), dtype=np.float64)
        shifts = _shifts(path, slices[0].header, positions - positions[0], heights, axes)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = axes[0] * spacing[0], axes[1] * spacing[1]
    affine[:3, 2] = normal * step
    affine[:3, 3] = positions[0]
    return Stack(slices, places, round(float(places[-1])) + 1, affine, shifts)


def planes_at(array: npt.NDArray[Any], places: Vector, wanted: Vector) -> npt.NDArray[Any]:
    """Planes at the `wanted` places, from planes array[..., n] that lie at the rising places[n]; same type.

    Linear between two planes, exact where one lies, the first or last one beyond them.
    """
    if np.array_equal(places, wanted):
        return array
    result = np.empty((*array.shape[:-1], len(wanted)), dtype=array.dtype)
    for n, place in enumerate(wanted):
        right = int(np.clip(np.searchsorted(places, place), 1, len(places) - 1))
        left = right - 1
        share = float(np.clip((place - places[left]) / (places[right] - places[left]), 0, 1))
        result[..., n] = array[..., left] * (1 - share) + array[..., right] * share
    return result


def _check_doubles(path: Path, slices: list[Slice], heights: Vector) -> None:
    same = np.flatnonzero(np.diff(heights) < SAME_POSITION)
    if not same.size:
        return
    one, two = slices[same[0]], slices[same[0] + 1]
    keywords = dict.fromkeys((*_TELLING, *one.marks, *two.marks))
    differing = [
        f"{name} ({one.mark(name)}, {two.mark(name)})" for name in keywords if one.mark(name) != two.mark(name)
    ]
    hint = f"They differ in {', '.join(differing)}: separate them by that" if differing else "Remove the copies"
    raise ScanError(
        f"{path}: {same.size} of {len(slices)} slices lie where another one lies, first {one.name} and {two.name}. "
        f"{hint}, into a folder (or an enhanced file) each."
    )


def _even_step(path: Path, slices: list[Slice], heights: Vector) -> float:
    """The mean distance of neighbouring slices in mm; refuse a gap or an uneven stack."""
    steps = np.diff(heights)
    usual = _usual(steps)
    gaps = np.flatnonzero(steps > 1.5 * usual)
    if gaps.size:
        missing = int(sum(round(float(steps[gap]) / usual) - 1 for gap in gaps))
        places = ", ".join(
            f"{steps[gap]:.3f} mm between {slices[gap].name} and {slices[gap + 1].name}" for gap in gaps[:5]
        )
        raise ScanError(
            f"{path}: {max(missing, 1)} missing slice(s): neighbours are {usual:.3f} mm apart, but {places}. Fetch the "
            f"whole series again ({len(slices)} slices are here), {_ACCEPT}."
        )
    step = float(heights[-1]) / (len(slices) - 1)
    off = abs(heights - step * np.arange(len(slices)))
    worst = int(off.argmax())
    if off[worst] > STEP_TOLERANCE * step:
        raise ScanError(
            f"{path}: slices are not evenly spaced (steps from {steps.min():.3f} to {steps.max():.3f} mm; "
            f"{slices[worst].name} is {off[worst]:.3f} mm off its place). Resample it to an even spacing, "
            f"{_ACCEPT}."
        )
    return step


def _usual(steps: Vector) -> float:
    """The median; the lower of two in the middle, so that one step and one gap are told apart."""
    return float(np.percentile(steps, 50, method="lower"))


def _gapped_grid(path: Path, heights: Vector) -> tuple[float, Vector]:
    """An even step in mm for slices at any heights, and their places in steps from the first.

    Slices within STEP_TOLERANCE of a plane lie on it (one at most on each): with gaps in an otherwise even stack, all.
    """
    steps = np.diff(heights)
    usual = _usual(steps)
    # Where only slices are missing, the mean of the other steps tells the true one better than any rounded step.
    counted = np.rint(steps / steps[steps < 1.5 * usual].mean())
    step = float(heights[-1] / counted.sum())
    places = np.concatenate(([0.0], np.cumsum(counted)))
    if counted.min() < 1 or abs(heights / step - places).max() > STEP_TOLERANCE:
        step, places = usual, heights / usual
        for plane in range(round(float(places[-1])) + 1):
            nearest = int(abs(places - plane).argmin())
            if abs(places[nearest] - plane) <= STEP_TOLERANCE:
                places[nearest] = plane
    count = round(float(places[-1])) + 1
    if count > 2 * len(heights):
        raise ScanError(
            f"{path}: {len(heights)} slices over {heights[-1]:.1f} mm, most of them {usual:.3f} mm apart, would take "
            f"{count} slices in all: more than half of the scan would be interpolated. Fetch the whole series."
        )
    return step, places


def _shifts(path: Path, header: Header, offsets: Vector, heights: Vector, axes: Vector) -> Vector | None:
    """How far a tilted gantry moved each slice along both in-plane axes, in mm; None for a straight stack.

    Refuses slices that shift sideways in another way than evenly with the height, and steeper than gantries tilt.
    """
    shifts = np.stack([offsets @ axes[0], offsets @ axes[1]], axis=1)
    sideways = np.linalg.norm(shifts, axis=1)
    if (sideways <= np.maximum(SHIFT_TOLERANCE[0], SHIFT_TOLERANCE[1] * heights)).all():
        return None
    slope = heights @ shifts / (heights @ heights)
    off = np.linalg.norm(shifts - heights[:, None] * slope, axis=1)
    worst = int(off.argmax())
    angle = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    says = header.text("GantryDetectorTilt") or "nothing"
    if off[worst] > max(SHIFT_TOLERANCE[0], SHIFT_TOLERANCE[1] * heights[worst]):
        raise ScanError(
            f"{path}: the slices are shifted sideways unevenly, up to {sideways.max():.2f} mm over {heights[-1]:.2f} "
            f"mm, one {off[worst]:.2f} mm off any straight line (Gantry/Detector Tilt says {says}): the patient or the "
            "table moved, or the positions are wrong. Correct the geometry and give the corrected scan."
        )
    if angle > STEEPEST:
        raise ScanError(
            f"{path}: the slices are shifted sideways by {angle:.1f} degrees (Gantry/Detector Tilt says {says}), more "
            f"than the {STEEPEST:.0f} of any tilted gantry. Correct the geometry and give the corrected scan."
        )
    return shifts
