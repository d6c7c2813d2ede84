"""The stored pixels of one DICOM file: decoded by pydicom's decoders, or by GDCM (in SimpleITK) where it has none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.io.dicom_file import check_code, load, quiet
from medcycle.io.files import unreadable

_JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70))  # what GDCM brings a decoder for
_RLE = "1.2.840.10008.1.2.5"


def decode(path: Path, *, invert: bool) -> Iterator[npt.NDArray[np.float64]]:
    """The frames (rows, columns) of a file in turn, through its modality lookup table if it has one.

    Args:
        path: the file.
        invert: turn MONOCHROME1 to bright-is-high.

    Raises:
        ScanError: no pixels, or none that can be decoded, with the transfer syntax named.
    """
    from pydicom.pixels.processing import apply_modality_lut

    data, stored = _stored(path)
    frames = stored if stored.ndim == 3 else stored[None]
    for frame in frames:
        try:
            with quiet():
                values: npt.NDArray[Any] = frame
                if invert and data.get("PhotometricInterpretation") == "MONOCHROME1":
                    top = (1 << int(data.BitsStored)) - 1 if int(data.PixelRepresentation) == 0 else -1
                    values = top - frame.astype(np.float64)
                if data.get("ModalityLUTSequence"):
                    values = apply_modality_lut(values, data)
                values = np.asarray(values, dtype=np.float64)
        except Exception as error:  # a damaged table raises many kinds
            raise unreadable(path, "DICOM pixels (modality lookup table)", error) from error
        yield values


def _stored(path: Path) -> tuple[Any, npt.NDArray[Any]]:
    """The data set and its pixels as stored, (rows, columns) or (frames, rows, columns)."""
    from pydicom.uid import UID

    syntax = "unknown syntax"
    try:
        data = load(path, pixels=True)
        if not any(keyword in data for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise ScanError(f"{path}: an image without pixel data. Fetch the file again.")
        if "TransferSyntaxUID" not in data.file_meta:  # a file without preamble says it only by how it is written
            implicit, little = data.original_encoding
            data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2" + ("" if implicit else ".1" if little else ".2"))
        uid = UID(data.file_meta.TransferSyntaxUID)
        syntax = str(uid.name)
        if uid.is_compressed and uid.is_encapsulated and uid != _RLE:
            check_code(path, data)
        with quiet():
            return data, _pixels(data, uid)
    except ScanError:
        raise
    except Exception as error:  # each decoder raises its own kinds
        raise unreadable(path, f"DICOM pixels ({syntax})", error) from error


def _pixels(data: Any, syntax: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(data.pixel_array)
    except Exception:  # no decoder installed, or one that lacks this kind (12 bits, say)
        if syntax not in _JPEG:
            raise
        return _by_gdcm(data)


def _by_gdcm(data: Any) -> npt.NDArray[Any]:
    """The pixels by GDCM, from a file of our own that holds nothing but them: no rescale, no place, no patient."""
    import SimpleITK as sitk  # noqa: N813
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate, generate_frames
    from pydicom.uid import generate_uid

    one = Dataset()
    one.SOPClassUID, one.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", generate_uid()
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        setattr(one, keyword, data[keyword].value)
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
    frames = []
    with tempfile.TemporaryDirectory(prefix="medcycle-") as folder:
        path = Path(folder) / "frame.dcm"
        for frame in generate_frames(data.PixelData, number_of_frames=int(data.get("NumberOfFrames") or 1)):
            one.PixelData = encapsulate([frame])
            one["PixelData"].VR = "OB"
            one.save_as(path, enforce_file_format=True)
            image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
            frames.append(sitk.GetArrayFromImage(image).reshape(int(data.Rows), int(data.Columns)))
    return np.stack(frames)
