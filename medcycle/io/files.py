"""What every writer shares: a file appears complete or not at all, and the number type that a unit is stored in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import MedcycleError, ScanError
from medcycle.volume import Volume

LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
"""Turns RAS+ into LPS+ (DICOM, ITK) and back: multiply from the left."""

_PICTURE_TYPES: dict[str, type[np.unsignedinteger[Any]]] = {"uint8": np.uint8, "uint16": np.uint16}


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A path of the same name in a temporary folder beside `path`, whose content moves into place at the end.

    All that lies in the temporary folder is moved (a .mhd brings its .raw), the named file last. A folder of that
    name is replaced as a whole. If the block raises, nothing is left behind and what was there before stays.

    Raises:
        ScanError: if the block or the moving raises an OSError (no permission, full disk, a file for a folder).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield folder / path.name
        for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            _move(file, path.parent / file.name)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a small file, atomically.

    Raises:
        ScanError: it cannot be written.
    """
    with staged(path) as file:  # a file name that is no valid UTF-8 must not stop the writing
        file.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


@contextmanager
def refused_leaves_nothing(folder: Path, *names: str) -> Iterator[None]:
    """Where the block is refused (a MedcycleError) before it has made more than `names` in `folder`, remove these.

    The folder and those above it go too, if they are new and empty then. What was there before stays.
    """
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    before = _content(folder)
    try:
        yield
    except MedcycleError:
        made = _content(folder) - before
        if made <= set(names):
            for name in made:
                if (folder / name).is_dir():
                    shutil.rmtree(folder / name, ignore_errors=True)
                else:
                    (folder / name).unlink(missing_ok=True)
            for place in new:
                with suppress(OSError):  # not empty: something else lies there by now
                    place.rmdir()
        raise


def _content(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _move(source: Path, target: Path) -> None:
    """Put `source` in the place of `target`; a folder in the way steps aside first, and comes back if that fails."""
    if not (source.is_dir() and target.is_dir()):
        source.replace(target)
        return
    aside = source.with_name(source.name + ".old")
    target.replace(aside)
    try:
        source.replace(target)
    except OSError:
        aside.replace(target)
        raise


def unwritable(path: Path, error: Exception) -> ScanError:
    """The error that says why `path` could not be written."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        in_the_way = next((place for place in (path, *path.parents) if place.is_file()), None)
        if in_the_way is not None:
            return ScanError(
                f"{path}: cannot be written, because {in_the_way} is a file, not a folder. Choose another place."
            )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return ScanError(
        f"{path}: cannot be written ({reason}). Nothing was left there; check the permission and the free space, or "
        "choose another place."
    )


def unreadable(path: Path, kind: str, error: Exception) -> ScanError:
    """The error that says why `path` could not be read as `kind`."""
    if isinstance(error, FileNotFoundError):
        return ScanError(f"{path}: no such file")
    if isinstance(error, PermissionError):
        return ScanError(f"{path}: no permission to read it")
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    reason = " ".join(said.split())[-300:] or type(error).__name__
    return ScanError(f"{path}: cannot be read as {kind} ({reason}). The file is damaged, truncated or of another kind.")


def stored(volume: Volume) -> npt.NDArray[Any]:
    """The array in the number type that files keep its unit in, same shape.

    HU: int16, rounded (an error of at most 0.5 HU), or float32 if a value does not fit. "a.u.": float32.
    "uint8" and "uint16": that type, rounded and clipped.
    """
    if volume.unit in _PICTURE_TYPES:
        dtype = _PICTURE_TYPES[volume.unit]
        return np.clip(np.rint(volume.array), 0, np.iinfo(dtype).max).astype(dtype)
    if volume.unit == "HU":
        rounded = np.rint(volume.array)
        if rounded.min() >= -32768 and rounded.max() <= 32767:
            return rounded.astype(np.int16)
    return volume.array


def check_picture_unit(array: npt.NDArray[Any], unit: str, where: str) -> None:
    """Refuse to call an array "uint8" or "uint16" whose values are not whole numbers of that range.

    Raises:
        ScanError: naming the range found.
    """
    if unit not in _PICTURE_TYPES:
        return
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= np.iinfo(_PICTURE_TYPES[unit]).max and np.array_equal(array, np.rint(array))):
        raise ScanError(
            f"{where}: values from {low:g} to {high:g} are not whole numbers of {unit}. Use modality ct or mr for it."
        )


def plane_affine(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The affine of a 2D image: its third column made the unit normal of the plane, on the side it pointed to."""
    result = affine.copy()
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    length = float(np.linalg.norm(normal))
    if length > 0:
        result[:3, 2] = normal / length * (-1.0 if float(normal @ affine[:3, 2]) < 0 else 1.0)
    return result
