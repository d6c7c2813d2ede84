"""The DICOM images that a Volume was made from, and which of them lie where the new slices lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.io.dicom_file import Header
from medcycle.io.dicom_record import Plane
from medcycle.io.dicom_series import read_header
from medcycle.io.files import LPS
from medcycle.volume import Volume

_NEAR = 0.1  # mm between a frame's position and that of its slice


@dataclass(frozen=True)
class Sources:
    """What a new series was made from.

    Attributes:
        headers: of the source's files, in the order of its slices; none if it is no DICOM.
        places: where the new slices lie along the volume's third axis.
        planes: the source's slice in the same place, for each of them; None where there is none.
        resampled: whether there is a source and the new slices lie elsewhere.
    """

    headers: list[Header]
    places: npt.NDArray[np.float64]
    planes: list[Plane | None]
    resampled: bool

    def patient(self) -> str:
        """What tells this patient from another; for a digest, never to be shown."""
        first = self.headers[0]
        return first.text("PatientID") or first.text("PatientName") or first.text("StudyInstanceUID")


def find_sources(like: Volume | None, volume: Volume) -> Sources:
    """What `volume` was made from, if `like` was read from DICOM.

    Raises:
        ScanError: if a file of it is gone or damaged.
    """
    places = np.arange((*volume.space, 1)[2], dtype=np.float64)
    nowhere: list[Plane | None] = [None] * len(places)
    if like is None or like.source.get("format") != "dicom":
        return Sources([], places, nowhere, False)
    files = [Path(file) for file in like.source.get("files", [])]
    frames = len(set(files)) < len(files)
    headers = [read_header(file) for file in (files[:1] if frames else files)]
    if "tilt" in like.source or not _same_grid(volume, like):
        return Sources(headers, places, nowhere, bool(headers))
    places = np.array(like.source.get("places", places), dtype=np.float64)
    if frames:
        return Sources(headers, places, _frames(headers[0], like, places), False)
    planes: list[Plane | None] = [*map(Plane, headers)]
    return Sources(headers, places, planes if len(planes) == len(places) else [None] * len(places), False)


def _same_grid(volume: Volume, like: Volume) -> bool:
    return volume.space == like.space and bool(np.allclose(volume.affine, like.affine, rtol=0, atol=1e-3))


def _frames(header: Header, like: Volume, places: npt.NDArray[np.float64]) -> list[Plane | None]:
    """For each place the frame of an enhanced image that lies there."""
    affine = LPS @ like.affine
    at = affine[:3, 3] + places[:, None] * affine[:3, 2]
    positions = np.array([_position(group) for group in header.data.get("PerFrameFunctionalGroupsSequence") or []])
    if not positions.size:
        return [None] * len(places)
    distances = np.linalg.norm(at[:, None] - positions[None], axis=2)
    near = np.where(np.isfinite(distances), distances, np.inf)
    return [Plane(header, int(row.argmin()) + 1) if row.min() < _NEAR else None for row in near]


def _position(group: Any) -> tuple[float, float, float]:
    """Image Position (Patient) of a frame; not a number if it has none."""
    try:
        x, y, z = (float(value) for value in group.PlanePositionSequence[0].ImagePositionPatient)
    except Exception:  # pydicom converts values late, and damaged ones raise many kinds
        return float("nan"), float("nan"), float("nan")
    return x, y, z
