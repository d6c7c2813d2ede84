"""What other archives hold: files damaged, retired, of every class, with nonsense for values; folders with worse.

Each is read, or refused with a ScanError that names it, in seconds. Made with pydicom and by hand; see also the files
that pydicom installs (test_dicom_corpus) and the fuzz run (tests/fuzz).
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from medcycle.errors import ScanError
from medcycle.io import find_scans, read_volume
from medcycle.prepare.identity import scan_files

Slice = Callable[..., Any]
Maker = Callable[..., Path]
LONG = ("OB", "OW", "SQ", "UN", "UT", "OF", "OD")  # value representations with a length of four bytes
READ = "read"

pytestmark = [
    pytest.mark.filterwarnings("ignore:Invalid value for VR"),  # of making them
    pytest.mark.filterwarnings("ignore:The value length"),
]


def outcome(path: Path) -> str:
    """READ, or why not; another exception, a foreign warning or a long wait fails the test."""
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            volume = read_volume(path)
            result = READ
            assert np.isfinite(volume.array).all()
        except ScanError as error:
            result = str(error)
            assert str(path) in result
    assert [str(one.message) for one in caught if not str(one.message).startswith(str(path))] == []
    assert time.perf_counter() - start < 5
    return result


def saved(data: Any, path: Path, syntax: str = "") -> Path:
    if syntax:
        data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path, enforce_file_format=True)
    return path


def elements(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Tag, start and end of each element of an explicit little-endian file, after its meta information."""
    at = 144 + int(struct.unpack_from("<I", content, 140)[0])
    while at < len(content):
        group, element, vr = struct.unpack_from("<HH2s", content, at)
        value = at + 12 if vr.decode() in LONG else at + 8
        length = struct.unpack_from(
            "<I" if vr.decode() in LONG else "<H", content, value - (4 if value == at + 12 else 2)
        )
        yield group << 16 | element, at, value + int(length[0])
        at = value + int(length[0])


def with_bytes(path: Path, keyword: str, vr: str, value: bytes) -> Path:
    """Replace an element of a saved file by these bytes, whatever they are."""
    tag = tag_for_keyword(keyword) or 0
    content = path.read_bytes()
    start = end = None
    for here, first, last in elements(content):
        if here >= tag:
            start, end = first, last if here == tag else first
            break
    length = struct.pack("<HI", 0, len(value)) if vr in LONG else struct.pack("<H", len(value))
    element = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode() + length + value
    path.write_bytes(content[:start] + element + content[end:])
    return path


# --- Values -----------------------------------------------------------------------------------------------------------

NEEDED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept")
NOT_NEEDED = ("SliceThickness", "SpacingBetweenSlices", "SeriesNumber", "InstanceNumber", "WindowCenter", "EchoTime")
SIZES = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel")
TEXTS = ("Modality", "SeriesInstanceUID", "SOPClassUID", "ImageType", "SpecificCharacterSet", "PatientName")
NO_NUMBERS = [b"", b"NaN ", b"inf\\inf\\inf ", b"abc\\d\xe9f", b"1,5\\2,5 ", b"1e999\\1e999 ", b"\0\0\0\0", b"\\\\\\\\"]
NO_NUMBERS += [b"1\\2\\3\\4\\5\\6\\7\\8 ", b"1.0 1.0 ", b"0x10"]


@pytest.mark.parametrize("keyword", [*NEEDED, *NOT_NEEDED])
def test_numbers_that_are_none(tmp_path: Path, make_slice: Slice, keyword: str) -> None:
    for number, value in enumerate(NO_NUMBERS):
        path = saved(make_slice(1, "1.2.3", RescaleSlope=1, RescaleIntercept=0), tmp_path / f"{number}.dcm")
        for vr in (dictionary_VR(keyword), "UN", "ZZ"):
            result = outcome(with_bytes(path, keyword, vr, value))
            assert (result == READ) == (keyword in NOT_NEEDED), (value, vr, result)
    for vr, value in (("SQ", b""), ("FD", struct.pack("<d", np.nan)), ("US", b"\1\0")):
        path = saved(make_slice(1, "1.2.3", RescaleSlope=1, RescaleIntercept=0), tmp_path / f"{vr}.dcm")
        outcome(with_bytes(path, keyword, vr, value))


