"""Registered pairs: two prepared scans of one patient as one array, so that what cuts or turns one does so to both.

The second scan is brought onto the first's prepared grid through the patient's millimetres, and both are cut to what
both fields of view show. An entry of the cache holds the channels of both, and is found again as any scan's is.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.io.files import staged
from medcycle.prepare import spatial
from medcycle.prepare.cache import PreparedScan, flush

VERSION = 1  # of the entries; raised when the same scans would now give other values
AIR = -1.0


@dataclass(frozen=True, eq=False)
class PreparedPair:
    """Two registered scans on one grid, read from disk page by page.

    Attributes:
        name: of both scans.
        key: of the entry in the cache; changes with either scan's content and preparation.
        array: float32 in [-1, 1], memory-mapped, shape (plane, channels of A and then of B, h, w), as
            :class:`PreparedScan` has it.
        split: number of A's channels.
        foreground: float32 (plane,): share of each plane of A's frame that is body.
        points: int (n, 3): voxels (i, j, k) of A's body.
        foregrounds: `foreground` of the planes across each axis.
        axis: the slicing axis.
        overlap: Dice of the two bodies (voxels that are not air).
    """

    name: str
    key: str
    array: npt.NDArray[np.float32]
    split: int
    foreground: npt.NDArray[np.float32]
    points: npt.NDArray[np.int64]
    foregrounds: tuple[npt.NDArray[np.float32], ...]
    axis: int
    overlap: float

    def along(self, axis: int) -> PreparedPair:
        """The same pair as planes across another axis: a view, whose planes are scattered over the file."""
        if axis == self.axis:
            return self
        array = np.moveaxis(np.moveaxis(self.array, 0, 1 + self.axis), 1 + axis, 0)
        return replace(self, array=array, foreground=self.foregrounds[axis], axis=axis)


def prepare_pair(a: PreparedScan, b: PreparedScan, cache: Path) -> PreparedPair:
    """Bring two prepared scans onto one grid, or find that done.

    Args:
        a: keeps its grid.
        b: is brought onto it: moved where the grids share their voxels, else interpolated trilinearly, smoothed first
            where A's voxels are larger.
        cache: the folder of the prepared scans.

    Raises:
        ScanError: a volume and a single plane; no body in both fields of view; or the cache cannot be written.
    """
    said = json.dumps([VERSION, "pair", a.key, b.key])
    key = hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
    found = _load(a, b, key, cache)
    if found is None:
        _make(a, b, key, cache)
        found = _load(a, b, key, cache)
    if found is None:
        raise ScanError(f"{cache}: an entry vanished while it was in use. Is another program clearing the cache?")
    return found


def _make(a: PreparedScan, b: PreparedScan, key: str, cache: Path) -> None:
    if a.state.ndim != b.state.ndim:
        raise ScanError(f"{_names(a, b)}: one is a single plane, the other a volume; a pair needs two of a kind.")
    affine, space = a.state.prepared_affine, a.state.prepared_space
    moving, moving_affine = _as_coarse(b, affine)
    index = np.linalg.inv(moving_affine) @ affine  # A's index -> index in B
    seen = ~spatial.outside(index, space, moving.shape[1:])
    if not seen.any():
        raise _apart(a, b)
    brought = spatial.bring_back(moving, moving_affine, space, affine, AIR)
    both = np.concatenate([np.where(seen, a.volume(), np.float32(AIR)), brought])
    both, seen, cut = spatial.crop(both, seen, affine, 0.0)
    start = np.rint((np.linalg.inv(affine) @ cut)[:3, 3]).astype(int)
    points = a.points - start
    points = points[((points >= 0) & (points < both.shape[1:])).all(axis=1)]
    points = points[seen[tuple(points.T)]]
    body_a, body_b = (part.max(axis=0) > AIR for part in (both[: a.channels], both[a.channels :]))
    if not (len(points) and (body_a & body_b).any()):
        raise _apart(a, b)
    planes = np.ascontiguousarray(np.moveaxis(both, 1 + a.axis, 0))
    meta = {
        "version": VERSION,
        "shape": planes.shape,
        "foregrounds": [share[s:][:n].tolist() for share, s, n in zip(a.foregrounds, start, seen.shape, strict=True)],
        "points": points.tolist(),
        "overlap": float(2 * (body_a & body_b).sum() / (body_a.sum() + body_b.sum())),
    }
    with staged(cache / f"{key}.npy") as file:
        np.save(file, planes)
        flush(file)
    with staged(cache / f"{key}.json") as file:
        file.write_text(json.dumps(meta), encoding="utf-8")
        flush(file)


def _as_coarse(b: PreparedScan, affine: npt.NDArray[np.float64]) -> tuple[Any, npt.NDArray[np.float64]]:
    """B with voxels no smaller than the grid's, where it has smaller ones: as its own larger voxels would have seen."""
    own = b.state.prepared_affine
    larger = np.abs((np.linalg.inv(own) @ affine)[:3, :3]).max(axis=1)  # voxels of B a step of the grid passes
    spacing = np.linalg.norm(own[:3, :3], axis=0) * np.maximum(larger, 1)
    return spatial.resample(np.asarray(b.volume()), own, spacing.tolist())


def _load(a: PreparedScan, b: PreparedScan, key: str, cache: Path) -> PreparedPair | None:
    """The entry under a key, or None where it is missing or damaged (it is then made again)."""
    try:
        meta = json.loads((cache / f"{key}.json").read_bytes())
        array = np.load(cache / f"{key}.npy", mmap_mode="r")
        if meta["version"] != VERSION or list(array.shape) != meta["shape"] or array.dtype != np.float32:
            return None
        shares = tuple(np.array(share, dtype=np.float32) for share in meta["foregrounds"])
        return PreparedPair(
            name=f"{a.name} and {b.name}",
            key=key,
            array=array,
            split=a.channels,
            foreground=shares[a.axis],
            points=np.array(meta["points"], dtype=np.int64).reshape(-1, 3),
            foregrounds=shares,
            axis=a.axis,
            overlap=float(meta["overlap"]),
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _apart(a: PreparedScan, b: PreparedScan) -> ScanError:
    reach = " and ".join(_reach(scan) for scan in (a, b))
    return ScanError(
        f"{_names(a, b)}: the fields of view have no body in common (they reach over {reach}). A pair is two scans "
        "registered to each other, in the same patient coordinates: register the second to the first, or drop the pair."
    )


def _reach(scan: PreparedScan) -> str:
    """Where the prepared frame lies, such as "x -90 to 90, y 0 to 200, z -50 to 80 mm" (RAS+)."""
    corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in scan.state.prepared_space]), axis=-1).reshape(-1, 3)
    affine = scan.state.prepared_affine
    places = corners @ affine[:3, :3].T + affine[:3, 3]
    ends = zip("xyz", places.min(axis=0), places.max(axis=0), strict=True)
    return ", ".join(f"{axis} {low:.0f} to {high:.0f}" for axis, low, high in ends) + " mm"


def _names(a: PreparedScan, b: PreparedScan) -> str:
    return f"{a.path} and {b.path}"
