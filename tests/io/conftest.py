"""Makers of test scans that do not use medcycle's own writers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT_CLASS, MR_CLASS = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
SECRET = "Secretname^Patient"


def dicom_slice(k: int, series: str, **changes: Any) -> Dataset:
    """One slice, 5 columns x 4 rows, stored value = 100 k + 10 row + column; `changes` set attributes, None deletes."""
    data = Dataset()
    data.PatientName, data.PatientID = SECRET, "ID-12345"
    data.SOPClassUID, data.SOPInstanceUID = MR_CLASS, generate_uid()
    data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID = "MR", series, "1.2.3.4"
    data.FrameOfReferenceUID = "1.2.3.5"
    data.SeriesNumber, data.SeriesDescription, data.InstanceNumber = 7, "T2 AX", k + 1
    data.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 4, 5, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.ImagePositionPatient = [-10.0, -20.0, 30.0 + 2.5 * k]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [0.5, 0.75], 9.0  # 0.5 mm between rows; thickness is not the step
    rows, columns = np.mgrid[:4, :5]
    data.PixelData = (100 * k + 10 * rows + columns).astype("<u2").tobytes()
    data["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        if value is None:
            del data[keyword]
        else:
            setattr(data, keyword, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    return data


@pytest.fixture
def make_slice() -> Callable[..., Dataset]:
    return dicom_slice


@pytest.fixture
def make_series() -> Callable[..., Path]:
    """make_series(folder, slices, prefix, change=function(k) -> attributes, **attributes): a folder of DICOM slices."""

    def make(
        folder: Path,
        slices: Any = 4,
        *,
        prefix: str = "s",
        series: str = "1.2.3.4.111111111111",
        change: Callable[[int], dict[str, Any]] | None = None,
        **attributes: Any,
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(slices) if isinstance(slices, int) else slices:
            data = dicom_slice(k, series, **attributes, **(change(k) if change else {}))
            # Names that sort against the positions: order must come from the geometry.
            data.save_as(folder / f"{prefix}{99 - k:02d}.dcm", enforce_file_format=True)
        return folder

    return make


def enhanced(frames: int = 3, **changes: Any) -> Dataset:
    """An enhanced MR of a few frames, stored in the reverse of their order along the normal, with a slope each."""
    data = dicom_slice(0, "1.2.3.4.222", SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1")
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        del data[keyword]
    shared = Dataset()
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.75], 9.0
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    data.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for index in range(frames):
        group, place, values = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [-10.0, -20.0, 30.0 - 2.5 * index]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = index + 1, 5, "US"
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [values]
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = groups
    data.NumberOfFrames = frames
    data.PixelData = np.arange(frames * 20, dtype="<u2").tobytes()
    for keyword, value in changes.items():
        setattr(data, keyword, value)
    return data


@pytest.fixture
def make_enhanced() -> Callable[..., Dataset]:
    return enhanced


@pytest.fixture(scope="session")
def pydicom_files() -> list[Path]:
    """Every file that pydicom installs for its own tests."""
    return sorted(file for file in (Path(pydicom.__file__).parent / "data").rglob("*") if file.is_file())