@pytest.mark.parametrize("keyword", SIZES)
def test_sizes_that_are_none(tmp_path: Path, make_slice: Slice, keyword: str) -> None:
    wrong = [("US", value) for value in (b"", b"\1", b"\xff\xff", b"abcd", b"\4\0\5\0\6\0")]
    for number, (vr, value) in enumerate([*wrong, ("DS", b"four"), ("SQ", b""), ("UN", b"\7")]):
        path = saved(make_slice(1, "1.2.3"), tmp_path / f"{number}.dcm")
        assert outcome(with_bytes(path, keyword, vr, value)) != READ


@pytest.mark.parametrize("keyword", TEXTS)
def test_texts_that_are_none(tmp_path: Path, make_slice: Slice, keyword: str) -> None:
    nonsense = [b"", b"\xff\xfe\xfd\xfc", b"a\\b\\c ", b"\x1b$B\x1b(J", b"%s%n../..", b"\0" * 8]
    for number, value in enumerate(nonsense):
        path = saved(make_slice(1, "1.2.3"), tmp_path / f"{number}.dcm")
        assert outcome(with_bytes(path, keyword, "CS", value)) == READ
    assert outcome(with_bytes(path, keyword, "SQ", b"")) == READ


# --- Kinds ------------------------------------------------------------------------------------------------------------

