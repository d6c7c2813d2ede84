"""4D MetaImage and NRRD files, one volume at a time: a text header, and then the volumes one after the other.

ITK reads single frames of an uncompressed MetaImage; all else it reads as a whole, which is then held in memory.
Writing is a plain stream and never holds more than one frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.io.files import LPS, staged, stored, unreadable
from medcycle.io.itk import checked_reader, claimed, from_sitk
from medcycle.io.recording import Recording, frame_bytes, frame_place, same_grid
from medcycle.io.sizes import check_memory
from medcycle.volume import Volume

_TYPES = {"uint8": ("MET_UCHAR", "uchar"), "uint16": ("MET_USHORT", "ushort")}
_TYPES |= {"int16": ("MET_SHORT", "short"), "float32": ("MET_FLOAT", "float")}


@dataclass(frozen=True, eq=False)
class Placed:
    """A 4D grid in LPS+ mm and seconds, as ITK describes it.

    Attributes:
        origin: (4,), the first voxel.
        spacing: (4,).
        direction: (4, 4), axes in columns.
    """

    origin: npt.NDArray[np.float64]
    spacing: npt.NDArray[np.float64]
    direction: npt.NDArray[np.float64]


def open_itk_recording(path: Path, unit: str | None = None) -> Recording | None:
    """The recording that a MetaImage or NRRD file of four axes holds; None if it has fewer, or cannot be read.

    Args:
        path: the file.
        unit: the unit of its values, which these formats do not say; None means "a.u.".
    """
    try:
        reader = checked_reader(path)
    except (ScanError, RuntimeError, OSError):  # read_itk says what is wrong with it
        return None
    size = reader.GetSize()
    if reader.GetDimension() != 4 or size[3] < 2:
        return None
    placed = Placed(
        np.array(reader.GetOrigin()), np.array(reader.GetSpacing()), np.reshape(reader.GetDirection(), (4, 4))
    )
    return Recording(
        path=path,
        count=size[3],
        space=size[:3],
        step=float(placed.spacing[3]),
        start=float(placed.origin[3]),
        header=placed,
        frames=lambda: _frames(path, size, unit),
    )


def _frames(path: Path, size: tuple[int, ...], unit: str | None) -> Iterator[Volume]:
    try:
        reader = checked_reader(path)
    except (RuntimeError, OSError) as error:
        raise unreadable(path, "MetaImage or NRRD", error) from error
    at_once = _needs_all(path)
    check_memory(path, claimed(reader) // (1 if at_once else size[3]))
    whole = None
    for index in range(size[3]):
        where = frame_place(path, index + 1)
        try:
            if at_once:
                whole = whole or reader.Execute()
                image = whole[:, :, :, index]
            else:
                reader.SetExtractSize([*size[:3], 0])
                reader.SetExtractIndex([0, 0, 0, index])
                image = reader.Execute()
        except RuntimeError as error:
            raise unreadable(Path(where), "MetaImage or NRRD", error) from error
        yield from_sitk(image, unit=unit, where=where)


def _needs_all(path: Path) -> bool:
    """Whether ITK can read this file only as a whole."""
    if path.suffix.lower() not in (".mha", ".mhd"):
        return True
    with path.open("rb") as file:
        return b"CompressedData = True" in file.read(4096)


def write_itk_recording(frames: Iterable[Volume], path: Path, like: Recording) -> Path:
    """Write frames as 4D .mha, .mhd (+ .raw), .nrrd or .nhdr (+ .raw), uncompressed, streaming.

    Number type by the unit of the first frame, as for a single volume.

    Raises:
        ScanError: if there are not `like.count` frames of one grid, or the file cannot be written; what was there
            before is then untouched.
    """
    number = 0
    dtype = np.dtype(np.float32)
    suffix = path.suffix.lower()
    with staged(path) as file:
        raw = file.with_suffix(".raw") if suffix in (".mhd", ".nhdr") else file
        with raw.open("wb") as out:
            for number, frame in enumerate(same_grid(frames), 1):
                values = stored(frame)
                if number == 1:
                    dtype = values.dtype
                    make = _meta_header if suffix in (".mha", ".mhd") else _nrrd_header
                    header = make(frame, dtype.name, like, "" if raw == file else raw.name).encode()
                    if raw == file:
                        out.write(header)
                    else:
                        file.write_bytes(header)
                out.write(frame_bytes(frame, number, dtype, values))
        if number != like.count:
            raise ScanError(f"{path}: {number} frames, expected {like.count}")
    return path


def _placed(frame: Volume, like: Recording) -> Placed:
    """The 4D grid of `like`, from its own header or from a frame's affine."""
    if isinstance(like.header, Placed):
        return like.header
    affine = LPS @ frame.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = np.eye(4)
    direction[:3, :3] = affine[:3, :3] / spacing
    # A still of unknown step: ITK refuses a spacing of 0.
    return Placed(np.append(affine[:3, 3], like.start), np.append(spacing, like.step or 1.0), direction)


def _numbers(values: npt.NDArray[np.float64], between: str = " ") -> str:
    return between.join(repr(float(value)) for value in values.ravel())


def _meta_header(frame: Volume, dtype: str, like: Recording, data: str) -> str:
    """Of a MetaImage; its matrix lists the axes one after the other."""
    placed = _placed(frame, like)
    lines = {
        "ObjectType": "Image",
        "NDims": "4",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": _numbers(placed.direction.T),
        "Offset": _numbers(placed.origin),
        "CenterOfRotation": "0 0 0 0",
        "ElementSpacing": _numbers(placed.spacing),
        "DimSize": " ".join(map(str, (*like.space, like.count))),
        "ElementNumberOfChannels": str(frame.channels),
        "ElementType": _TYPES[dtype][0],
        "ElementDataFile": data or "LOCAL",
    }
    return "".join(f"{name} = {value}\n" for name, value in lines.items())


def _nrrd_header(frame: Volume, dtype: str, like: Recording, data: str) -> str:
    """Of a NRRD; colour or vectors are a first axis, without a direction."""
    placed = _placed(frame, like)
    steps = [f"({_numbers(axis * step, ',')})" for axis, step in zip(placed.direction.T, placed.spacing, strict=True)]
    vector = frame.channels > 1
    lines = {
        "type": _TYPES[dtype][1],
        "dimension": "5" if vector else "4",
        "space dimension": "4",
        "sizes": " ".join(map(str, (*[frame.channels] * vector, *like.space, like.count))),
        "space directions": " ".join(["none"] * vector + steps),
        "kinds": " ".join(["vector"] * vector + ["domain"] * 4),
        "endian": "little",
        "encoding": "raw",
        "space origin": f"({_numbers(placed.origin, ',')})",
    } | ({"data file": data} if data else {})
    return "NRRD0005\n" + "".join(f"{name}: {value}\n" for name, value in lines.items()) + "\n"
