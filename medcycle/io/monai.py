"""MONAI pipelines that read and write scans as medcycle does: an ImageReader and an ImageWriter.

    LoadImaged(keys="image", reader=MedcycleReader, ensure_channel_first=True)
    SaveImaged(keys="image", writer=MedcycleWriter, output_ext=".nii.gz")

Importing this module imports MONAI (about 4 s).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.config import PathLike
from monai.data import ImageReader, ImageWriter, MetaTensor
from monai.transforms import SpatialResample
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys, convert_to_numpy, convert_to_tensor

from medcycle.errors import ScanError
from medcycle.io import SUFFIXES, read_volume, write_dicom_series, write_volume
from medcycle.io.dicom_series import is_dicom
from medcycle.io.files import LPS
from medcycle.io.find import suffix_of
from medcycle.volume import Volume

__all__ = ["MedcycleReader", "MedcycleWriter"]

_UNIT, _SERIES, _GAPS = "medcycle_unit", "medcycle_series", "medcycle_resample_gaps"
Paths = Sequence[PathLike] | PathLike


class MedcycleReader(ImageReader):
    """A reader for MONAI's LoadImage that refuses what :func:`medcycle.io.read_volume` refuses.

    The array has the axes (i, j[, k]) of the Volume, after a channel axis if it has several channels or several files
    were given. The metadata has "affine" and "original_affine" (4 x 4, mm), "space", "spatial_shape",
    "original_channel_dim", and "medcycle_..." keys from which :class:`MedcycleWriter` knows the unit and the series.

    LoadImage tries MONAI's own, laxer readers on whatever a given reader fails to `read`; so files are first looked at
    in :meth:`get_data`, whose ScanError LoadImage lets through (and a Compose has as the cause of its RuntimeError).

    Args:
        unit: as for :func:`medcycle.io.read_volume`.
        series: as for :func:`medcycle.io.read_volume`.
        resample_gaps: as for :func:`medcycle.io.read_volume`.
        affine_lps_to_ras: give affines in RAS+, as MONAI's readers do by default; False: in LPS+.
    """

    def __init__(
        self,
        unit: str | None = None,
        series: str | None = None,
        resample_gaps: bool = False,
        affine_lps_to_ras: bool = True,
    ) -> None:
        super().__init__()
        self.unit, self.series, self.resample_gaps = unit, series, resample_gaps
        self.affine_lps_to_ras = affine_lps_to_ras

    def verify_suffix(self, filename: Paths) -> bool:
        """Whether all of these look like scans that medcycle reads."""
        return all(path.is_dir() or suffix_of(path) in SUFFIXES or is_dicom(path) for path in _paths(filename))

    def read(self, data: Paths, **kwargs: Any) -> list[Path]:
        """The paths, for :meth:`get_data`."""
        return _paths(data)

    def get_data(self, img: Paths) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """The array and the metadata of a scan; several files on one grid become channels.

        Raises:
            ScanError: a file that cannot be read safely, or several whose grids differ.
        """
        paths = _paths(img)
        volumes = [
            read_volume(path, unit=self.unit, series=self.series, resample_gaps=self.resample_gaps) for path in paths
        ]
        first = volumes[0]
        for path, other in zip(paths, volumes, strict=True):
            if other.space != first.space or not np.allclose(other.affine, first.affine, rtol=0, atol=1e-3):
                raise ScanError(
                    f"{path}: its grid is not that of {paths[0]}, so they cannot be channels of one image. Give one "
                    "file, or the folder of a DICOM series."
                )
        array = np.concatenate([volume.array for volume in volumes])
        affine = first.affine if self.affine_lps_to_ras else LPS @ first.affine
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS if self.affine_lps_to_ras else SpaceKeys.LPS,
            MetaKeys.SPATIAL_SHAPE: np.array(first.space),
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if len(array) == 1 else 0,  # nan: MONAI's "no channel"
            ImageMetaKey.FILENAME_OR_OBJ: str(paths[0]),
            _UNIT: first.unit,
            _SERIES: str(first.source.get("series", "")),
            _GAPS: self.resample_gaps,
        }
        return (array[0] if len(array) == 1 else array), meta


class MedcycleWriter(ImageWriter):
    """A writer for MONAI's SaveImage: every format of :func:`medcycle.io.write_volume`, whole or not at all.

    With `output_ext=""` it writes a DICOM series, into a folder; in the patient, study and frame of reference of the
    scan that the metadata name, if that is DICOM. The number type follows from the unit (HU: int16), not from
    `output_dtype`. SaveImage turns a ScanError into a RuntimeError that quotes it.

    Args:
        unit: of the values; None: that in which MedcycleReader read them, else "a.u.".
        description: for DICOM, what the series is.
        **kwargs: what SaveImage gives to every writer; `scale` is refused.

    Raises:
        ScanError: `scale` is asked for.
    """

    def __init__(self, unit: str | None = None, description: str = "", **kwargs: Any) -> None:
        if kwargs.get("scale") is not None:
            raise ScanError("MedcycleWriter writes values as they are: leave out scale, and rescale them before")
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.unit, self.description = unit, description
        self.meta: dict[str, Any] = {}
        self.array = np.zeros((1, 1, 1), dtype=np.float32)
        self.affine: npt.NDArray[np.float64] = np.eye(4)

    def set_data_array(self, data_array: Any, channel_dim: int | None = 0, **kwargs: Any) -> None:
        """Take the image.

        Args:
            data_array: array or tensor with two or three space axes.
            channel_dim: which of its axes is the channels'; None: it has none.
            **kwargs: what SaveImage gives to every writer.
        """
        array = np.asarray(convert_to_numpy(data_array), dtype=np.float32)
        self.array = array[None] if channel_dim is None else np.moveaxis(array, channel_dim, 0)

    def set_metadata(self, meta_dict: Mapping[str, Any] | None = None, resample: bool = True, **options: Any) -> None:
        """Take the place of the image, and with `resample` bring it back to the original grid.

        Args:
            meta_dict: "affine", "space" and what MedcycleReader adds; "original_affine", "spatial_shape" to resample.
            resample: whether to.
            **options: mode, padding_mode, dtype of :class:`monai.transforms.SpatialResample`.
        """
        self.meta = dict(meta_dict or {})
        affine = self.meta.get(MetaKeys.AFFINE)
        original, shape = self.meta.get(MetaKeys.ORIGINAL_AFFINE), self.meta.get(MetaKeys.SPATIAL_SHAPE)
        self.affine = _square(np.eye(4) if affine is None else affine)
        if resample and original is not None:
            known = {name: options[name] for name in ("mode", "padding_mode", "dtype") if name in options}
            image = MetaTensor(self.array, affine=convert_to_tensor(self.affine))
            size = None if shape is None else [int(n) for n in np.asarray(shape)]
            target = convert_to_tensor(_square(original))
            back: Any = SpatialResample(**known)(image, dst_affine=target, spatial_size=size)
            self.array, self.affine = convert_to_numpy(back).astype(np.float32), _square(back.affine)
        if self.meta.get(MetaKeys.SPACE) == SpaceKeys.LPS:
            self.affine = LPS @ self.affine

    def write(self, filename: PathLike, verbose: bool = True, **kwargs: Any) -> None:
        """Write the image; the ending says how, none means a DICOM series.

        Raises:
            ScanError: as for :func:`medcycle.io.write_volume`.
        """
        super().write(filename, verbose=verbose)
        filename = os.fspath(filename)
        unit = self.unit or self.meta.get(_UNIT) or "a.u."
        volume = Volume(self.array, self.affine, unit, {"path": str(filename)})
        if Path(filename).suffix and suffix_of(filename):
            write_volume(volume, filename)
        else:
            write_dicom_series(volume, filename, like=self._like(), description=self.description)

    def _like(self) -> Volume | None:
        """The DICOM scan that the image was read from, if it was and is still there."""
        path = Path(str(self.meta.get(ImageMetaKey.FILENAME_OR_OBJ, "")))
        if not self.meta.get(_SERIES):
            return None
        with warnings.catch_warnings():  # reading has said them already
            warnings.simplefilter("ignore")
            return read_volume(path, series=self.meta[_SERIES], resample_gaps=bool(self.meta.get(_GAPS)))


def _paths(data: Paths) -> list[Path]:
    return [Path(data)] if isinstance(data, str | os.PathLike) else [Path(one) for one in data]


def _square(affine: Any) -> npt.NDArray[np.float64]:
    """A 3 x 3 affine of a plane, or one of space, as 4 x 4."""
    found = np.asarray(convert_to_numpy(affine), dtype=np.float64)
    if found.shape != (3, 3):
        return found
    result = np.eye(4)
    result[np.ix_((0, 1, 3), (0, 1, 3))] = found
    return result
