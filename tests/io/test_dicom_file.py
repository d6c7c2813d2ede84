"""Headers that lie about sizes, bombs, and the encodings of pixels: bounded memory, and right or refused."""

from __future__ import annotations

import contextlib
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from medcycle.errors import ScanError
from medcycle.io import read_volume
from medcycle.io.dicom_file import coded_shape
from medcycle.io.dicom_series import read_header

Slice = Callable[..., Any]
DEFLATED = "1.2.840.10008.1.2.1.99"


def refused(path: Path, reason: str) -> None:
    """Refused for that reason, quickly and without room for the pixels that the file claims."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(ScanError, match=reason):
            read_volume(path)
        assert time.perf_counter() - start < 5
        assert tracemalloc.get_traced_memory()[1] < 400 << 20
    finally:
        tracemalloc.stop()


def save(data: Any, path: Path, syntax: str = "") -> Path:
    if syntax:
        data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path, enforce_file_format=True)
    return path


def deflate(path: Path, data: Any, *more: bytes) -> Path:
    """The data set in the deflated syntax, with more bytes behind it."""
    save(data, path, DEFLATED)
    content = path.read_bytes()
    end = 144 + int.from_bytes(content[140:144], "little")  # the meta information says its length
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    packed = packer.compress(zlib.decompress(content[end:], -zlib.MAX_WBITS))
    path.write_bytes(content[:end] + packed + b"".join(packer.compress(part) for part in more) + packer.flush())
    return path


def test_deflated(tmp_path: Path, make_slice: Slice) -> None:
    expected = read_volume(save(make_slice(1, "1.2.3"), tmp_path / "plain.dcm"))
    volume = read_volume(deflate(tmp_path / "deflated.dcm", make_slice(1, "1.2.3")))
    assert np.array_equal(volume.array, expected.array)
    assert np.array_equal(volume.affine, expected.affine)
    named = make_slice(1, "1.2.3", ImageComments=f"not {DEFLATED}")
    assert np.array_equal(read_volume(save(named, tmp_path / "named.dcm")).array, expected.array)


def test_deflated_bombs(tmp_path: Path, make_slice: Slice) -> None:
    zeros = [bytes(1 << 24)] * 24  # 384 MiB
    path = deflate(tmp_path / "tail.dcm", make_slice(0, "1.2.3"), *zeros)
    assert path.stat().st_size < 4 << 20
    refused(path, "inflate to more than")
    header = make_slice(0, "1.2.3", PixelData=None)
    refused(deflate(tmp_path / "head.dcm", header, *[b"\x09\0\x10\0UN\0\0\0\0\0\x20", *zeros]), "tail|claims|cannot")
    large = make_slice(0, "1.2.3", Rows=60000, Columns=30000, PixelData=bytes(1 << 20))
    refused(deflate(tmp_path / "large.dcm", large), "claims 3600000000 bytes of pixels, but the file has")
    cut = deflate(tmp_path / "cut.dcm", make_slice(0, "1.2.3"))
    cut.write_bytes(cut.read_bytes()[:-40])
    refused(cut, str(cut))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_sizes_that_the_file_cannot_hold(tmp_path: Path, make_slice: Slice, syntax: str) -> None:
    data = make_slice(0, "1.2.3", Rows=65535, Columns=65535)
    if syntax != "1.2.840.10008.1.2":
        data.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(100)])
    refused(save(data, tmp_path / "a.dcm", syntax), "claims 8589672450 bytes of pixels, but the file has")


def test_lengths_beyond_the_file(tmp_path: Path, make_slice: Slice) -> None:
    """pydicom makes room for what an element's length claims before it reads."""
    data = make_slice(0, "1.2.3")
    data.LongCodeValue = "some text"  # of a VR with four bytes of length
    content = bytearray(save(data, tmp_path / "a.dcm").read_bytes())
    place = content.index(b"UC", content.index(b"\x08\x00\x19\x01"))
    content[place + 4 : place + 8] = (0xF0000000).to_bytes(4, "little")
    (tmp_path / "a.dcm").write_bytes(content)
    refused(tmp_path / "a.dcm", "a.dcm")


