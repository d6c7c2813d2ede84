"""The attributes of a derived CT or MR image: what is kept of the source, what is new, and what must stand empty."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.io import dicom_record as record
from medcycle.io.dicom_copy import character_set, copy
from medcycle.io.dicom_file import Header
from medcycle.io.dicom_record import NOTICE, ModelRecord, Plane
from medcycle.io.files import LPS
from medcycle.volume import Volume

CLASS = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
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
_DATES = ("SeriesDate", "SeriesTime", "ContentDate", "ContentTime")
_ACQUISITION = ("AcquisitionNumber", "AcquisitionDate", "AcquisitionTime")

# How the source was acquired, true of a series of the same modality made from it, whatever its grid.
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
    "VariableFlipAngleFlag",
    "MagneticFieldStrength",
    "ImagingFrequency",
    "ImagedNucleus",
    "EchoNumbers",
    "NumberOfAverages",
    "PixelBandwidth",
    "SequenceName",
    "AngioFlag",
    "ReceiveCoilName",
    "TransmitCoilName",
)
_CT = (
    "KVP",
    "ScanOptions",
    "DataCollectionDiameter",
    "DistanceSourceToDetector",
    "DistanceSourceToPatient",
    "RotationDirection",
    "GeneratorPower",
    "FocalSpots",
    "RevolutionTime",
    "SingleCollimationWidth",
    "TotalCollimationWidth",
    "TableSpeed",
    "TableFeedPerRotation",
    "SpiralPitchFactor",
    "WindowCenter",
    "WindowWidth",
)
# True of one slice as it was acquired: kept where the new slice lies in its very place.
_SLICE = {
    "CT": (
        "ExposureTime",
        "XRayTubeCurrent",
        "Exposure",
        "TableHeight",
        "GantryDetectorTilt",
        "ReconstructionDiameter",
    ),
    "MR": (
        "NumberOfPhaseEncodingSteps",
        "PercentSampling",
        "PercentPhaseFieldOfView",
        "AcquisitionMatrix",
        "InPlanePhaseEncodingDirection",
    ),
}
_GATED = {"CG", "PPG"}  # Scan Options with which Trigger Time must be there


@dataclass(frozen=True)
class Stored:
    """Pixels as stored, and how they turn into values.

    Attributes:
        array: (i, j, planes) int16 or uint16.
        slope: None where stored values are the values.
        intercept: with it.
        allowed: lowest and highest HU that the series may hold; None for other units.
        clamped: share of the values that lay beyond it.
    """

    array: npt.NDArray[Any]
    slope: float | None
    intercept: float
    allowed: tuple[int, int] | None = None
    clamped: float = 0.0


@dataclass(frozen=True)
class Making:
    """What a new series is made from and how it is told.

    Attributes:
        modality: "CT" or "MR".
        patient: ID of the patient that is invented where there is no source; at most 64 bytes.
        sources: headers of the source's files.
        resampled: whether the new slices lie elsewhere than the source's.
        description: in ASCII, without control characters.
        model: which one.
        now: the time that is told; None to tell none but the source's.
        uid: a new UID for a name that is unique within the series.
    """

    modality: str
    patient: str
    sources: list[Header]
    resampled: bool
    description: str
    model: ModelRecord
    now: datetime.datetime | None
    uid: Callable[[str], str]

    @property
    def alike(self) -> Any | None:
        """The first source's data set, if it is of the same modality."""
        same = bool(self.sources) and self.sources[0].text("Modality") == self.modality
        return self.sources[0].data if same else None


def _decimal(value: float) -> str:
    """A number as DICOM's decimal string (16 characters at most)."""
    from pydicom.valuerep import format_number_as_ds

    value = float(value)
    text = str(int(value)) if value.is_integer() and abs(value) < 1e9 else format_number_as_ds(value)
    return text if len(text) <= 16 else f"{value:.7e}"  # pydicom forgets that an exponent may have three digits


def common_attributes(making: Making, volume: Volume, stored: Stored) -> Any:
    """What every slice of the new series shares."""
    from pydicom.dataset import Dataset

    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    for keyword in ("PatientBirthDate", "PatientSex", "ReferringPhysicianName", "AccessionNumber"):
        setattr(data, keyword, "")
    data.StudyID = "1"
    data.PatientName, data.PatientID = "medcycle^unknown", making.patient
    data.StudyInstanceUID, data.FrameOfReferenceUID = making.uid("study"), making.uid("frame of reference")
    data.StudyDate = data.StudyTime = ""
    data.PositionReferenceIndicator, data.PatientPosition = "", "HFS"
    if making.now is not None:
        day, time = making.now.strftime("%Y%m%d"), making.now.strftime("%H%M%S")
        data.StudyDate = data.SeriesDate = data.ContentDate = data.InstanceCreationDate = day
        data.StudyTime = data.SeriesTime = data.ContentTime = data.InstanceCreationTime = time
    if making.sources:
        first = making.sources[0].data
        data.SpecificCharacterSet = character_set(first)
        data.StudyDate = data.StudyTime = ""
        copy(first, data, (*_PATIENT, *_STUDY, *_PLACE))
        if making.now is None:
            copy(first, data, _DATES)
    if "BodyPartExamined" not in data and "Laterality" not in data:  # a paired part cannot be ruled out
        data.Laterality = ""
    data.SOPClassUID, data.Modality = CLASS[making.modality], making.modality
    data.SeriesInstanceUID = making.uid("series")
    number = making.sources[0].text("SeriesNumber") if making.sources else ""
    data.SeriesNumber = 1000 + (int(number) if number.isdecimal() and int(number) < 10**6 else 0)
    _describe(data, making, stored)
    _add_pixel_module(data, volume, making)
    return data


