"""ITK's own formats (.mha, .mhd, .nrrd, .nhdr) and SimpleITK images, to and from Volume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from medcycle.errors import ScanError
from medcycle.io.files import LPS, check_picture_unit, staged, stored, unreadable, unwritable
from medcycle.io.itk_header import check_header
from medcycle.io.sizes import check_memory, check_size
from medcycle.volume import Volume


def read_itk(path: Path, unit: str | None = None) -> Volume:
    """Read a MetaImage or NRRD file.

    Args:
        path: the file (for .mhd and .nhdr, the header; its data file lies beside it).
        unit: the unit of its values, which these formats do not say; None means "a.u.".

    Raises:
        ScanError: damaged or foreign file, more than three axes, complex or non-finite values, singular geometry.
    """
    if not path.is_file():
        raise ScanError(f"{path}: no such file")
    try:
        reader = checked_reader(path)
        if reader.GetDimension() > 3:
            raise ScanError(_too_many_axes(str(path), reader.GetSize()))
        check_memory(path, claimed(reader))
        image = reader.Execute()
    except (RuntimeError, OSError) as error:
        raise unreadable(path, "MetaImage or NRRD", error) from error
    return from_sitk(image, unit=unit, where=str(path))


def checked_reader(path: Path) -> Any:
    """A SimpleITK ImageFileReader that has read the header of a MetaImage or NRRD file, and found nothing wrong in it.

    Raises:
        ScanError: a header that medcycle does not give to ITK, or values that the files cannot hold.
        RuntimeError: ITK finds it wrong.
        OSError: it cannot be read.
    """
    import SimpleITK as sitk  # noqa: N813

    stored = check_header(path)
    reader: Any = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO" if path.suffix.lower() in (".mha", ".mhd") else "NrrdImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    check_size(path, claimed(reader), stored.size, packed=stored.packed)
    return reader


def claimed(reader: Any) -> int:
    """Bytes of values that a reader's header claims."""
    import SimpleITK as sitk  # noqa: N813

    kind = reader.GetPixelIDValue()
    components = reader.GetNumberOfComponents() if "vector" in sitk.GetPixelIDValueAsString(kind) else 1
    pixel: Any = sitk.Image([1] * reader.GetDimension(), kind, components)
    return int(math.prod(reader.GetSize()) * pixel.GetSizeOfPixelComponent() * components)


def _too_many_axes(where: str, size: tuple[int, ...]) -> str:
    return (
        f"{where}: {len(size)} axes {size}; expected 2 or 3. A fourth axis is time, which only `medcycle translate` "
        "takes, frame by frame. For all else write each volume into its own file."
    )


def from_sitk(image: Any, *, unit: str | None = None, where: str = "SimpleITK image") -> Volume:
    """A SimpleITK image (LPS+) as a Volume (RAS+), 2D or 3D, scalar or vector.

    Raises:
        ScanError: more than three axes, complex or non-finite values, singular geometry.
    """
    import SimpleITK as sitk  # noqa: N813

    ndim = image.GetDimension()
    if ndim not in (2, 3):
        raise ScanError(_too_many_axes(where, image.GetSize()))
    data = sitk.GetArrayFromImage(image)  # (k, j, i[, c])
    if np.iscomplexobj(data):
        raise ScanError(f"{where}: complex values. Write its magnitude into a file of its own.")
    if data.ndim == ndim:
        data = data[..., None]
    affine = np.eye(4)
    affine[:ndim, :ndim] = np.reshape(image.GetDirection(), (ndim, ndim)) * np.asarray(image.GetSpacing())
    affine[:ndim, 3] = image.GetOrigin()
    values = np.ascontiguousarray(data.transpose(), dtype=np.float32)  # (c, i, j, k)
    check_picture_unit(values, unit or "a.u.", where)
    return Volume(values, LPS @ affine, unit or "a.u.", {"path": where, "format": "itk"})


def to_sitk(volume: Volume) -> Any:
    """A Volume as a SimpleITK image; the number type goes by the unit.

    A 2D Volume becomes a 2D image if its plane is that of the patient's x and y axes at z = 0, which is all that a
    2D ITK image can say; else a 3D image of one slice, so that its place is kept.
    """
    import SimpleITK as sitk  # noqa: N813

    data, affine = stored(volume), LPS @ volume.affine
    if data.ndim == 3 and not np.allclose(affine[2], (0, 0, 1, 0), atol=1e-6):
        data = data[..., None]
    ndim = data.ndim - 1
    vector = volume.channels > 1
    image: Any = sitk.GetImageFromArray(
        np.ascontiguousarray((data if vector else data[0]).transpose()), isVector=vector
    )
    axes = affine[:ndim, :ndim]
    spacing = np.linalg.norm(axes, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((axes / spacing).ravel().tolist())
    image.SetOrigin(affine[:ndim, 3].tolist())
    return image


def write_itk(volume: Volume, path: Path) -> Path:
    """Write a Volume as .mha, .mhd (+ .raw), .nrrd or .nhdr (+ .raw), uncompressed.

    Raises:
        ScanError: if the file cannot be written; what was there before is then untouched.
    """
    import SimpleITK as sitk  # noqa: N813

    image = to_sitk(volume)
    with staged(path) as file:
        try:
            sitk.WriteImage(image, str(file), useCompression=False)
        except RuntimeError as error:
            raise unwritable(path, error) from error
        written = sum(part.stat().st_size for part in file.parent.iterdir())
        if written < volume.array.size * np.dtype(stored(volume).dtype).itemsize:  # ITK can miss a full disk
            raise ScanError(f"{path}: only {written} bytes could be written. Check the free space.")
    return path
