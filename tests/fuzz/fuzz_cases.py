"""Damaged scans: case(seed, index) is always the same, so a failure is made again from these two numbers.

    python tests/fuzz/fuzz_cases.py SEED INDEX FOLDER       writes that case into FOLDER

A case is a seed scan after one to four changes: flipped bits, interesting bytes and numbers, cut, doubled or removed
parts, a piece of another seed, and edits that know the format: fields of a NIfTI header, lines of an NRRD or MetaImage
header, elements of a DICOM data set; inside a gzip stream too, and streams that inflate far beyond what is claimed.
"""

from __future__ import annotations

import functools
import gzip
import re
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Rng = np.random.Generator
Change = Callable[[bytes, Rng], bytes]

SEEDS = Path(__file__).parent / "seeds"
CANARY = "canary.raw"
"""A file beside the cases' folder, which no scan may be read from: CANARY_BYTE over and over."""
CANARY_BYTE = 0x5A
SHARES = {"nifti": 0.27, "nrrd": 0.2, "meta": 0.2, "dicom": 0.23, "picture": 0.05, "tiff": 0.05}

INTEGERS = [0, 1, -1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 60000, 0x7FFFFFFF, 0x80000000]
INTEGERS += [0xFFFFFFFE, 0xFFFFFFFF, 0x100000000, 2**40, 2**62, 2**63 - 1, -(2**31), -(2**63)]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-300, 1e30, -1e38, 3.4e38, 1e308, float("nan"), float("inf"), float("-inf")]
TEXTS = [
    "",
    "0",
    "-1",
    "1",
    "2",
    "16",
    "60000",
    "60000 60000 60000",
    "65536",
    "2147483647",
    "4294967296",
    "1e400",
    "nan",
]
TEXTS += [
    "9223372036854775807",
    "99999999999999999999999",
    "-2147483648",
    "inf",
    "1e-320",
    "0 0 0",
    "1 2",
    "abc",
    "%s%n",
]
TEXTS += [
    "../" + CANARY,
    "/etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "|cat /etc/passwd",
    ".",
    "..",
    "scan.nhdr",
    "scan.mhd",
]
TEXTS += [
    "LIST",
    "LIST 3",
    "slice%03d.raw 1 3 1",
    "LOCAL",
    "local",
    "True",
    "False",
    "MET_DOUBLE",
    "MET_LONG_LONG_ARRAY",
]
TEXTS += [
    "MET_OTHER",
    "double",
    "block",
    "long long",
    "gzip",
    "bzip2",
    "raw",
    "ascii",
    "hex",
    "(0,0,0) (0,0,0) (0,0,0)",
]
TEXTS += ["none none none", "(nan,nan,nan)", "\x00", "é", "x" * 300, "1 " * 500, "A" * 100_000]
_NRRD = (
    "type,dimension,sizes,encoding,endian,data file,datafile,byte skip,line skip,spacings,space,space dimension,"
    "space directions,space origin,kinds,block size,axis mins,measurement frame,labels,units,centers,thicknesses,"
    "old min,content,number"
)
_META = (
    "ObjectType,NDims,DimSize,ElementType,ElementDataFile,HeaderSize,ElementSpacing,ElementNumberOfChannels,"
    "CompressedData,CompressedDataSize,BinaryData,BinaryDataByteOrderMSB,TransformMatrix,Offset,Position,"
    "CenterOfRotation,ElementSize,ElementMin,ElementMax,AnatomicalOrientation,DistanceUnits,CompressionLevel,"
    "ElementToIntensityFunctionSlope,ID,Name"
)
FIELDS = {"nrrd": _NRRD.split(","), "meta": _META.split(",")}


