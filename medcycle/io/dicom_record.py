"""What a derived series says of its making: the model, the software, the scanner, the images it was made from."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from medcycle.io.dicom_copy import UID, ascii_text, copy
from medcycle.io.dicom_file import Header

NOTICE = "NOT FOR CLINICAL USE"

_SCANNER = (
    "Manufacturer",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "InstitutionalDepartmentName",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
)


@dataclass(frozen=True)
class ModelRecord:
    """Which model made the values.

    Attributes:
        name: such as "mr_to_ct".
        checksum: a digest of its weights.
        created: when its training ended, ISO 8601: "2026-11-22T07:00:00+00:00".
        version: of the medcycle that trained it.
    """

    name: str = ""
    checksum: str = ""
    created: str = ""
    version: str = ""

    def sentence(self) -> str:
        """All of it in words; "" if nothing is known."""
        parts = (
            f"model {self.name}" if self.name else "",
            f"weights {self.checksum}" if self.checksum else "",
            f"trained {self.created}" if self.created else "",
            f"by medcycle {self.version}" if self.version else "",
        )
        return ascii_text(", ".join(part for part in parts if part))


@dataclass(frozen=True)
class Plane:
    """Where one slice of a source is: a file, and in an enhanced image the number of the frame (from 1)."""

    header: Header
    frame: int | None = None


def version() -> str:
    """Of medcycle."""
    try:
        return metadata.version("medcycle")
    except metadata.PackageNotFoundError:
        return "unknown"


def code(value: str, meaning: str) -> Any:
    """An item of a code sequence, of DICOM's own coding scheme (PS3.16 annex D)."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def derivation_codes(resampled: bool) -> list[Any]:
    """What was done, for Derivation Code Sequence."""
    codes = [code("123110", "Artificial Intelligence")]
    return [*codes, code("113085", "Spatial resampling")] if resampled else codes


def equipment(model: ModelRecord, now: datetime.datetime | None, scanner: Header | None) -> list[Any]:
    """Contributing Equipment Sequence: what processed (medcycle and the model), and what acquired, if known."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code("109102", "Processing Equipment")]
    item.Manufacturer = "medcycle"
    item.ManufacturerModelName = ascii_text(model.name)[:64] or "medcycle"
    versions = [f"medcycle {version()}", f"weights {model.checksum}" if model.checksum else ""]
    item.SoftwareVersions = [ascii_text(text)[:64] for text in versions if text]
    day = model.created[:10].replace("-", "")
    if len(day) == 8 and day.isdecimal():
        item.DateOfManufacture = day
    if now is not None:
        item.ContributionDateTime = now.strftime("%Y%m%d%H%M%S")
    item.ContributionDescription = ". ".join(
        text for text in ("Unpaired image translation", model.sentence(), NOTICE) if text
    )
    if scanner is None:
        return [item]
    acquired = Dataset()
    acquired.PurposeOfReferenceCodeSequence = [code("109101", "Acquisition Equipment")]
    acquired.Manufacturer = "unknown"
    copy(scanner.data, acquired, _SCANNER)
    acquired.Manufacturer = acquired.Manufacturer or "unknown"
    return [item, acquired]


def refer_to_all(data: Any, sources: list[Header]) -> None:
    """Name the source's images as related to a slice that lies in the place of none of them."""
    images = [_reference(source) for source in sources]
    if sources and all(images) and UID.fullmatch(sources[0].text("SeriesInstanceUID")):
        data.ReferencedImageSequence = images
        data.ReferencedSeriesSequence = [_series(sources)]


def refer_to_one(data: Any, plane: Plane) -> None:
    """Name the image in the very place of a slice as its source, in the stead of all of them."""
    if "ReferencedImageSequence" not in data:  # the source cannot be referred to
        return
    image = _reference(plane.header)
    if plane.frame is not None:
        image.ReferencedFrameNumber = plane.frame
    image.PurposeOfReferenceCodeSequence = [code("121322", "Source image for image processing operation")]
    image.SpatialLocationsPreserved = "YES"
    del data.ReferencedImageSequence
    data.SourceImageSequence = [image]
    data.ReferencedSeriesSequence = [_series([plane.header])]


def _reference(source: Header) -> Any:
    """A reference to the image, or None if it lacks a name."""
    from pydicom.dataset import Dataset

    item = Dataset()
    kind, uid = source.text("SOPClassUID"), source.text("SOPInstanceUID")
    if not (UID.fullmatch(kind) and UID.fullmatch(uid)):
        return None
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = kind, uid
    return item


def _series(sources: list[Header]) -> Any:
    """Which series the images that are named belong to (PS3.3 C.12.2: those that are named, and no others)."""
    from pydicom.dataset import Dataset

    series = Dataset()
    series.SeriesInstanceUID = sources[0].text("SeriesInstanceUID")
    series.ReferencedInstanceSequence = [_reference(source) for source in sources]
    return series
