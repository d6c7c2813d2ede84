"""Which DICOM files beside a scan's slices are no slices of it, and what they are instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from medcycle.errors import ScanError
from medcycle.io.dicom_file import Header

_NO_SCANS = {
    "1.2.840.10008.5.1.4.1.1.481.1": "RT Image",
    "1.2.840.10008.5.1.4.1.1.481.2": "RT Dose",
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.8": "Height Map Segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "Parametric Map",
    "1.2.840.10008.5.1.4.1.1.66.1": "Spatial Registration",
    "1.2.840.10008.5.1.4.1.1.66.3": "Deformable Spatial Registration",
}
"""SOP classes that hold pixels in the patient's space which are no image of the patient."""
_NO_SCAN_MODALITIES = {"RTDOSE": "RT Dose", "RTIMAGE": "RT Image", "SEG": "Segmentation"}  # where the class is unknown
_ALWAYS_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.2": "a CT image",
    "1.2.840.10008.5.1.4.1.1.2.1": "an enhanced CT image",
    "1.2.840.10008.5.1.4.1.1.2.2": "a converted CT image",
    "1.2.840.10008.5.1.4.1.1.4": "an MR image",
    "1.2.840.10008.5.1.4.1.1.4.1": "an enhanced MR image",
    "1.2.840.10008.5.1.4.1.1.4.4": "a converted MR image",
    "1.2.840.10008.5.1.4.1.1.128": "a PET image",
    "1.2.840.10008.5.1.4.1.1.128.1": "a converted PET image",
    "1.2.840.10008.5.1.4.1.1.130": "an enhanced PET image",
}
"""SOP classes of slices: a file of one that shows no image is damaged, not to be passed over."""
_DIRECTORY = "1.2.840.10008.1.3.10"
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and .7.1 to .7.4, its multi-frame kinds
_CAPTURED = {"SCREEN SAVE", "SCREENSHOT", "SCREEN CAPTURE", "SCREENCAPTURE"}
_REFORMATTED = {
    "CPR",
    "CURVED",
    "MAX_IP",
    "MAXIP",
    "MIN_IP",
    "MINIP",
    "MIP",
    "MPR",
    "PROJECTION IMAGE",
    "REFORMATTED",
    "SSD",
    "VOLREN",
    "VRT",
}
"""Values of Image Type (PS3.3 C.7.6.1.1.2, C.8.16.1.3, and vendors' own) of images computed from a volume."""

_NAMED = 3  # files of one kind named in a message

Passed = dict[str, list[Header]]
"""Why files were passed over, and which."""


def image_type(header: Header) -> list[str]:
    """The values of Image Type, in capitals."""
    return [part.strip(" '\"[]").upper() for part in header.text("ImageType").split(",")]


def no_image(header: Header) -> str:
    """What a file without pixels is, or "" for an image.

    Raises:
        ScanError: if it should be a slice, or does not say what it is: a file that ends within its header, most likely.
            Passed over, it would leave a scan shorter than it is.
    """
    kind = header.meta("MediaStorageSOPClassUID")
    if kind == _DIRECTORY:
        return "DICOMDIR (a table of contents)"
    if header.text("Rows") not in ("", "0") and header.text("Columns") not in ("", "0"):
        return ""
    kind = header.text("SOPClassUID") or kind
    if kind in _ALWAYS_IMAGES or not (kind or header.text("Modality")):
        raise ScanError(
            f"{header.path}: {_ALWAYS_IMAGES.get(kind, 'a DICOM file of unknown kind')} without an image (Rows "
            f"{header.text('Rows') or 'absent'}, Columns {header.text('Columns') or 'absent'}): truncated or damaged. "
            "Fetch it again, or take it out of the folder."
        )
    return f"without an image ({header.text('Modality') or 'unknown modality'})"


def no_scan(header: Header) -> str:
    """What an image that is no scan of a patient is, or "" for a scan."""
    kind = _NO_SCANS.get(header.text("SOPClassUID"), "")
    if "MOSAIC" in image_type(header):
        return "Siemens mosaic (a picture tiled with the slices of a volume; export it as enhanced MR or convert it)"
    return kind or _NO_SCAN_MODALITIES.get(header.text("Modality").upper(), "")


def localizer(header: Header) -> str:
    """Whether the image only shows where the scan was planned."""
    return "localizer(s)" if any(value in ("LOCALIZER", "SCOUT", "TOPOGRAM") for value in image_type(header)) else ""


def screenshot(header: Header) -> str:
    """Whether the image is a picture of a screen."""
    captured = header.text("SOPClassUID") == _CAPTURE or header.text("SOPClassUID").startswith(_CAPTURE + ".")
    return "screenshot(s) or secondary capture(s)" if captured or _CAPTURED & set(image_type(header)) else ""


def reformat(header: Header) -> str:
    """Whether the image was computed from a volume: a projection, or planes laid through it."""
    return "reformat(s)" if _REFORMATTED & set(image_type(header)) else ""


def secondary(header: Header) -> str:
    """Whether the image was derived after the acquisition (value 2 of Image Type)."""
    return "derived image(s), ImageType SECONDARY" if image_type(header)[1:2] == ["SECONDARY"] else ""


def sift(headers: Iterable[Header], kind: Callable[[Header], str], passed: Passed) -> list[Header]:
    """Those headers that are not of the kind; the others are added to `passed`, under what they are."""
    left = []
    for header in headers:
        if what := kind(header):
            passed.setdefault(what, []).append(header)
        else:
            left.append(header)
    return left


def describe(passed: Passed) -> str:
    """How many files were passed over, by what they are, with a few names; "" if none."""
    return ", ".join(
        f"{len(headers)} {what} ({', '.join(header.path.name for header in headers[:_NAMED])}"
        f"{', ...' if len(headers) > _NAMED else ''})"
        for what, headers in passed.items()
    )
