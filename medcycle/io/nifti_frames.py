"""4D NIfTI files, one volume at a time: a 4D file is a header and then its volumes one after the other, gzipped or not.

So both ways are a plain stream, and neither holds more than one frame, whatever the length.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

from medcycle.errors import ScanError
from medcycle.io.files import staged, stored, unreadable
from medcycle.io.nifti import NOTE, checked_header, from_nibabel, to_nibabel, to_the_end, unzipped
from medcycle.io.recording import Recording, frame_bytes, frame_place, same_grid
from medcycle.io.sizes import check_memory
from medcycle.volume import Volume

_SECONDS = {"msec": 1e-3, "usec": 1e-6}


def open_nifti_recording(path: Path, unit: str | None = None) -> Recording | None:
    """The recording that a NIfTI file (i, j, k, t) holds; None if it holds one volume, or cannot be read as NIfTI.

    Args:
        path: the file; whether it is gzipped is seen from its first bytes.
        unit: the unit of its values, which NIfTI does not say; None means "a.u.".
    """
    try:
        with path.open("rb") as raw, unzipped(raw) as file:
            header, _ = checked_header(path, raw, file)
    except Exception:  # whatever is wrong with it, read_nifti says it
        return None
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) < 4 or shape[3] == 1 or any(n != 1 for n in shape[4:]):
        return None
    seconds = _seconds(header)
    return Recording(
        path=path,
        count=shape[3],
        space=(shape[0], shape[1], shape[2]),
        step=float(header["pixdim"][4]) * seconds,
        start=float(header["toffset"]) * seconds,
        header=header,
        frames=lambda: _frames(path, unit),
    )


def _seconds(header: Any) -> float:
    """Seconds of one time unit of the header."""
    try:
        return _SECONDS.get(header.get_xyzt_units()[1], 1.0)
    except KeyError:  # a code that NIfTI does not define
        return 1.0


def _frames(path: Path, unit: str | None) -> Iterator[Volume]:
    """The volumes in order; at the end of a gzipped file its checksum is compared."""
    number = 0
    try:
        with path.open("rb") as raw, unzipped(raw) as file:
            header, _ = checked_header(path, raw, file)
            shape, dtype = header.get_data_shape(), header.get_data_dtype()
            slope, intercept = header.get_slope_inter()
            size = int(np.prod(shape[:3], dtype=np.int64)) * dtype.itemsize
            check_memory(path, size)
            file.seek(int(header.get_data_offset()))
            affine = header.get_best_affine()
            for number in range(1, shape[3] + 1):
                content = file.read(size)
                if len(content) < size:
                    raise EOFError(f"it ends after {number - 1} of {shape[3]} frames")
                values: Any = np.frombuffer(content, dtype).reshape(shape[:3], order="F")
                if slope is not None and not dtype.names and (slope, intercept) != (1, 0):
                    values = values.astype(np.float64) * slope + (intercept or 0)
                image = SimpleNamespace(dataobj=values, affine=affine, header=header)
                yield from_nibabel(image, unit=unit, where=frame_place(path, number))
            to_the_end(path, raw, file)
    except ScanError:
        raise
    except GeneratorExit:
        raise
    except Exception as error:  # nibabel, gzip and NumPy raise many kinds for damaged bytes
        raise unreadable(Path(frame_place(path, max(number, 1))), "NIfTI", error) from error


def write_nifti_recording(frames: Iterable[Volume], path: Path, like: Recording) -> Path:
    """Write frames as 4D .nii or .nii.gz, streaming; with the header of `like` if that is a NIfTI file.

    Geometry, time step and units are then exactly the source's. Number type by the unit of the first frame, as for a
    single volume. Colour pictures (uint8) become NIfTI's RGB24.

    Raises:
        ScanError: if there are not `like.count` frames of one grid, or the file cannot be written; what was there
            before is then untouched.
    """
    number = 0
    zipped = path.name.lower().endswith(".gz")
    dtype = np.dtype(np.float32)
    with staged(path) as file, file.open("wb") as raw, _zipping(raw) if zipped else nullcontext(raw) as out:
        for number, frame in enumerate(same_grid(frames), 1):
            values = stored(frame)
            if number == 1:
                dtype = values.dtype
                header = _new_header(frame, dtype, like, path)
                header.write_to(out)
            out.write(frame_bytes(frame, number, dtype, values))
        if number != like.count:
            raise ScanError(f"{path}: {number} frames, expected {like.count}")
    return path


def _zipping(raw: IO[bytes]) -> Any:
    return gzip.GzipFile("", "wb", 3, raw, mtime=0)


def _new_header(frame: Volume, dtype: np.dtype[Any], like: Recording, path: Path) -> Any:
    """The header of a 4D file of frames like this one, little-endian, without extensions (they describe the source)."""
    import nibabel as nib

    if frame.channels > 1 and not (frame.channels == 3 and dtype == np.uint8):
        raise ScanError(
            f"{path}: frames of {frame.channels} channels of {dtype}; a 4D NIfTI file holds one channel, or three of "
            "8 bits. Use a model with one output channel."
        )
    known: Any = like.header
    if isinstance(known, nib.Nifti1Header):
        header = known.as_byteswapped("<").copy()
        header.extensions.clear()
        for field in ("data_type", "db_name", "aux_file", "intent_name"):  # free text, at times of the patient
            if field in header:
                header[field] = b""
        if not (header["sform_code"] or header["qform_code"]):  # say the place that was assumed, as for one volume
            affine = header.get_best_affine()
            header.set_sform(affine, code="aligned")
            header.set_qform(affine, code="aligned")
    else:
        header = to_nibabel(frame.replace(array=frame.array[:1])).header.copy()
        header.set_xyzt_units("mm", "sec")
        header["toffset"] = like.start
        header["pixdim"][4] = like.step
    header.set_data_shape((*like.space, like.count))
    header.set_data_dtype(np.dtype([(c, "u1") for c in "RGB"]) if frame.channels == 3 else dtype)
    header.set_slope_inter(1, 0)
    header["descrip"] = NOTE
    header["cal_min"] = header["cal_max"] = 0  # the display window of the old values
    header["magic"] = header.single_magic
    header["vox_offset"] = 0  # write_to sets it
    return header
