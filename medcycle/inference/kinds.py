"""The kinds of image that people hold in Python: each becomes a Volume, and the result the same kind again."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import ModelError, ScanError
from medcycle.io import from_nibabel, from_sitk, read_volume
from medcycle.io.files import LPS, plane_affine, stored
from medcycle.io.nifti import NOTE
from medcycle.io.recording import frame_place
from medcycle.volume import Volume

Back = Callable[[Volume], Any]
Recorded = tuple[Callable[[], Iterator[Volume]], int, Callable[[Iterable[Volume]], Any]]


def open_image(image: object, modality: str) -> tuple[Volume, Back]:
    """A Volume of the image, and a function that gives a Volume on the same grid back as the image's kind.

    Args:
        image: a path (its result is a Volume), Volume, nibabel image, SimpleITK image, or MONAI MetaTensor (C, i, j
            [, k]) in RAS+ (as MONAI's readers give it).
        modality: what the image is, as in a Preparation: the values of "ct" are HU.

    Raises:
        ScanError: if the image cannot be read or has an unusable shape or type.
        ModelError: if it is of another type, such as a bare array, which has no geometry.
    """
    if isinstance(image, Volume):
        return image, lambda volume: volume
    if isinstance(image, str | Path):
        return read_volume(image, unit=unit_of(modality)), lambda volume: volume
    for module, name, function in (
        ("nibabel.spatialimages", "SpatialImage", _from_nibabel),
        ("SimpleITK", "Image", _from_sitk),
        ("monai.data.meta_tensor", "MetaTensor", _from_monai),
    ):
        # An object of a library's class can only exist once that library is imported: so none is imported here.
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(image, kind):
            return function(image, modality)
    raise ModelError(
        f"cannot translate a {type(image).__module__}.{type(image).__qualname__}: it has no geometry. Pass a path, a "
        "nibabel or SimpleITK image, a MONAI MetaTensor, or medcycle's Volume(array, affine, unit)."
    )


def open_recorded(image: object, modality: str) -> Recorded | None:
    """The volumes of an image with a fourth axis, time; None for every other image.

    Args:
        image: a nibabel image (i, j, k, t) or a SimpleITK image of four axes.
        modality: as for :func:`open_image`.

    Returns:
        What gives the volumes in order (anew at each call; a proxied image is read a frame at a time), how many they
        are, and what puts as many translated ones into one image of the kind.

    Raises:
        ScanError: if the image has no affine; while the volumes are given: if one cannot be used, naming it.
    """
    nibabel = getattr(sys.modules.get("nibabel.spatialimages"), "SpatialImage", None)
    if nibabel is not None and isinstance(image, nibabel):
        return _recorded_nibabel(image, modality)
    sitk = getattr(sys.modules.get("SimpleITK"), "Image", None)
    if sitk is not None and isinstance(image, sitk):
        return _recorded_sitk(image, modality)
    return None


def _recorded_nibabel(image: Any, modality: str) -> Recorded | None:
    shape = image.shape
    if len(shape) != 4 or shape[3] == 1:
        return None
    where = image.get_filename() or "nibabel image"
    if image.affine is None:
        raise ScanError(f"{where}: no affine, so its place and voxel size are unknown. Give it one, such as np.eye(4).")

    def frames() -> Iterator[Volume]:
        unit = _unit(modality, image.get_data_dtype())
        for index in range(shape[3]):
            place = frame_place(where, index + 1)
            try:
                one = SimpleNamespace(dataobj=image.dataobj[..., index], affine=image.affine, header=image.header)
            except (OSError, EOFError, ValueError) as error:
                raise ScanError(f"{place}: its values cannot be read: {error}") from error
            yield from_nibabel(one, unit=unit, where=place)

    def back(results: Iterable[Volume]) -> Any:
        values = np.stack([_values(result) for result in results], axis=-1)  # (channel, i, j, k, t)
        return _nibabel_like(image, values[0] if len(values) == 1 else np.moveaxis(values, 0, -1))

    return frames, shape[3], back


def _recorded_sitk(image: Any, modality: str) -> Recorded | None:
    if image.GetDimension() != 4 or image.GetSize()[3] == 1:
        return None
    count = image.GetSize()[3]

    def frames() -> Iterator[Volume]:
        for index in range(count):
            where = frame_place("SimpleITK image", index + 1)
            yield from_sitk(image[:, :, :, index], unit=_sitk_unit(image, modality), where=where)

    def back(results: Iterable[Volume]) -> Any:
        return _sitk_like(image, np.stack([_values(result).T for result in results]))

    return frames, count, back


def unit_of(modality: str) -> str | None:
    """What a caller knows of the unit of a file's values: CT is in HU; otherwise the file tells."""
    return "HU" if modality == "ct" else None


def _from_nibabel(image: Any, modality: str) -> tuple[Volume, Back]:
    where = image.get_filename() or "nibabel image"
    if image.affine is None:
        raise ScanError(f"{where}: no affine, so its place and voxel size are unknown. Give it one, such as np.eye(4).")
    try:
        volume = from_nibabel(image, unit=_unit(modality, image.get_data_dtype()), where=where)
    except (OSError, EOFError, ValueError) as error:  # its values are read from the file only now
        raise ScanError(f"{where}: its values cannot be read: {error}") from error

    def back(result: Volume) -> Any:
        values = _values(result)
        if result.channels == volume.channels == 1:
            values = values.reshape(image.shape)
        elif result.channels == 1:
            values = values[0]
        else:  # NIfTI keeps channels in a fifth axis
            values = np.moveaxis(values, 0, -1).reshape(*(*result.space, 1)[:3], 1, result.channels)
        return _nibabel_like(image, values)

    return volume, back


def _nibabel_like(image: Any, values: npt.NDArray[Any]) -> Any:
    """An image of the same class, place and header with other values."""
    header = image.header.copy()
    header.set_data_dtype(values.dtype)
    if "descrip" in header:  # of the NIfTI and Analyze families
        header["descrip"] = NOTE
        header["cal_min"] = header["cal_max"] = 0  # the display window of the old values
    made = type(image)(values, image.affine, header)
    if hasattr(made, "set_sform") and not (made.header["sform_code"] or made.header["qform_code"]):
        # nibabel assumed a place from the voxel size alone: say so in the file, for readers that assume another.
        made.set_sform(image.affine, code="aligned")
        made.set_qform(image.affine, code="aligned")
    return made


def _from_sitk(image: Any, modality: str) -> tuple[Volume, Back]:
    volume = from_sitk(image, unit=_sitk_unit(image, modality))

    def back(result: Volume) -> Any:
        return _sitk_like(image, _values(result).T)  # ([k,] j, i, channel)

    return volume, back


def _sitk_unit(image: Any, modality: str) -> str | None:
    import SimpleITK as sitk  # noqa: N813

    types = {sitk.sitkUInt8: "uint8", sitk.sitkVectorUInt8: "uint8"}
    types |= {sitk.sitkUInt16: "uint16", sitk.sitkVectorUInt16: "uint16"}
    return _unit(modality, types.get(image.GetPixelID(), "float32"))


def _sitk_like(image: Any, values: npt.NDArray[Any]) -> Any:
    """An image on the same grid with the values ([t, k,] j, i, channel)."""
    import SimpleITK as sitk  # noqa: N813

    vector = values.shape[-1] > 1
    made: Any = sitk.GetImageFromArray(np.ascontiguousarray(values if vector else values[..., 0]), isVector=vector)
    made.CopyInformation(image)
    return made


def _from_monai(image: Any, modality: str) -> tuple[Volume, Back]:
    import torch
    from monai.data.meta_tensor import MetaTensor
    from monai.data.utils import to_affine_nd

    where = str(image.meta.get("filename_or_obj", "MetaTensor"))
    if image.ndim not in (3, 4):
        raise ScanError(
            f"{where}: a MetaTensor of shape {tuple(image.shape)}; expected (channel, i, j) or (channel, i, j, k), "
            "without a batch axis"
        )
    array = image.detach().cpu().numpy()
    affine = to_affine_nd(3, np.asarray(image.affine.detach().cpu(), dtype=np.float64))
    if str(image.meta.get("space", "RAS")) == "LPS":
        affine = LPS @ affine
    if array.ndim == 3:
        affine = plane_affine(affine)
    unit = _unit(modality, array.dtype) or "a.u."
    volume = Volume(np.array(array, dtype=np.float32), affine, unit, {"path": where, "format": "memory"})

    def back(result: Volume) -> Any:
        made = MetaTensor(
            torch.from_numpy(np.array(_values(result))),
            affine=image.affine,
            meta=copy.deepcopy({key: value for key, value in image.meta.items() if key != "affine"}),
            applied_operations=copy.deepcopy(image.applied_operations),
        )
        return made.to(image.device)

    return volume, back


def _unit(modality: str, stored_type: npt.DTypeLike) -> str | None:
    """The unit of an image in memory: HU for CT, that of its whole numbers for a picture, else unknown."""
    name = np.dtype(stored_type).name
    return name if modality == "image" and name in ("uint8", "uint16") else unit_of(modality)


def _values(volume: Volume) -> npt.NDArray[Any]:
    """The array in the type its unit says: pictures in whole numbers, all else float32 (nothing is rounded)."""
    return stored(volume) if volume.unit in ("uint8", "uint16") else volume.array
