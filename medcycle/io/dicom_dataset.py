"""The attributes of a derived CT or MR image: what is kept of the source, what is new, and what must stand empty."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.io.dicom_series import Header
from medcycle.io.files import LPS
from medcycle.volume import Volume

CLASS = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
NOTICE = "NOT FOR CLINICAL USE"
WRITER = "MEDCYCLE"  # Implementation Version Name by which our own files are known again

# Of the source: patient, study and frame of reference as a whole, so that entities stay the same to an archive.
_PATIENT = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "OtherPatientIDs")
_STUDY = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "StudyDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
)
_PLACE = ("FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition", "BodyPartExamined", "Laterality")
_PLANE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
_ACQUISITION = ("AcquisitionNumber", "AcquisitionDate", "AcquisitionTime")
_MR = (
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "RepetitionTime",
    "EchoTime",
    "EchoTrainLength",
    "InversionTime",
    "FlipAngle",
    "MagneticFieldStrength",
    "SequenceName",
)
_CT = ("KVP", "DataCollectionDiameter", "ReconstructionDiameter")


@dataclass(frozen=True)
class Stored:
    """Pixels as stored, and how they turn into values; slope None where stored values are the values."""

    array: npt.NDArray[Any]  # (i, j, planes) int16 or uint16
    slope: float | None
    intercept: float


def _decimal(value: float) -> str:
    """A number as DICOM's decimal string (16 characters at most)."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value))


def _copy(source: Any, target: Any, keywords: tuple[str, ...]) -> None:
    """Copy those attributes that the source has, with their values as they stand."""
    for keyword in keywords:
        if keyword in source:
            target[keyword] = source[keyword]


def _code(value: str, scheme: str, meaning: str) -> Any:
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _version() -> str:
    try:
        return metadata.version("medcycle")
    except metadata.PackageNotFoundError:
        return "unknown"


def common_attributes(sources: list[Header], modality: str, folder: Path, description: str) -> Any:
    """What every slice of the new series shares."""
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    now = datetime.datetime.now()
    description = description.encode("ascii", "replace").decode()
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    for keyword in ("PatientBirthDate", "PatientSex", "ReferringPhysicianName", "AccessionNumber"):
        setattr(data, keyword, "")
    data.StudyID = "1"
    data.PatientName, data.PatientID = "medcycle^phantom", folder.resolve().name[:64]
    data.StudyInstanceUID, data.FrameOfReferenceUID = generate_uid(None), generate_uid(None)
    data.StudyDate, data.StudyTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    data.PositionReferenceIndicator, data.PatientPosition = "", "HFS"
    if sources:
        first = sources[0].data
        data.SpecificCharacterSet = first.get("SpecificCharacterSet") or "ISO_IR 6"
        _copy(first, data, (*_PATIENT, *_STUDY, *_PLACE))
    if "BodyPartExamined" not in data and "Laterality" not in data:  # a paired part cannot be ruled out
        data.Laterality = ""
    data.SOPClassUID, data.Modality = CLASS[modality], modality
    data.SeriesInstanceUID = generate_uid(None)
    number = sources[0].text("SeriesNumber") if sources else ""
    data.SeriesNumber = 1000 + (int(number) if number.isdigit() and int(number) < 10**6 else 0)
    data.SeriesDescription = f"{description[: 63 - len(NOTICE)]} {NOTICE}".strip()
    data.SeriesDate = data.ContentDate = data.InstanceCreationDate = now.strftime("%Y%m%d")
    data.SeriesTime = data.ContentTime = data.InstanceCreationTime = now.strftime("%H%M%S")
    data.Manufacturer = data.ManufacturerModelName = "medcycle"
    data.SoftwareVersions = _version()
    data.ImageType = ["DERIVED", "SECONDARY", "AXIAL"] if modality == "CT" else ["DERIVED", "SECONDARY", "OTHER"]
    data.add_new(0x0008001C, "CS", "YES")  # Synthetic Data
    data.DerivationDescription = (description or "Image written by medcycle") + f"; {NOTICE}"
    data.DerivationCodeSequence = [_code("SYNTH", "99MEDCYCLE", "Image synthesis by a neural network")]
    data.ContributingEquipmentSequence = [_equipment(now)]
    if sources:
        data.ReferencedSeriesSequence = [_referenced_series(sources)]
    return data