@dataclass(frozen=True)
class Case:
    """Files of one folder; `main` is the one to read, or "" for the folder."""

    seed: str
    files: dict[str, bytes]
    main: str

    def write(self, folder: Path) -> Path:
        """Put the files into an existing folder; the path to read."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder / self.main if self.main else folder


@functools.cache
def seeds() -> dict[str, Case]:
    """The valid scans, by name."""
    found = {}
    for folder in sorted(SEEDS.iterdir()):
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        mains = [name for name in files if re.fullmatch(r"scan\.(?!raw|zraw).*", name)]
        found[folder.name] = Case(folder.name, files, mains[0] if mains else "")
    return found


def case(seed: int, index: int) -> Case:
    """The damaged scan of these two numbers."""
    rng = np.random.default_rng([seed, index])
    family = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    start = seeds()[str(rng.choice([name for name in seeds() if name.startswith(family)]))]
    files = dict(start.files)
    for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.5, 0.25, 0.15, 0.1]))):
        # Mostly the file that is read; now and then the data that lies beside it.
        beside = len(files) > 1 and start.main and rng.random() < 0.2
        name = str(rng.choice([n for n in files if n != start.main])) if beside or not start.main else start.main
        files[name] = changed(files[name], name, family, rng)
    return Case(start.seed, files, start.main)


def changed(content: bytes, name: str, family: str, rng: Rng) -> bytes:
    """The content after one change that fits the kind of file, or any."""
    zipped = content[:2] == b"\x1f\x8b"
    if zipped and rng.random() < 0.8:
        return _inside_gzip(content, family, rng)
    knowing: Change | None = None
    if family == "nifti" and not zipped:
        knowing = nifti_field
    elif family in FIELDS and not name.endswith(("raw", "gz")):
        knowing = functools.partial(header_line, fields=FIELDS[family])
    elif family == "dicom":
        knowing = dicom_element
    if knowing is not None and rng.random() < 0.65:
        return knowing(content, rng)
    return any_bytes(content, rng)


# --- Any file ---------------------------------------------------------------------------------------------------------


def any_bytes(content: bytes, rng: Rng) -> bytes:
    """One change that knows nothing of the format."""
    changes: list[Change] = [_flip, _flip, _number, _number, _number, _cut, _double, _remove, _splice]
    return changes[int(rng.integers(len(changes)))](content, rng)


def _place(content: bytes, rng: Rng, size: int = 1) -> int:
    """Somewhere in the content, mostly near its start, where the headers are."""
    room = max(len(content) - size, 0)
    return int(rng.integers(0, (min(room, 400) if rng.random() < 0.7 else room) + 1))


def _put(content: bytes, place: int, piece: bytes) -> bytes:
    return content[:place] + piece + content[place + len(piece) :]


def _flip(content: bytes, rng: Rng) -> bytes:
    array = bytearray(content)
    for _ in range(int(rng.integers(1, 9)) if array else 0):
        array[min(_place(content, rng), len(array) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(array)


def _number(content: bytes, rng: Rng) -> bytes:
    size = int(rng.choice([1, 2, 4, 8]))
    value = INTEGERS[int(rng.integers(len(INTEGERS)))] % 256**size
    return _put(content, _place(content, rng, size), value.to_bytes(size, str(rng.choice(["little", "big"]))))  # type: ignore[arg-type]


def _cut(content: bytes, rng: Rng) -> bytes:
    return content[: int(rng.integers(0, len(content) + 1))]


def _part(content: bytes, rng: Rng) -> tuple[int, int]:
    start = _place(content, rng)
    return start, start + int(rng.integers(1, 200))


def _double(content: bytes, rng: Rng) -> bytes:
    start, end = _part(content, rng)
    return content[:end] + content[start:end] * int(rng.choice([1, 1, 2, 50, 2000])) + content[end:]


def _remove(content: bytes, rng: Rng) -> bytes:
    start, end = _part(content, rng)
    return content[:start] + content[end:]


def _splice(content: bytes, rng: Rng) -> bytes:
    other = seeds()[str(rng.choice(list(seeds())))]
    piece = other.files[other.main or next(iter(other.files))]
    if rng.random() < 0.5:
        start, end = _part(piece, rng)
        return _put(content, _place(content, rng), piece[start:end])
    return content[: _place(content, rng)] + piece[_place(piece, rng) :]


def _inside_gzip(content: bytes, family: str, rng: Rng) -> bytes:
    """A change of what is compressed, or a stream that goes on far beyond it (40 MB of zeros in 40 kB)."""
    try:
        plain = gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return any_bytes(content, rng)
    if rng.random() < 0.03:
        return gzip.compress(plain + bytes(40_000_000), 1, mtime=0)
    plain = nifti_field(plain, rng) if family == "nifti" and rng.random() < 0.7 else any_bytes(plain, rng)
    return gzip.compress(plain, mtime=0)


# --- NIfTI ------------------------------------------------------------------------------------------------------------

# (offset, number type, how many) of the fields of a header of 348 and of 540 bytes
_ONE = [(0, "i", 1), (40, "h", 8), (56, "f", 3), (68, "h", 1), (70, "h", 1), (72, "h", 1), (76, "f", 8), (108, "f", 1)]
_ONE += [(112, "f", 1), (116, "f", 1), (123, "b", 1), (136, "f", 1), (252, "h", 1), (254, "h", 1), (256, "f", 6)]
_ONE += [(280, "f", 12), (344, "i", 1), (348, "i", 1), (352, "i", 2)]
_TWO = [(0, "i", 1), (4, "i", 2), (12, "h", 1), (14, "h", 1), (16, "q", 8), (104, "d", 8), (168, "q", 1), (176, "d", 1)]
_TWO += [(184, "d", 1), (216, "d", 1), (344, "i", 2), (352, "d", 6), (400, "d", 12), (500, "i", 1), (540, "i", 2)]


def nifti_field(content: bytes, rng: Rng) -> bytes:
    """A field of the header given an extreme or a likely value; or all sizes at once."""
    order = "<" if content[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"
    two = 540 in {int.from_bytes(content[:4], kind) for kind in ("little", "big")}
    if rng.random() < 0.1:
        size, place = ("q", 16) if two else ("h", 40)
        rank, length = int(rng.integers(1, 8)), int(rng.choice([1, 2, 1000, 32767]))
        return _put(content, place, struct.pack(f"{order}8{size}", rank, *[length] * 7))
    fields = _TWO if two else _ONE
    place, kind, count = fields[int(rng.integers(len(fields)))]
    place += struct.calcsize(kind) * int(rng.integers(count))
    if kind in "fd":
        value = FLOATS[int(rng.integers(len(FLOATS)))]
        if rng.random() < 0.3:
            value = float(rng.normal() * 10.0 ** int(rng.integers(-5, 10)))
        with np.errstate(over="ignore"):
            return _put(content, place, np.array(value, f"{order}{'f4' if kind == 'f' else 'f8'}").tobytes())
    # The number types of NIfTI besides the extremes, so that some of them come up
    choices = [*INTEGERS, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304]
    size = struct.calcsize(kind)
    integer = choices[int(rng.integers(len(choices)))] % 256**size
    return _put(content, place, integer.to_bytes(size, "little" if order == "<" else "big"))


# --- NRRD and MetaImage -----------------------------------------------------------------------------------------------


def header_line(content: bytes, rng: Rng, fields: list[str]) -> bytes:
    """A line of the text header changed, removed, doubled, or a new one put in."""
    text = content[:800]
    lines = text.split(b"\n")
    at = int(rng.integers(len(lines)))
    field = fields[int(rng.integers(len(fields)))].encode()
    value = TEXTS[int(rng.integers(len(TEXTS)))].encode("latin-1")
    # Most often a field that is there, so that the rest still makes sense
    known = [n for n, line in enumerate(lines) if line.split(b":")[0].split(b" =")[0] == field]
    own = known[0] if known else at
    between = b" = " if b" = " in lines[own] else b": "
    what = int(rng.integers(7))
    if what <= 2 and between in lines[own]:
        lines[own] = lines[own].split(between)[0] + between + value
    elif what == 3:
        numbers = list(re.finditer(rb"-?\d[\d.e+-]*", lines[own]))
        if numbers:
            number = numbers[int(rng.integers(len(numbers)))]
            lines[own] = lines[own][: number.start()] + value + lines[own][number.end() :]
    elif what == 4:
        del lines[own]
    elif what == 5:
        lines.insert(at, lines[own])
    else:
        lines.insert(at, field + between + value)
    return b"\n".join(lines) + content[800:]


# --- DICOM ------------------------------------------------------------------------------------------------------------

# Elements that decide how pixels are read, and where a slice lies
_ELEMENTS = {
    0x0002: [0x0010],  # transfer syntax
    0x0008: [0x0005, 0x0008, 0x2112],  # character set, image type, source images
    0x0018: [0x0050],  # thickness
    0x0020: [0x0032, 0x0037],  # position, orientation
    0x0028: [0x0002, 0x0004, 0x0008, 0x0010, 0x0011, 0x0030, 0x0100, 0x0101, 0x0102, 0x0103, 0x1052, 0x1053],  # pixels
    0x5200: [0x9230],  # frames
    0x7FE0: [0x0010],  # pixel data
}
_VRS = [b"SQ", b"UN", b"OB", b"OW", b"DS", b"IS", b"US", b"LO", b"UI", b"PN", b"AT", b"FD", b"UT", b"ZZ", b"\x00\x00"]
_SYNTAXES = [
    "",
    ".1",
    ".1.99",
    ".2",
    ".4.50",
    ".4.51",
    ".4.57",
    ".4.70",
    ".4.80",
    ".4.81",
    ".4.90",
    ".4.91",
    ".5",
    ".98",
]
_WORDS = [
    b"1e400",
    b"nan",
    b"-1",
    b"9" * 50,
    b"\\" * 30,
    b"0",
    b"0\\0\\0",
    b"65535",
    b"2147483647",
    b"abc",
    b"\xff\xfe" * 8,
]


def dicom_element(content: bytes, rng: Rng) -> bytes:
    """Length, VR or value of an element that matters; another transfer syntax; nests of sequences; new elements."""
    what = int(rng.integers(8))
    if what == 0:
        found = re.search(rb"\x02\x00\x10\x00UI(..)(1\.2\.840\.10008\.1\.2[0-9.]*)", content, re.DOTALL)
        if found:
            syntax = f"1.2.840.10008.1.2{_SYNTAXES[int(rng.integers(len(_SYNTAXES)))]}".encode()
            syntax += b"\0" * (len(syntax) % 2)
            old = int.from_bytes(found[1], "little")
            after = content[found.start(2) + old :]
            return content[: found.start(1)] + len(syntax).to_bytes(2, "little") + syntax + after
    if what == 1:
        return _with_new_element(content, rng)
    order = "<" if rng.random() < 0.9 else ">"
    places = []
    for group, number in ((group, number) for group, numbers in _ELEMENTS.items() for number in numbers):
        places += [found.start() for found in re.finditer(re.escape(struct.pack(f"{order}HH", group, number)), content)]
    if not places:
        return any_bytes(content, rng)
    place = int(rng.choice(places))
    explicit = content[place + 4 : place + 6].isalpha()
    long = explicit and content[place + 4 : place + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT")
    start = place + (12 if long else 8)
    if what <= 3:  # its length
        at, size = (place + 8, 4) if long else (place + 6, 2) if explicit else (place + 4, 4)
        length = INTEGERS[int(rng.integers(len(INTEGERS)))] % 256**size
        return _put(content, at, length.to_bytes(size, "little"))
    if what == 4 and explicit:
        return _put(content, place + 4, _VRS[int(rng.integers(len(_VRS)))])
    if what == 5:  # the element is gone
        return content[:place] + content[start + 2 :]
    if what == 6:
        return _put(content, start, _WORDS[int(rng.integers(len(_WORDS)))])
    value = INTEGERS[int(rng.integers(len(INTEGERS)))] % 65536
    return _put(content, start, value.to_bytes(2, "little"))


def _with_new_element(content: bytes, rng: Rng) -> bytes:
    """An element put in before the pixels: an absurd number, or sequences inside sequences."""
    place = content.rfind(b"\x28\x00\x02\x00")
    if place < 0:
        return any_bytes(content, rng)
    if rng.random() < 0.4:
        depth = int(rng.choice([3, 100, 1500, 20_000]))
        nest = b"\x08\x00\x12\x21SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth
    else:
        word = _WORDS[int(rng.integers(len(_WORDS)))]
        word += b" " * (len(word) % 2)
        element, vr = [(b"\x28\x00\x08\x00", b"IS"), (b"\x08\x00\x05\x00", b"CS"), (b"\x28\x00\x10\x00", b"US")][
            int(rng.integers(3))
        ]
        nest = element + vr + len(word).to_bytes(2, "little") + word
    return content[:place] + nest + content[place:]


if __name__ == "__main__":
    wanted, target = case(int(sys.argv[1]), int(sys.argv[2])), Path(sys.argv[3])
    target.mkdir(parents=True, exist_ok=True)
    print(f"{wanted.seed}: {wanted.write(target)}")
