"""The text headers of MetaImage and NRRD, checked before ITK sees them.

ITK's parsers are native code that trusts its input: a wrong number of axes, a field that comes twice or a long line
kills the process (tests/fuzz finds such files), and a data file may be named anywhere, as a list, or as a printf
pattern. So every field that decides how much is read, and from where, must be plain, and the data must lie beside the
header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medcycle.errors import ScanError

_HEADER = 1 << 20  # bytes; beyond any real header
_LINE = 1000  # characters of a field; real ones stay below 300
_WORD = 200  # characters of a number in text
_NOTE = 1 << 14  # characters of a free text (NRRD's key:=value, comments)

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?"
_PERHAPS = rf"(?:{_NUMBER}|nan|NaN|NAN)"
_VECTOR = rf"\(\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{0,3}}\s*\)"
_SIZE = r"[1-9]\d{0,8}"  # SimpleITK counts in 32 bits: 2^32 would come out as 0
_FREE = r"[^\x00-\x1f\x7f]*"
_BOOL = r"True|False|TRUE|FALSE|true|false|1|0"
_NAME = r"(?:\./)?[^\x00-\x1f\x7f./\\%|][^\x00-\x1f\x7f/\\%|]*"


def _several(one: str, most: int) -> str:
    return rf"{one}(?:\s+{one}){{0,{most - 1}}}"


# What the value of a field must look like. All other fields are texts that decide nothing.
_META = {
    "ObjectType": "Image",
    "NDims": "[1-4]",
    "DimSize": _several(_SIZE, 4),
    "ElementType": r"MET_(?:U?(?:CHAR|SHORT|INT|LONG|LONG_LONG)|FLOAT|DOUBLE)(?:_ARRAY)?",
    "ElementNumberOfChannels": r"[1-9]\d{0,3}",
    "ElementDataFile": _NAME,
    "HeaderSize": r"-1|\d{1,12}",
    "CompressedDataSize": r"\d{1,15}",
    "CompressionLevel": r"-?\d{1,2}",
    **dict.fromkeys(("CompressedData", "BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB"), _BOOL),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), _several(_NUMBER, 16)),
    **dict.fromkeys(("Offset", "Position", "Origin", "CenterOfRotation"), _several(_NUMBER, 4)),
    **dict.fromkeys(("ElementSpacing", "ElementSize", "Color"), _several(_NUMBER, 4)),
    **dict.fromkeys(("ElementMin", "ElementMax"), _NUMBER),
    **dict.fromkeys(("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"), _NUMBER),
    **dict.fromkeys(("ID", "ParentID"), r"-?\d{1,9}"),
    "SequenceID": _several(r"-?\d{1,9}", 4),
}
_META_NEEDED = ("NDims", "DimSize", "ElementType", "ElementDataFile")
_META_AXES = {
    "DimSize": 1,
    "ElementSpacing": 1,
    "ElementSize": 1,
    "TransformMatrix": 2,
    "Rotation": 2,
    "Orientation": 2,
}
_META_AXES |= dict.fromkeys(("Offset", "Position", "Origin", "CenterOfRotation"), 1)

_NRRD = {  # in lower case without spaces, as which every spelling counts
    "type": r"(?!block)[A-Za-z0-9_ ]{3,24}",
    "dimension": "[1-5]",
    "sizes": _several(_SIZE, 5),
    "encoding": "(?i:raw|gzip|gz|ascii|text|txt|hex)",
    "endian": "little|big",
    "lineskip": r"\d{1,6}",
    "byteskip": r"-1|\d{1,12}",
    "datafile": _NAME,
    "space": r"[A-Za-z0-9 -]{1,60}",
    "spacedimension": "[1-4]",
    "spacedirections": _several(rf"(?:none|{_VECTOR})", 5),
    "measurementframe": _several(rf"(?:none|{_VECTOR})", 4),
    "spaceorigin": _VECTOR,
    **dict.fromkeys(("spacings", "thicknesses", "axismins", "axismaxs"), _several(_PERHAPS, 5)),
    **dict.fromkeys(("oldmin", "oldmax", "min", "max"), _PERHAPS),
    **dict.fromkeys(("number", "blocksize"), r"\d{1,18}"),
}
_NRRD_NEEDED = ("type", "dimension", "sizes", "encoding")
_NRRD_AXES = dict.fromkeys(("sizes", "spacings", "spacedirections", "thicknesses", "axismins", "axismaxs"), 1)


@dataclass(frozen=True)
class Stored:
    """The values' place on disk: how many bytes there can hold them, and whether they are compressed (or text)."""

    size: int
    packed: bool


