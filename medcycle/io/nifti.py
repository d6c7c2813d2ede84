"""NIfTI-1 and NIfTI-2 files (.nii, .nii.gz) and nibabel images, to and from Volume."""

from __future__ import annotations

import gzip
import math
import os
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np

from medcycle.errors import ScanError
from medcycle.io.files import check_picture_unit, plane_affine, staged, stored, unreadable
from medcycle.io.sizes import check_memory, check_size
from medcycle.volume import Volume

_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}
_TRAILING = 16  # MiB behind the values that a gzipped file may have

NOTE = b"medcycle: synthetic image, not for clinical use"
"""The description of a translated image whose header is otherwise the source's."""


def read_nifti(path: Path, unit: str | None = None) -> Volume:
    """Read a NIfTI file; slope and intercept are applied.

    Args:
        path: the file; whether it is gzipped is seen from its first bytes.
        unit: the unit of its values, which NIfTI does not say; None means "a.u.".

    Raises:
        ScanError: damaged or foreign file, time series, complex or non-finite values, singular affine.
    """
    import nibabel as nib

    try:
        with path.open("rb") as raw, unzipped(raw) as file:
            header, size = checked_header(path, raw, file)
            check_memory(path, size)
            file.seek(0)
            content = file.read(size)
            to_the_end(path, raw, file)
        image = (nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image).from_bytes(content)
        return from_nibabel(image, unit=unit, where=str(path))
    except ScanError:
        raise
    except Exception as error:  # nibabel, gzip and NumPy raise many kinds for damaged bytes
        raise unreadable(path, "NIfTI", error) from error


def unzipped(raw: IO[bytes]) -> Any:
    """The file without its compression, which is seen from its first bytes."""
    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return gzip.GzipFile(fileobj=raw) if zipped else nullcontext(raw)


def checked_header(path: Path, raw: IO[bytes], file: IO[bytes]) -> tuple[Any, int]:
    """The NIfTI-1 or NIfTI-2 header at the start of a file, without extensions, and how many bytes it promises.

    Args:
        path: the file, for messages.
        raw: as it is on disk.
        file: the same without compression.

    Raises:
        ScanError: it promises more than the file can hold, or no values.
        Exception: whatever nibabel raises for a header it cannot take.
    """
    import nibabel as nib

    start = file.read(4)
    two = 540 in {int.from_bytes(start, order) for order in ("little", "big")}
    kind: Any = nib.Nifti2Header if two else nib.Nifti1Header
    header = kind(start + file.read(kind.sizeof_hdr - 4))
    shape = [int(length) for length in header.get_data_shape()]
    offset = float(header["vox_offset"])
    if min(shape, default=0) < 1 or not kind.sizeof_hdr <= offset < 2**62:
        raise ScanError(f"{path}: damaged header: sizes {tuple(shape)}, values from byte {offset:g} on")
    size = int(offset) + math.prod(shape) * int(header.get_data_dtype().itemsize)
    check_size(path, size, os.fstat(raw.fileno()).st_size, packed=file is not raw)
    return header, size


def to_the_end(path: Path, raw: IO[bytes], file: IO[bytes]) -> None:
    """Read what is left of a gzipped file, so that its checksum is compared; but not without end.

    Raises:
        ScanError: much more than the header told of.
    """
    for _ in range(_TRAILING if file is not raw else 0):
        if not file.read(1 << 20):
            return
    if file is not raw:
        raise ScanError(f"{path}: damaged: it inflates to far more than its header tells of")


def from_nibabel(image: Any, *, unit: str | None = None, where: str = "nibabel image") -> Volume:
    """A nibabel image as a Volume: (i, j) stays 2D, (i, j, k[, 1]) is 3D, (i, j, k, 1, c) and RGB have channels.

    Raises:
        ScanError: as :func:`read_nifti`.
    """
    data = np.asanyarray(image.dataobj)
    shape = data.shape
    if np.iscomplexobj(data):
        raise ScanError(f"{where}: complex values. Write its magnitude into a file of its own.")
    if data.dtype.names:  # NIfTI's RGB24 and RGBA32
        channels = [data[name] for name in data.dtype.names]
        unit = unit or "uint8"
    elif data.ndim == 5 and shape[3] == 1:
        channels = [data[..., channel] for channel in range(shape[4])]
    else:
        channels = [data]
    if data.ndim < 2 or any(length != 1 for length in channels[0].shape[3:]):
        raise ScanError(
            f"{where}: shape {shape}; expected (i, j), (i, j, k) or channels as (i, j, k, 1, c). A fourth axis is "
            "time, which only `medcycle translate` takes, frame by frame. For all else write each time point into a "
            "file of its own."
        )
    array = np.stack([channel.reshape(channel.shape[:3]) for channel in channels])
    affine = np.asarray(image.affine, dtype=np.float64).copy()
    affine[:3] *= length_unit(image.header)
    if _placeless(image.header):
        warnings.warn(
            f"{where}: its header says nothing of position and orientation (sform and qform codes are 0): which side "
            "is left is a guess",
            stacklevel=2,
        )
    if array.ndim == 3:
        affine = plane_affine(affine)
    values = np.ascontiguousarray(array, dtype=np.float32)
    check_picture_unit(values, unit or "a.u.", where)
    return Volume(values, affine, unit or "a.u.", {"path": where, "format": "nifti"})


def _placeless(header: Any) -> bool:
    """Whether a NIfTI header tells no coordinates: nibabel then assumes its own (LAS, centred)."""
    try:
        return int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0
    except (KeyError, ValueError, TypeError):  # Analyze, MGH, ...: kinds without such codes
        return False


def length_unit(header: Any) -> float:
    """Millimetres of one length unit of the header (nibabel's affine does not heed xyzt_units, ITK does)."""
    units = getattr(header, "get_xyzt_units", lambda: ("mm", "sec"))
    try:
        return _MILLIMETRES.get(units()[0], 1.0)
    except KeyError:  # a code that NIfTI does not define
        return 1.0


def to_nibabel(volume: Volume) -> Any:
    """A Volume as a nibabel Nifti1Image with qform and sform in scanner space, in mm; number type by the unit."""
    import nibabel as nib

    data = stored(volume)
    if volume.channels == 1:
        data = data[0]
    else:
        space = data.shape[1:] + (1,) * (4 - data.ndim)
        data = np.moveaxis(data.reshape(-1, *space), 0, -1)[:, :, :, None]
    kind: Any = nib.Nifti1Image  # nibabel is not typed
    image = kind(data, volume.affine)
    image.header.set_xyzt_units("mm")
    if volume.channels > 1:
        image.header.set_intent("vector")
    # A quaternion cannot hold shear: the sform alone then, rather than two that disagree.
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    rigid = np.allclose(axes.T @ axes, np.eye(3), atol=1e-4)
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1 if rigid else 0)
    return image


def write_nifti(volume: Volume, path: Path) -> Path:
    """Write a Volume as .nii or .nii.gz: int16 for HU, float32 for "a.u.", uint8 / uint16 for pictures.

    Raises:
        ScanError: if the file cannot be written; what was there before is then untouched.
    """
    content = to_nibabel(volume).to_bytes()
    if path.name.lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=3, mtime=0)
    with staged(path) as file:
        file.write_bytes(content)
    return path