def test_a_value_that_runs_on_into_the_patient_is_not_told(tmp_path: Path, make_slice: Slice) -> None:
    data = make_slice(0, "1.2.3")
    content = bytearray(save(data, tmp_path / "a.dcm").read_bytes())
    place = content.index(b"\x08\x00\x60\x00CS") + 6  # the modality, up to the very rows
    content[place : place + 2] = (content.index(b"\x28\x00\x11\x00US") - place).to_bytes(2, "little")
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(ScanError, match=r"without an image") as told:
        read_volume(tmp_path / "a.dcm")
    assert "Secretname" not in str(told.value)
    text = read_header(tmp_path / "a.dcm").text("Modality")
    assert text.strip("[']").startswith("MR")
    assert len(text) < 10


def test_meta_information_of_no_known_kind(tmp_path: Path, make_slice: Slice) -> None:
    path = save(make_slice(0, "1.2.3"), tmp_path / "a.dcm")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x02\x00\x02\x00UI", b"\x02\x00\x02\x00U\0"))
    with contextlib.suppress(ScanError):  # read or refused; nothing else
        read_volume(path)


def test_many_frames(tmp_path: Path, make_enhanced: Slice) -> None:
    refused(save(make_enhanced(NumberOfFrames=2**31 - 1), tmp_path / "a.dcm"), "says it has 2147483647 frames")
    data = make_enhanced(Rows=30000, Columns=30000)
    refused(save(data, tmp_path / "b.dcm"), "claims 5400000000 bytes")


@pytest.mark.parametrize("changes", [{"Rows": 4, "BitsAllocated": 0}, {"Rows": [4, 4]}, {"BitsAllocated": 12}])
def test_sizes_that_are_none(tmp_path: Path, make_slice: Slice, changes: dict[str, Any]) -> None:
    refused(save(make_slice(0, "1.2.3", **changes), tmp_path / "a.dcm"), "no size of an image|cannot be read as DICOM")


def codestream(rows: int, columns: int, samples: int) -> bytes:
    """The start of a JPEG 2000 image."""
    size = struct.pack(">HH8IH", 38 + 3 * samples, 0, columns, rows, 0, 0, columns, rows, 0, 0, samples)
    return b"\xff\x4f\xff\x51" + size + b"\x0f\x01\x01" * samples


def frame_header(marker: int, rows: int, columns: int, samples: int = 1) -> bytes:
    """The start of a JPEG or JPEG-LS image, after a comment."""
    size = struct.pack(">HBHHB", 8 + 3 * samples, 12, rows, columns, samples)
    return b"\xff\xd8\xff\xfe\0\x07hello\xff\xff" + bytes([marker]) + size + b"\1\x11\0" * samples


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (JPEG2000Lossless, codestream(60000, 60000, 1)),
        (JPEG2000Lossless, b"\0\0\0\x0cjP  \r\n\x87\n" + codestream(4, 5, 16384)),
        (JPEGLSLossless, frame_header(0xF7, 60000, 60000)),
        ("1.2.840.10008.1.2.4.70", frame_header(0xC3, 60000, 60000)),
        ("1.2.840.10008.1.2.4.50", frame_header(0xC0, 4, 5, 3)),
    ],
)
def test_codes_of_another_size_than_the_header(tmp_path: Path, make_slice: Slice, syntax: str, frame: bytes) -> None:
    data = make_slice(0, "1.2.3", PixelData=encapsulate([frame + bytes(50)]))
    refused(save(data, tmp_path / "a.dcm", syntax), r"frame 1 has .*, but the header says 4 x 5 of 1")


def test_sizes_in_codes_are_found() -> None:
    assert coded_shape(codestream(7, 9, 2)) == (7, 9, 2)
    assert coded_shape(frame_header(0xC1, 7, 9)) == (7, 9, 1)
    for damaged in (
        b"",
        b"\xff\xd8",
        b"hello",
        codestream(7, 9, 1)[:20],
        frame_header(0xC1, 7, 9)[:12],
        b"\xff\xd8\xff\xd9",
    ):
        assert coded_shape(damaged) is None