def _equipment(now: datetime.datetime) -> Any:
    from pydicom.dataset import Dataset

    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code("109102", "DCM", "Processing Equipment")]
    equipment.Manufacturer = equipment.ManufacturerModelName = "medcycle"
    equipment.SoftwareVersions = _version()
    equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S")
    equipment.ContributionDescription = f"Unpaired image translation. {NOTICE}"
    return equipment


def _reference(source: Header) -> Any:
    from pydicom.dataset import Dataset

    reference = Dataset()
    reference.ReferencedSOPClassUID = source.data.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.data.SOPInstanceUID
    return reference


def _referenced_series(sources: list[Header]) -> Any:
    from pydicom.dataset import Dataset

    series = Dataset()
    series.SeriesInstanceUID = sources[0].data.SeriesInstanceUID
    series.ReferencedInstanceSequence = [_reference(source) for source in sources]
    return series


def add_pixel_module(data: Any, volume: Volume, modality: str, sources: list[Header]) -> None:
    """Attributes on pixels and acquisition that CT and MR images must have, empty where nothing is known."""
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Columns, data.Rows = volume.space[:2]
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.AcquisitionNumber = None
    alike = bool(sources) and sources[0].text("Modality") == modality
    if modality == "CT":
        data.KVP = None
        data.WindowCenter, data.WindowWidth = "40", "400"
        if alike:
            _copy(sources[0].data, data, _CT)
        return
    low, high = (float(value) for value in np.percentile(volume.array, (1, 99)))
    data.ScanningSequence, data.SequenceVariant, data.ScanOptions = "RM", "NONE", ""
    data.MRAcquisitionType, data.EchoTime, data.EchoTrainLength, data.RepetitionTime = "", None, None, None
    data.WindowCenter, data.WindowWidth = _decimal((low + high) / 2), _decimal(max(high - low, 1.0))
    if alike:
        _copy(sources[0].data, data, _MR)
        if "IR" in data.ScanningSequence and "InversionTime" not in data:  # type 2C: may be empty, not absent
            data.InversionTime = None


def instance(
    common: Any, volume: Volume, stored: Stored, number: int, place: float, source: Header | None, modality: str
) -> Any:
    """The data set of stored plane `number`, which lies at `place` along the volume's third axis.

    The position is that of the source slice in the same place, if there is one.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, ExplicitVRLittleEndian, generate_uid

    data = Dataset()
    data.update(common)
    data.SOPInstanceUID, data.InstanceNumber = generate_uid(None), number + 1
    affine = LPS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / spacing
    data.ImagePositionPatient = [_decimal(value) for value in affine[:3, 3] + affine[:3, 2] * place]
    data.ImageOrientationPatient = [_decimal(value) for value in (*axes[:, 0], *axes[:, 1])]
    data.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    data.SliceThickness = data.SpacingBetweenSlices = _decimal(spacing[2])
    if source is not None:
        _copy(source.data, data, (*_PLANE, *_ACQUISITION))
        reference = _reference(source)
        reference.PurposeOfReferenceCodeSequence = [
            _code("121322", "DCM", "Source image for image processing operation")
        ]
        data.SourceImageSequence = [reference]
    position = np.array(data.ImagePositionPatient, dtype=np.float64)
    data.SliceLocation = _decimal(float(np.cross(axes[:, 0], axes[:, 1]) @ position))
    if stored.slope is not None:
        data.RescaleSlope, data.RescaleIntercept = _decimal(stored.slope), _decimal(stored.intercept)
        data.RescaleType = "HU" if modality == "CT" else "US"
    plane = np.ascontiguousarray(stored.array[:, :, number].T)
    data.PixelRepresentation = 1 if plane.dtype == np.int16 else 0
    data.add_new("PixelData", "OW", plane.astype(plane.dtype.newbyteorder("<")).tobytes())
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"{WRITER}_{_version()}"[:16]
    data.file_meta = meta
    return data
