"""Without the patient: a written series after the Basic Application Level Confidentiality Profile (PS3.15 annex E).

What the writer puts into a data set is known, so this keeps a list of what may stay and drops all else, in items of
sequences too; nothing new can slip through. Pixels are left as they are: faces and burned-in text stay.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from typing import Any

from medcycle.io.dicom_record import code

_RUN = secrets.token_hex(16)
"""A secret of this process: the same patient and study get the same new name throughout a run, and in no other."""

_REPLACED = ("StudyInstanceUID", "FrameOfReferenceUID")  # U: shared with other series of the run
_EMPTIED = (  # Z: type 2 in the CT and MR images
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "ReferringPhysicianName",
    "AccessionNumber",
    "PositionReferenceIndicator",
)
_KEPT = frozenset(  # not in the profile's table E.1-1, or ours
    """
    SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID SyntheticData Modality Manufacturer ManufacturerModelName
    SoftwareVersions SeriesInstanceUID SeriesNumber SeriesDescription InstanceNumber AcquisitionNumber
    DerivationDescription DerivationCodeSequence ContributingEquipmentSequence PurposeOfReferenceCodeSequence
    ContributionDescription CodeValue CodingSchemeDesignator CodeMeaning
    ImagePositionPatient ImageOrientationPatient SliceLocation SliceThickness SpacingBetweenSlices PixelSpacing
    PatientPosition BodyPartExamined Laterality
    SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation
    SmallestImagePixelValue LargestImagePixelValue SmallestPixelValueInSeries LargestPixelValueInSeries
    RescaleSlope RescaleIntercept RescaleType WindowCenter WindowWidth PixelData
    KVP DataCollectionDiameter ReconstructionDiameter DistanceSourceToDetector DistanceSourceToPatient
    GantryDetectorTilt TableHeight RotationDirection ExposureTime XRayTubeCurrent Exposure GeneratorPower
    FocalSpots RevolutionTime SingleCollimationWidth TotalCollimationWidth TableSpeed
    TableFeedPerRotation SpiralPitchFactor
    ScanningSequence SequenceVariant ScanOptions MRAcquisitionType RepetitionTime EchoTime EchoTrainLength
    InversionTime TriggerTime SequenceName AngioFlag NumberOfAverages ImagingFrequency ImagedNucleus EchoNumbers
    MagneticFieldStrength NumberOfPhaseEncodingSteps PercentSampling PercentPhaseFieldOfView PixelBandwidth
    ReceiveCoilName TransmitCoilName AcquisitionMatrix InPlanePhaseEncodingDirection FlipAngle VariableFlipAngleFlag
    """.split()  # noqa: SIM905
)


def deidentify(data: Any, patient: str) -> None:
    """Take the patient, the staff, the institution, dates and links to the originals out of a slice, in place.

    Its series and instance UIDs are expected to be new already, and its descriptions to be ours. The study and the
    frame of reference get UIDs that are the same wherever they occur in this run; the patient a name that is.

    Args:
        data: a data set as :func:`medcycle.io.dicom_dataset.instance` makes it.
        patient: what tells one patient from another; only a keyed digest of it is used.
    """
    for element in list(data):
        if element.keyword in _REPLACED:
            _put(data, element.keyword, hashed_uid(_RUN, str(element.value)))
        elif element.keyword in _EMPTIED:
            _put(data, element.keyword, "")
        elif element.keyword not in _KEPT:
            del data[element.tag]
        elif element.VR == "SQ":
            for item in element.value:
                _strip(item)
    name = hashlib.blake2b(patient.encode(), key=_RUN.encode(), digest_size=8).hexdigest().upper()
    _put(data, "PatientName", f"ANON^{name}")
    _put(data, "PatientID", f"ANON-{name}")
    data.PatientIdentityRemoved = "YES"
    data.DeidentificationMethod = "Basic Application Level Confidentiality Profile (PS3.15 annex E)"
    data.DeidentificationMethodCodeSequence = [code("113100", "Basic Application Confidentiality Profile")]
    data.LongitudinalTemporalInformationModified = "REMOVED"


def _put(data: Any, keyword: str, value: str) -> None:
    """Set an attribute as a new element: the slices of a series share the ones they have in common."""
    from pydicom.datadict import dictionary_VR
    from pydicom.dataelem import DataElement

    data[keyword] = DataElement(keyword, dictionary_VR(keyword), value)


def _strip(item: Any) -> None:
    for element in list(item):
        if element.keyword not in _KEPT:
            del item[element.tag]
        elif element.VR == "SQ":
            for below in element.value:
                _strip(below)


def hashed_uid(*parts: str) -> str:
    """A UID that is a function of the parts: a UUID made of their digest (PS3.5 B.2)."""
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest()
    return f"2.25.{uuid.UUID(bytes=digest, version=5).int}"