def test_sequences_a_thousand_deep(tmp_path: Path, make_slice: Slice) -> None:
    item, end = b"\xfe\xff\0\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    sequence = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff"
    path = save(make_slice(0, "1.2.3"), tmp_path / "a.dcm")
    content = path.read_bytes()
    at = content.index(b"\x10\0\x10\0PN")  # before the patient's name
    for depth in (1000, 20000):
        path.write_bytes(content[:at] + (sequence + item) * depth + end * depth + content[at:])
        refused(path, "cannot be read as DICOM")
    # As deep within a value of known length, which is looked into when it is asked for.
    inner = (sequence + item) * 5000 + end * 5000
    groups = b"\0\x52\x30\x92SQ\0\0" + (len(inner) + 8).to_bytes(4, "little")
    at = content.index(b"\xe0\x7f\x10\0")
    nested = groups + b"\xfe\xff\0\xe0" + len(inner).to_bytes(4, "little") + inner
    path.write_bytes(content[:at] + nested + content[at:])
    refused(path, "cannot be read as DICOM|says it has no frames")


@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # of making them
def test_numbers_beyond_all_scanners(tmp_path: Path, make_slice: Slice) -> None:
    for changes, reason in (
        ({"PixelSpacing": ["1e300", "1e300"]}, "beyond 1000000 mm"),
        ({"ImagePositionPatient": ["1e308", "1e308", "-1e308"]}, "beyond 1000000 mm"),
        ({"RescaleSlope": "1e300", "RescaleIntercept": "0"}, "NaN or infinite"),
        ({"PixelSpacing": ["nan", "inf"]}, "no usable Pixel Spacing"),
    ):
        refused(save(make_slice(1, "1.2.3", **changes), tmp_path / "a.dcm"), reason)


def test_pydicoms_warnings_and_settings_stay_its_own(
    tmp_path: Path, make_slice: Slice, recwarn: pytest.WarningsRecorder
) -> None:
    before = vars(pydicom.config.settings).copy()
    path = save(make_slice(1, "1.2.3"), tmp_path / "a.dcm")
    content = path.read_bytes()
    at = content.index(b"\x20\0\x13\0IS") + 8
    path.write_bytes(content[:at] + b"Secretname"[: content[at - 2]] + content[at + content[at - 2] :])
    assert read_volume(path).space == (5, 4, 1)
    assert not recwarn.list
    assert vars(pydicom.config.settings) == before


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (16, False), (16, True)])
def test_jpeg_lossless_by_gdcm(tmp_path: Path, make_slice: Slice, bits: int, signed: bool) -> None:
    kind = np.dtype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    pixels = np.random.default_rng(bits).integers(low, high, (24, 20)).astype(kind)
    made = tmp_path / "by-itk.dcm"
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(made))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.Execute(sitk.GetImageFromArray(pixels))
    coded = pydicom.dcmread(made)
    assert coded.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    data = make_slice(1, "1.2.3", Rows=24, Columns=20, PixelData=coded.PixelData, RescaleSlope=2, RescaleIntercept=-5)
    for keyword in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        setattr(data, keyword, coded[keyword].value)
    volume = read_volume(save(data, tmp_path / "a.dcm", "1.2.840.10008.1.2.4.70"))
    assert np.array_equal(volume.array[0, :, :, 0], pixels.T.astype(np.float32) * 2 - 5)
    assert volume.spacing[:2] == (0.75, 0.5)


def test_damaged_jpeg(tmp_path: Path, make_slice: Slice) -> None:
    data = make_slice(0, "1.2.3", PixelData=encapsulate([frame_header(0xC3, 4, 5) + bytes(60)]))
    refused(save(data, tmp_path / "a.dcm", "1.2.840.10008.1.2.4.70"), r"DICOM pixels \(JPEG Lossless")