def _describe(data: Any, making: Making, stored: Stored) -> None:
    """What was made of what, by what; and the notice, wherever a reader may look."""
    data.SeriesDescription = f"{making.description[: 63 - len(NOTICE)]} {NOTICE}".strip()
    data.Manufacturer = data.ManufacturerModelName = "medcycle"
    data.SoftwareVersions = record.version()
    data.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if making.modality == "CT" else "OTHER"]
    data.add_new(0x0008001C, "CS", "YES")  # Synthetic Data
    told = [making.description or "Image written by medcycle", making.model.sentence()]
    if stored.allowed is not None:
        low, high = stored.allowed
        told.append(f"HU rounded to whole numbers and clamped to [{low}, {high}]")
    signed = "SS" if stored.array.dtype == np.int16 else "US"
    data.add_new("SmallestPixelValueInSeries", signed, int(stored.array.min()))
    data.add_new("LargestPixelValueInSeries", signed, int(stored.array.max()))
    if making.resampled:
        told.append("resampled to another grid than the source's")
    data.DerivationDescription = "; ".join(text for text in (*told, NOTICE) if text)[:1024]
    data.DerivationCodeSequence = record.derivation_codes(making.resampled)
    scanner = making.sources[0] if making.sources else None
    data.ContributingEquipmentSequence = record.equipment(making.model, making.now, scanner)
    record.refer_to_all(data, making.sources)


def _add_pixel_module(data: Any, volume: Volume, making: Making) -> None:
    """Attributes on pixels and acquisition that CT and MR images must have, empty where nothing is known."""
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Columns, data.Rows = volume.space[:2]
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.AcquisitionNumber = None
    if making.modality == "CT":
        data.KVP = None
        data.WindowCenter, data.WindowWidth = "40", "400"
        if making.alike is not None:
            copy(making.alike, data, _CT)
            if not _windows_fit(data):
                data.WindowCenter, data.WindowWidth = "40", "400"
        return
    low, high = (float(value) for value in np.percentile(volume.array, (1, 99)))
    data.ScanningSequence, data.SequenceVariant, data.ScanOptions = "RM", "NONE", ""
    data.MRAcquisitionType, data.EchoTime, data.EchoTrainLength, data.RepetitionTime = "", None, None, None
    data.WindowCenter, data.WindowWidth = _decimal((low + high) / 2), _decimal(max(high - low, 1.0))
    if making.alike is not None:
        copy(making.alike, data, _MR)
        if "IR" in data.ScanningSequence and "InversionTime" not in data:  # type 2C: may be empty, not absent
            data.InversionTime = None
        if _GATED & {str(option) for option in np.atleast_1d(data["ScanOptions"].value)}:
            data.TriggerTime = None


def _windows_fit(data: Any) -> bool:
    """Whether centres and widths are as many, and every width can be displayed (at least 1: PS3.3 C.11.2.1.2)."""
    centres, widths = (np.atleast_1d(np.array(data[k].value, float)) for k in ("WindowCenter", "WindowWidth"))
    return len(centres) == len(widths) > 0 and bool(widths.min() >= 1)


def instance(
    common: Any, making: Making, volume: Volume, stored: Stored, number: int, place: float, plane: Plane | None
) -> Any:
    """The data set of stored plane `number`, which lies at `place` along the volume's third axis.

    The position is that of the source slice in the same place, if there is one.
    """
    from pydicom.dataset import Dataset

    data = Dataset()
    data.update(common)
    data.SOPInstanceUID, data.InstanceNumber = making.uid(f"instance {number}"), number + 1
    affine = LPS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / spacing
    data.ImagePositionPatient = [_decimal(value) for value in affine[:3, 3] + affine[:3, 2] * place]
    data.ImageOrientationPatient = [_decimal(value) for value in (*axes[:, 0], *axes[:, 1])]
    data.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    data.SliceThickness = data.SpacingBetweenSlices = _decimal(spacing[2])
    if plane is not None:
        source = plane.header.data
        if plane.frame is None:
            copy(source, data, (*_PLANE, *_ACQUISITION))
            if making.alike is not None:
                copy(source, data, _SLICE[making.modality])
        record.refer_to_one(data, plane)
    position = np.array(data.ImagePositionPatient, dtype=np.float64)
    data.SliceLocation = _decimal(float(np.cross(axes[:, 0], axes[:, 1]) @ position))
    _add_pixels(data, stored, number, making.modality)
    return data


def _add_pixels(data: Any, stored: Stored, number: int, modality: str) -> None:
    if stored.slope is not None:
        data.RescaleSlope, data.RescaleIntercept = _decimal(stored.slope), _decimal(stored.intercept)
        data.RescaleType = "HU" if modality == "CT" else "US"
    plane = np.ascontiguousarray(stored.array[:, :, number].T)
    signed = plane.dtype == np.int16
    data.PixelRepresentation = int(signed)
    data.add_new("SmallestImagePixelValue", "SS" if signed else "US", int(plane.min()))
    data.add_new("LargestImagePixelValue", "SS" if signed else "US", int(plane.max()))
    data.add_new("PixelData", "OW", plane.astype(plane.dtype.newbyteorder("<")).tobytes())


def with_meta(data: Any) -> Any:
    """The data set with the file meta information that its file begins with."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"{WRITER}_{record.version()}"[:16]
    data.file_meta = meta
    return data