def check_header(path: Path) -> Stored:
    """Check the header of a .mha, .mhd, .nrrd or .nhdr file.

    Raises:
        ScanError: naming the field that is missing, there twice, or not plain; or no file of values beside the header.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_HEADER)
    return _check_meta(path, start) if path.suffix.lower() in (".mha", ".mhd") else _check_nrrd(path, start)


def _check_meta(path: Path, start: bytes) -> Stored:
    fields: dict[str, str] = {}
    end = len(start)
    for line, place in _lines(start):
        if line.strip():
            name, _, value = line.replace(":", "=", 1).partition("=") if "=" not in line else line.partition("=")
            _add(path, fields, name.strip(), value.strip(), _META)
        if "ElementDataFile" in fields:
            end = place
            break
    _check(path, fields, _META, _META_NEEDED, _META_AXES, fields.get("NDims", ""))
    name = fields["ElementDataFile"]
    stored = _size(*_place(path, None if name in ("LOCAL", "Local", "local") else name, end))
    claimed = int(fields.get("CompressedDataSize", 0))
    if claimed > stored:
        raise ScanError(f"{path}: truncated: its header tells of {claimed:,} compressed bytes, it has {stored:,}")
    said = {name: fields.get(name, "False").lower() in ("true", "1") for name in ("CompressedData", "BinaryData")}
    return Stored(stored, said["CompressedData"] or not said["BinaryData"])


def _check_nrrd(path: Path, start: bytes) -> Stored:
    if not re.match(rb"NRRD000[1-6]\r?\n", start):
        raise ScanError(f"{path}: cannot be read as NRRD: its first line is not NRRD0001 to NRRD0006")
    fields: dict[str, str] = {}
    end = len(start)
    for number, (line, place) in enumerate(_lines(start)):
        if not line:
            end = place
            break
        if number == 0 or (line.startswith("#") and len(line) <= _NOTE):
            continue
        name, colon, value = line.partition(":")
        if not colon or len(line) > _NOTE:
            raise ScanError(f"{path}: damaged header: line {number + 1} is no field")
        if not value.startswith("="):
            _add(path, fields, name.replace(" ", "").lower(), value.strip(), _NRRD)
    _check(path, fields, _NRRD, _NRRD_NEEDED, _NRRD_AXES, fields.get("dimension", ""))
    values = _place(path, fields.get("datafile"), end)
    encoding = fields["encoding"].lower()
    if encoding in ("ascii", "text", "txt"):
        _check_words(path, *values)
    return Stored(_size(*values), encoding != "raw")


def _lines(start: bytes) -> Iterator[tuple[str, int]]:
    """The lines, and the place behind each."""
    place = 0
    while place < len(start):
        end = start.find(b"\n", place)
        end = len(start) if end < 0 else end
        yield start[place : min(end, place + _NOTE + 1)].removesuffix(b"\r").decode("latin-1"), end + 1
        place = end + 1


def _add(path: Path, fields: dict[str, str], name: str, value: str, allowed: Mapping[str, str]) -> None:
    plain = re.fullmatch(r"[\w |,.()-]{1,100}", name, re.ASCII)
    if not plain or len(value) > _LINE or not re.fullmatch(allowed.get(name, _FREE), value):
        # Only a field that decides something, and only as plain text: others may tell of the patient.
        said = f"{name} is {value[:60]!r}" if name in allowed and value.isprintable() else "a field is no plain text"
        raise ScanError(f"{path}: damaged header: {said}, which medcycle does not read")
    if name in fields and name in allowed:
        raise ScanError(f"{path}: damaged header: {name} is there twice")
    fields[name] = value


def _check(
    path: Path,
    fields: dict[str, str],
    allowed: Mapping[str, str],
    needed: tuple[str, ...],
    per_axis: Mapping[str, int],
    axes: str,
) -> None:
    missing = [name for name in needed if name not in fields]
    if missing:
        raise ScanError(f"{path}: damaged header: no {', '.join(missing)}")
    for name, power in per_axis.items():
        if name in fields and len(re.findall(r"\([^)]*\)|\S+", fields[name])) != int(axes) ** power:
            raise ScanError(f"{path}: damaged header: {name} is {fields[name][:60]!r}, for {axes} axes")


def _place(path: Path, beside: str | None, end: int) -> tuple[Path, int]:
    """The file that holds the values, and from which byte on: behind the header, which ends there, or beside it."""
    if beside is None:
        return path, end
    data = path.parent / beside
    if not data.is_file():
        raise ScanError(f"{path}: its values lie in {beside[:60]!r}, and no such file lies beside it")
    return data, 0


def _size(file: Path, start: int) -> int:
    return max(file.stat().st_size - start, 0)


def _check_words(path: Path, file: Path, start: int) -> None:
    """Refuse values as text with a word longer than any number: teem (in ITK) copies words of any length into 1 kB."""
    before = b""
    with file.open("rb") as text:
        text.seek(start)
        while chunk := text.read(1 << 20):
            if re.search(rb"\S{%d}" % _WORD, before + chunk):
                raise ScanError(f"{path}: damaged: among its values, which are text, is one of {_WORD} letters or more")
            before = (before + chunk)[1 - _WORD :]
