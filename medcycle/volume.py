"""Volume: the one thing that passes between files and everything else."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError

UNITS = ("HU", "a.u.", "uint8", "uint16")


@dataclass(frozen=True, eq=False)
class Volume:
    """An image with its place in the patient.

    Attributes:
        array: float32, shape (channel, *space) with two or three space axes in voxel order (i, j[, k]), as NIfTI
            and ITK number them: for an ordinary picture i runs along a row (to the right) and j down the rows.
        affine: float64, shape (4, 4), from voxel index to millimetres in RAS+ (x to the patient's Right, y Anterior,
            z Superior). For two space axes the third column is the plane's unit normal.
        unit: "HU" (CT), "a.u." (MR and other arbitrary scales), "uint8" or "uint16" (pictures).
        source: where it came from: "path" (str), "format" ("nifti", "itk", "dicom", "picture", ...) and what the
            writers need to give back the same kind. Never a patient's name.

    Raises:
        ScanError: if the shape, the affine or the unit break the above, or a value is not finite.
    """

    array: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    unit: str = "a.u."
    source: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        array = np.asarray(self.array, dtype=np.float32)
        affine = np.array(self.affine, dtype=np.float64)
        where = self.source.get("path", "volume")
        if array.ndim not in (3, 4) or 0 in array.shape:
            raise ScanError(
                f"{where}: an array of shape {array.shape}; expected (channel, i, j) or (channel, i, j, k), none empty"
            )
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.allclose(affine[3], (0, 0, 0, 1)):
            raise ScanError(
                f"{where}: the affine is not a finite 4x4 matrix with last row 0 0 0 1. Repair the file's geometry."
            )
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if spacing.min() < 1e-6 or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
            raise ScanError(
                f"{where}: the affine is singular (voxel axes {affine[:3, :3].round(4).tolist()} mm): it gives the "
                "voxels no volume. Repair the file's geometry."
            )
        if self.unit not in UNITS:
            raise ScanError(f"{where}: unit {self.unit!r}; allowed are {', '.join(UNITS)}")
        if not np.isfinite(array).all():
            bad = int(array.size - np.isfinite(array).sum())
            raise ScanError(
                f"{where}: {bad} of {array.size} values are NaN or infinite. Replace them (by air, say) first."
            )
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "affine", affine)

    @property
    def space(self) -> tuple[int, ...]:
        """Number of voxels along each space axis."""
        return tuple(self.array.shape[1:])

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.array.shape[0])

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size in mm along each space axis."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0)[: len(self.space)])

    @property
    def orientation(self) -> str:
        """The nearest anatomical axis codes, such as "RAS" or "LPS" (two letters for a 2D image)."""
        directions = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        codes, left = "", [0, 1, 2]
        for column in range(len(self.space)):
            axis = max(left, key=lambda row: abs(directions[row, column]))
            left.remove(axis)
            codes += ("RL", "AP", "SI")[axis][0 if directions[axis, column] > 0 else 1]
        return codes

    def replace(self, **changes: Any) -> Volume:
        """A copy with some attributes replaced."""
        return replace(self, **changes)
