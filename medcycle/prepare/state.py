"""What preparing a scan gives: the array for the network, and the state that leads back to the scan's own grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class PreparedState:
    """All that restoring needs to know of one scan; goes into the cache as JSON.

    Attributes:
        source_space: the scan's own shape, two or three numbers.
        source_affine: (4, 4), the scan's voxels -> RAS+ mm.
        unit: the scan's own unit.
        channels: the scan's own number of channels.
        prepared_space: the prepared array's shape, three numbers.
        prepared_affine: (4, 4), the prepared voxels -> RAS+ mm.
        low, high: the values (in the scan's unit) that became -1 and 1.
        clipped: share of the foreground's values outside [low, high], which cannot be restored.
        landmarks: of the scan's histogram, where it was standardized (see :mod:`medcycle.prepare.nyul`); else none.
    """

    source_space: tuple[int, ...]
    source_affine: npt.NDArray[np.float64]
    unit: str
    channels: int
    prepared_space: tuple[int, ...]
    prepared_affine: npt.NDArray[np.float64]
    low: float
    high: float
    clipped: float
    landmarks: tuple[float, ...] = ()

    @property
    def ndim(self) -> int:
        """Number of the scan's space axes: 2 or 3."""
        return len(self.source_space)

    @property
    def scale(self) -> tuple[float, float]:
        """(low, high): the values that became -1 and 1."""
        return self.low, self.high

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            k: np.asarray(v).tolist() if k.endswith(("space", "affine", "landmarks")) else v for k, v in values.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PreparedState:
        """The inverse of :meth:`to_dict`; KeyError, TypeError or ValueError if it is not one."""
        given = dict(values)
        for key in ("source_space", "prepared_space"):
            given[key] = tuple(int(n) for n in given[key])
        for key in ("source_affine", "prepared_affine"):
            given[key] = np.array(given[key], dtype=np.float64).reshape(4, 4)
        given["landmarks"] = tuple(float(v) for v in given.get("landmarks", ()))
        return cls(**given)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan that is ready for a network.

    Attributes:
        array: float32 in [-1, 1], shape (channel, i, j, k); a 2D scan has k = 1. Air is -1.
        foreground: bool, (i, j, k): the body; the whole frame where none is looked for.
        state: what :meth:`Preparation.restore` needs.
    """

    array: npt.NDArray[np.float32]
    foreground: npt.NDArray[np.bool_]
    state: PreparedState