STORAGE = "1.2.840.10008.5.1.4.1.1."
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "PET": ({"SOPClassUID": STORAGE + "128", "Modality": "PT", "RescaleSlope": 2, "RescaleIntercept": 0}, READ),
    "cine": (
        {"SOPClassUID": STORAGE + "3.1", "NumberOfFrames": 2, "PixelData": bytes(80)},
        "2 frames that say nothing",
    ),
    "x-ray": (
        dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")),
        "no usable Image",
    ),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "a colour image"),
    "two values": ({"SamplesPerPixel": 2}, "a colour image"),
    "unknown photometric": ({"PhotometricInterpretation": "FOO"}, "FOO"),
    "packed 12 bits": ({"BitsAllocated": 12, "PixelData": bytes(30)}, "Bits Allocated"),
    "one bit": ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelData": b"\xff\x0f\1\0"}, READ),
    "64 bits": ({"BitsAllocated": 64, "BitsStored": 64, "HighBit": 63, "PixelData": bytes(160)}, READ),
    "stored beyond allocated": ({"BitsStored": 20}, "Bits Stored"),
    "odd number of bytes": (
        {"Columns": 3, "Rows": 3, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": bytes(10)},
        READ,
    ),
    "no pixels": ({"PixelData": b""}, "DICOM pixels"),
    "too few pixels": ({"PixelData": bytes(38)}, "less than expected"),
    "too many pixels": ({"PixelData": bytes(80)}, "frame 2"),
    "slope 0": ({"RescaleSlope": 0, "RescaleIntercept": 0}, "Rescale Slope"),
    "axes of length 2": ({"ImageOrientationPatient": [2, 0, 0, 0, 2, 0]}, "no plane of unit directions"),
    "no axes": ({"ImageOrientationPatient": [0] * 6}, "no plane of unit directions"),
    "pixels of a nanometre": ({"PixelSpacing": [1e-6, 1e-7]}, "singular"),
    "CT that is cut": ({"SOPClassUID": STORAGE + "2", "Rows": None}, "a CT image without an image"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_images(tmp_path: Path, make_slice: Slice, kind: str) -> None:
    changes, expected = KINDS[kind]
    assert expected in outcome(saved(make_slice(1, "1.2.3", **changes), tmp_path / "a.dcm"))


def test_float_pixels(tmp_path: Path, make_slice: Slice) -> None:
    values = np.linspace(-3, 5, 20)
    for keyword, kind, bits in (("FloatPixelData", "<f4", 32), ("DoubleFloatPixelData", "<f8", 64)):
        data = make_slice(1, "1.2.3", PixelData=None, BitsAllocated=bits)
        setattr(data, keyword, values.astype(kind).tobytes())
        volume = read_volume(saved(data, tmp_path / "a.dcm"))
        assert np.array_equal(volume.array[0, :, :, 0], values.astype(np.float32).reshape(4, 5).T)
        setattr(data, keyword, np.full(20, np.nan, kind).tobytes())
        assert "NaN or infinite" in outcome(saved(data, tmp_path / "a.dcm"))


def test_modality_tables(tmp_path: Path, make_slice: Slice) -> None:
    def table(descriptor: list[int], values: bytes) -> Dataset:
        item = Dataset()
        item.LUTDescriptor, item.ModalityLUTType = descriptor, "HU"
        item.add_new(0x00283006, "OW", values)
        return item

    full = np.arange(4096, dtype="<u2")[::-1].tobytes()
    volume = read_volume(
        saved(make_slice(1, "1.2.3", ModalityLUTSequence=[table([4096, 0, 16], full)]), tmp_path / "a")
    )
    assert (volume.array.min(), volume.array.max()) == (4095 - 134, 4095 - 100)
    for items in ([table([4096, 0, 16], bytes(10))], [table([0, 0, 0], b"")], [Dataset()]):
        path = saved(make_slice(1, "1.2.3", ModalityLUTSequence=items), tmp_path / "a")
        assert "modality lookup table" in outcome(path)


def test_enhanced_images(tmp_path: Path, make_enhanced: Slice) -> None:
    per, shared = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
    for keyword in (per, shared):
        nothing = [b"\xfe\xff\0\xe0\x08\0\0\0", b"\xfe\xff\0\xe0\xff\xff\xff\xff", b"junkjunkjunk"]
        for vr, value in [("UN", bytes(8)), ("LO", b"x "), ("US", b"\1\0"), *(("SQ", one) for one in nothing)]:
            path = saved(make_enhanced(), tmp_path / "a.dcm")
            assert outcome(with_bytes(path, keyword, vr, value)) != READ
    for keyword in ("PlanePositionSequence", "PixelValueTransformationSequence"):
        data = make_enhanced()
        setattr(data[per][1], keyword, [])
        assert outcome(saved(data, tmp_path / "a.dcm")) != READ
    for changes, expected in (
        ({shared: []}, "no usable Image Orientation"),
        ({per: []}, "3 frames that say nothing"),
        ({"NumberOfFrames": 0}, "describes 3"),
        ({"NumberOfFrames": -3}, "describes 3"),
        ({"PixelData": bytes(80)}, "less than expected"),
        ({"PixelData": bytes(160)}, "frame 4"),
        ({"SOPClassUID": STORAGE + "2.1", "Modality": "CT"}, READ),
        ({"SOPClassUID": STORAGE + "13.1.3", "Modality": "MG"}, READ),
    ):
        assert expected in outcome(saved(make_enhanced(**changes), tmp_path / "a.dcm"))


# --- Encodings --------------------------------------------------------------------------------------------------------


def test_cut_files(tmp_path: Path, make_slice: Slice) -> None:
    path = saved(make_slice(1, "1.2.3"), tmp_path / "a.dcm")
    content = path.read_bytes()
    for length in (*range(0, len(content), 13), len(content) - 1):
        path.write_bytes(content[:length])
        assert outcome(path) != READ
    for start in (bytes(5000), b"\xff" * 5000, bytes(128) + b"DICM", bytes(128) + b"DICM" + b"\xff" * 500):
        path.write_bytes(start)
        assert outcome(path) != READ
    for more in (bytes(1000), b"junk" * 100):
        path.write_bytes(content + more)
        assert outcome(path) == READ


def test_headers_that_lie_about_the_encoding(tmp_path: Path, make_slice: Slice) -> None:
    path = saved(make_slice(1, "1.2.3"), tmp_path / "a.dcm")
    content = path.read_bytes()
    end = 144 + struct.unpack_from("<I", content, 140)[0]
    expected = read_volume(path).array
    for part in (content[132:], content[end:], content[:132] + content[end:]):  # no preamble, no meta, either
        path.write_bytes(part)
        assert np.array_equal(read_volume(path).array, expected)
    for length in (3, 9999):
        path.write_bytes(content[:140] + struct.pack("<I", length) + content[144:])
        assert np.array_equal(read_volume(path).array, expected)
    for syntax in (b"1.2.840.10008.1.2.2\0", b"1.2.840.10008.1.2.5\0"):  # big endian, RLE
        path.write_bytes(content[:end].replace(b"1.2.840.10008.1.2.1\0", syntax) + content[end:])
        assert outcome(path) != READ


@pytest.mark.parametrize(
    "syntax",
    [f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 92, 94, 100, 102, 107, 110, 201, 203)]
    + [
        "1.2.840.10008.1.2.5",
        "1.2.840.10008.1.2.1.98",
        "1.2.840.10008.1.2.6.1",
        "1.2.826.0.1.3680043.2.494.1.1",
        "1.9",
    ],
)
def test_syntaxes_with_nonsense_inside(
    tmp_path: Path, make_slice: Slice, capfd: pytest.CaptureFixture[str], syntax: str
) -> None:
    for frame in (b"\0\0", bytes(64), b"\xff\xd8\xff\xd9", b"\xff\x4f\xff\x51" + bytes(60), b"hello!"):
        data = make_slice(1, "1.2.3", PixelData=encapsulate([frame]))
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = JPEG2000Lossless
        path = saved(data, tmp_path / "a.dcm")
        old, new = JPEG2000Lossless.encode(), syntax.encode() + b"\0" * (len(syntax) % 2)
        content = path.read_bytes()
        at = content.index(b"UI\x16\0" + old) + 2
        length = struct.unpack_from("<I", content, 140)[0] + len(new) - len(old)
        content = content[:at] + struct.pack("<H", len(new)) + new + content[at + 2 + len(old) :]
        path.write_bytes(content[:140] + struct.pack("<I", length) + content[144:])
        assert outcome(path) != READ
    capfd.readouterr()  # decoders write to the terminal


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_damaged_codes(tmp_path: Path, make_slice: Slice, capfd: pytest.CaptureFixture[str], syntax: Any) -> None:
    values = (np.arange(1024) % 4096).astype("<u2").tobytes()
    data = make_slice(1, "1.2.3", Rows=32, Columns=32, PixelData=values)
    data.compress(syntax)
    assert outcome(saved(data, tmp_path / "a.dcm")) == READ
    whole, rng = data.PixelData, np.random.default_rng(0)
    for length in (20, 40, len(whole) // 2):
        data.PixelData = whole[:length]
        assert outcome(saved(data, tmp_path / "a.dcm")) != READ
    for _ in range(15):
        damaged = bytearray(whole)
        for at in rng.integers(20, len(whole) - 10, 3):
            damaged[at] = rng.integers(256)
        data.PixelData = bytes(damaged)
        outcome(saved(data, tmp_path / "a.dcm"))
    capfd.readouterr()


# --- Folders ----------------------------------------------------------------------------------------------------------


def test_pipes_sockets_devices_and_links(tmp_path: Path, make_series: Maker) -> None:
    folder = make_series(tmp_path / "series")
    for file in folder.iterdir():
        file.rename(file.with_suffix(""))  # so that each is looked into
    for name in ("0", "p.dcm", "p.nii.gz", "p.nrrd", "p.png"):
        os.mkfifo(folder / name)
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(folder)  # a socket's path has 108 bytes at most
        listening.bind("s.dcm")
        os.chdir(here)
    (folder / "zero.dcm").symlink_to("/dev/zero")
    (folder / "broken.dcm").symlink_to("/nowhere/a.dcm")
    (folder / "loop.dcm").symlink_to("loop.dcm")
    (folder / "self").symlink_to(".")
    assert read_volume(folder).space == (5, 4, 4)
    for name in ("0", "p.dcm", "p.nii.gz", "p.nrrd", "p.png", "s.dcm", "zero.dcm"):
        assert "a pipe, socket or device" in outcome(folder / name)
        with pytest.raises(ScanError, match="a pipe, socket or device"):
            scan_files(folder / name)  # what preparing looks at first
    for name in ("broken.dcm", "loop.dcm"):
        assert "no such file" in outcome(folder / name)
    for name in ("p.nii.gz", "p.nrrd", "p.png"):
        (folder / name).unlink()
    assert find_scans(tmp_path) == [folder]
    assert outcome(tmp_path / ("x" * 300)).startswith(str(tmp_path))
    with pytest.raises(ScanError, match="too long"):
        find_scans(tmp_path / ("x" * 300))


def test_junk_beside_the_slices(tmp_path: Path, make_series: Maker) -> None:
    folder = make_series(tmp_path / "series")
    junk = {"Thumbs.db": b"\xd0\xcf\x11\xe0" * 99, "._s99.dcm": b"mac", "autorun.inf": b"[autorun]", "empty": b""}
    for name, content in (junk | {"DICOMDIR": b"junk", "s.dcm.part": b"abc"}).items():
        (folder / name).write_bytes(content)
    (folder / "sub.dcm").mkdir()
    assert read_volume(folder).space == (5, 4, 4)
    for name, content in {"empty.dcm": b"", "login.dcm": b"<html>please log in</html>"}.items():
        (folder / name).write_bytes(content)
        assert name in str(outcome_of(folder))
        (folder / name).unlink()


def outcome_of(folder: Path) -> str:
    """Why a folder is refused; the message may name one of its files only."""
    with pytest.raises(ScanError) as caught:
        read_volume(folder)
    return str(caught.value)


def test_a_cut_slice_does_not_make_a_shorter_scan(tmp_path: Path, make_series: Maker) -> None:
    folder = make_series(tmp_path / "series")
    last = folder / "s96.dcm"  # no gap would tell of it
    content = last.read_bytes()
    for length in (135, 200, 300, 450, 600):
        last.write_bytes(content[:length])
        assert "s96.dcm" in outcome_of(folder)
        assert "truncated or damaged" in outcome_of(folder)


def test_mixed_encodings_are_one_scan(tmp_path: Path, make_series: Maker, make_slice: Slice) -> None:
    folder = make_series(tmp_path / "series", [0, 2, 3])
    data = make_slice(1, "1.2.3.4.111111111111", PixelRepresentation=1)
    data.compress(RLELossless)
    data.save_as(folder / "compressed", enforce_file_format=True)
    assert np.array_equal(read_volume(folder).array[0, 0, 0], [0, 100, 200, 300])
    shutil.copy(folder / "compressed", folder / "compressed (1)")
    assert "lie where another one lies" in outcome_of(folder)


def test_what_must_not_be_read(make_series: Maker) -> None:
    """In a process of its own that gives up root's rights, if it has them."""
    script = textwrap.dedent(
        """
        import os, sys, warnings
        from medcycle.errors import ScanError
        from medcycle.io import find_scans, read_volume
        read_volume(sys.argv[1])  # all that is imported late
        if os.geteuid() == 0:
            os.seteuid(65534)
        warnings.simplefilter("ignore")
        for path in sys.argv[2:]:
            for look in (read_volume, find_scans):
                try:
                    print(look.__name__, "read", look(path))
                except ScanError as error:
                    print(look.__name__, error)
        """
    )
    with tempfile.TemporaryDirectory() as made:
        top = Path(made)
        top.chmod(0o755)
        names = ("fine", "one", "whole", "locked", "listed")
        fine, one, whole, locked, listed = (make_series(top / name) for name in names)
        (one / "s98.dcm").chmod(0)
        (whole / "s96.dcm").rename(whole / "last")  # no gap would tell of it, nor its name
        (whole / "last").chmod(0)
        locked.chmod(0)
        listed.chmod(0o444)  # its names can be seen, its files not
        paths = [one / "s98.dcm", whole, locked, locked / "s98.dcm", listed, listed / "s98.dcm", f"{listed}/*.dcm", top]
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, [fine, *paths])],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        locked.chmod(0o755)
        listed.chmod(0o755)
    assert done.stderr == ""
    assert f"read_volume {one}/s98.dcm: no permission to read it" in done.stdout
    assert f"read_volume {whole}/last: no permission to read it" in done.stdout
    assert f"read_volume {locked}: no permission to read it" in done.stdout
    assert f"find_scans {locked}/s98.dcm: no permission to read it" in done.stdout


def test_retired_standards(tmp_path: Path, make_slice: Slice) -> None:
    """ACR-NEMA 2.0: no preamble, no UIDs, the place under retired tags."""
    data = make_slice(1, "1.2.3", SOPClassUID="")
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "SOPClassUID"):
        del data[keyword]
    data.add_new(0x00080010, "SH", "ACR-NEMA 2.0")
    data.add_new(0x00200030, "DS", ["-10", "-20", "30"])
    data.add_new(0x00200035, "DS", ["1", "0", "0", "0", "1", "0"])
    del data.file_meta
    pydicom.dcmwrite(tmp_path / "acr", data, implicit_vr=True, little_endian=True)
    assert "no usable Image Position (Patient), Image Orientation (Patient)" in outcome(tmp_path / "acr")
