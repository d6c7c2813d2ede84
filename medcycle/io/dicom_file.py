"""One DICOM file as a data set, in memory that its size on disk bounds: what a header claims is checked before use."""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcycle.errors import ScanError
from medcycle.io.sizes import BoundedFile

MAX_DECODED = 4 << 30
"""Bytes that the pixels of one compressed file may take: 4 GiB, 8,000 CT slices."""
_MAX_HEADER = 64 << 20  # bytes, all that comes before the pixels of a deflated file
_SMALL = 64 << 20  # bytes; below this no ratio is suspicious: an image of nothing but air
_RATIO = 200  # bytes of pixels to bytes of file beyond which a large image is no image
_RLE_RATIO = 64  # the best that the run lengths of DICOM (PackBits) can do
_DEFLATED, _RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.113619.5.2")
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}  # JPEG, JPEG-LS


@contextmanager
def quiet() -> Iterator[None]:
    """Without pydicom's own warnings: they quote header text. What matters to medcycle, it finds and says itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
        yield


@dataclass(frozen=True)
class Header:
    """A DICOM file and its data set without pixels."""

    path: Path
    data: Any

    def text(self, keyword: str) -> str:
        """An attribute as printable text, "" if absent, empty or damaged."""
        return _text(self.data, keyword)

    def meta(self, keyword: str) -> str:
        """An attribute of the file meta information likewise."""
        return _text(getattr(self.data, "file_meta", {}), keyword)


def _text(data: Any, keyword: str) -> str:
    try:
        with quiet():
            value = data.get(keyword)
            text = "" if value is None else str(value)
    except Exception:  # pydicom converts values late, and damaged ones raise many kinds
        return ""
    # A damaged length makes a value run on into the elements behind it, and so perhaps into the patient's name: but
    # the number of each element behind holds a zero byte.
    text = re.split(r"\x00|\\x00", text, maxsplit=1)[0].strip()
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def load(path: Path, *, pixels: bool) -> Any:
    """The data set of a file, with or without the pixels (and all that follows them).

    Raises:
        Exception: of many kinds, by pydicom, for damaged bytes; ValueError for a decompression bomb.
    """
    with path.open("rb") as file:
        deflated = _DEFLATED.encode() in file.read(4096)
    with quiet():
        return _inflated(path, pixels) if deflated else _plain(path, pixels)


def _plain(path: Path, pixels: bool) -> Any:
    import pydicom

    with BoundedFile(path) as file:
        return pydicom.dcmread(file, stop_before_pixels=not pixels, force=True)


def _inflated(path: Path, pixels: bool) -> Any:
    """The data set of a deflated file; of the header's part no more is inflated than any header takes."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.filereader import read_dataset, read_preamble

    with BoundedFile(path) as file:
        preamble = read_preamble(file, force=True)
        meta = FileMetaDataset(read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2))
        if meta.get("TransferSyntaxUID") != _DEFLATED:  # only mentioned it
            return _plain(path, pixels)
        packed = file.read()
    content = _inflate(packed, _MAX_HEADER)
    stop = None if pixels else lambda tag, vr, length: tag in _PIXELS
    if pixels:
        start = Header(path, read_dataset(io.BytesIO(content), False, True, stop_when=lambda tag, *_: tag in _PIXELS))
        size = [int(start.text(keyword) or 1) for keyword in ("Rows", "Columns", "NumberOfFrames", "BitsAllocated")]
        limit = _MAX_HEADER + math.prod(size) // 8
        content = _inflate(packed, limit)
        if len(content) > limit:
            raise ValueError(f"{len(packed)} deflated bytes inflate to more than the {limit} that its header asks for")
    data = read_dataset(io.BytesIO(content), False, True, stop_when=stop)
    found = FileDataset(path, data, preamble, meta, False, True)
    found.set_original_encoding(False, True, data.get("SpecificCharacterSet"))
    return found


def _inflate(packed: bytes, limit: int) -> bytes:
    """What is packed, but of more than `limit` bytes only that many and one."""
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, limit + 1)


def check_claim(path: Path, syntax: str, claimed: int) -> None:
    """Refuse a file whose header claims more bytes of pixels than the file can hold, before any are made room for.

    Args:
        path: the file.
        syntax: the UID of its transfer syntax, "" if it does not say.
        claimed: rows x columns x frames x bytes a pixel, by the header.

    Raises:
        ScanError: naming both sizes.
    """
    size = path.stat().st_size
    if syntax in ("", *_UNCOMPRESSED):
        allowed = size
    elif syntax == _RLE:
        allowed = min(MAX_DECODED, _RLE_RATIO * size)
    else:
        allowed = min(MAX_DECODED, max(_SMALL, _RATIO * size))
    if claimed > allowed:
        raise ScanError(
            f"{path}: its header claims {claimed} bytes of pixels, but the file has {size}"
            f"{'' if syntax in ('', *_UNCOMPRESSED) else f' compressed bytes, good for {allowed} at most'}. It is "
            "truncated or damaged: fetch it again."
        )


def check_code(path: Path, data: Any) -> None:
    """Refuse JPEG, JPEG-LS and JPEG 2000 frames that say another size than the header, before a decoder believes them.

    Raises:
        ScanError: naming both sizes.
    """
    from pydicom.encaps import generate_frames

    header = (int(data.Rows), int(data.Columns), 1)
    count = int(data.get("NumberOfFrames") or 1)
    for number, frame in enumerate(generate_frames(data.PixelData, number_of_frames=count), start=1):
        coded = coded_shape(frame)
        if coded is not None and coded != header:
            rows, columns, samples = coded
            raise ScanError(
                f"{path}: the compressed image of frame {number} has {rows} x {columns} pixels of {samples} value(s), "
                f"but the header says {header[0]} x {header[1]} of 1. The file is damaged: fetch it again."
            )


def coded_shape(frame: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components that a JPEG, JPEG-LS or JPEG 2000 codestream says it has; None: it does not say."""
    try:
        if frame[:2] != b"\xff\xd8":
            start = frame.index(b"\xff\x4f\xff\x51")  # may lie in a JP2 box
            right, lower, left, upper = struct.unpack_from(">4I", frame, start + 8)
            (components,) = struct.unpack_from(">H", frame, start + 40)
            return lower - upper, right - left, components
        at = 2
        while True:
            while frame[at] == 0xFF and frame[at + 1] == 0xFF:  # fill bytes
                at += 1
            marker, length = struct.unpack_from(">xBH", frame, at)
            if frame[at] != 0xFF or marker in (0xD9, 0xDA):
                return None
            if marker in _START_OF_FRAME:
                rows, columns, components = struct.unpack_from(">HHB", frame, at + 5)
                return rows, columns, components
            at += 2 + length
    except (ValueError, IndexError, struct.error):
        return None
