"""Simple shapes as signed distances in a head's own, tilted and slightly warped coordinates.

Negative inside, millimetres; x to the Right, y Anterior, z Superior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Space:
    """Head coordinates of every voxel in mm (warped a little), with distances to simple shapes.

    Both sides of the head are made at once: shapes are placed by the distance `side` = |x| from the mid plane, so a
    shape at side > 0 is there twice. Distances are negative inside, like every signed distance here.
    """

    x: Field
    y: Field
    z: Field
    side: Field
    axes: tuple[Field, Field, Field]  # undistorted grid coordinates, mm
    seed: int

    @classmethod
    def of(cls, shape: Sequence[int], spacing: float, scale: Triple, angles: Triple, shift: Triple, seed: int) -> Space:
        """The space of a head of this size, tilt and place in a grid of `shape` voxels of `spacing` mm."""
        i, j, k = (np.arange(n, dtype=np.float32) * np.float32(spacing) for n in shape)
        # The head's origin: the middle of the brain, 98 mm under the top of the grid, the face getting more room.
        axes = (i - i[-1] / 2, j - j[-1] / 2 + 6, k - k[-1] + 98)
        blank = cls(i, j, k, i, axes, seed)
        grid = np.stack([g - s for g, s in zip(np.meshgrid(*axes, indexing="ij"), shift, strict=True)])
        turned = np.tensordot(_rotation(angles) / np.array(scale, np.float32)[:, None], grid, axes=1)
        x, y, z = (turned[n] + 2.5 * blank.noise(n, 45.0) for n in range(3))
        return cls(x, y, z, np.abs(x), axes, seed)

    def noise(self, key: int, length: float) -> Field:
        """A smooth random field of zero mean and unit variance that varies over `length` mm; the same on every grid.

        Cubic B-splines over random coefficients, one axis after the other.
        """
        low, high = -200.0, 200.0
        nodes = int((high - low) / length) + 4
        field = np.random.default_rng([self.seed, key]).standard_normal((nodes, nodes, nodes), dtype=np.float32)
        for axis in self.axes:
            at = (axis[:, None] - low) / length + 1 - np.arange(nodes, dtype=np.float32)
            t = np.abs(at)
            weights = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6).astype(np.float32)
            field = np.tensordot(field, weights, axes=([0], [1]))  # moves the axis to the back: three turns restore
        return field * np.float32(0.479**-1.5)  # 0.479: mean of the sum of squared weights along one axis

    def ellipsoid(self, side: float, y: float, z: float, radii: Sequence[float]) -> Field:
        """Approximate distance to an ellipsoid (exact at its surface to first order)."""
        p, q, r = ((c - m) / s for c, m, s in zip((self.side, self.y, self.z), (side, y, z), radii, strict=True))
        k0 = np.sqrt(p * p + q * q + r * r) + np.float32(1e-6)  # not 0 in the very centre
        k1 = np.sqrt((p / radii[0]) ** 2 + (q / radii[1]) ** 2 + (r / radii[2]) ** 2)
        distance: Field = k0 * (k0 - 1) / np.maximum(k1, 1e-6)
        return distance

    def column(self, y: float, radii: Sequence[float]) -> Field:
        """Distance to an upright elliptic cylinder in the mid plane."""
        p, q = self.side / radii[0], (self.y - y) / radii[1]
        distance: Field = (np.sqrt(p * p + q * q) - 1) * np.float32(min(radii))
        return distance

    def rod(self, start: Triple, end: Triple, radius: float) -> Field:
        """Distance to a rod with round ends; `start` and `end` as (side, y, z)."""
        a, b = np.array(start, np.float32), np.array(end, np.float32) - np.array(start, np.float32)
        offset = (self.side - a[0], self.y - a[1], self.z - a[2])
        t = np.clip(sum(o * n for o, n in zip(offset, b, strict=True)) / float(b @ b), 0, 1)
        across = [o - t * n for o, n in zip(offset, b, strict=True)]
        distance: Field = np.sqrt(across[0] ** 2 + across[1] ** 2 + across[2] ** 2) - np.float32(radius)
        return distance


def _rotation(angles: Triple) -> npt.NDArray[np.float32]:
    """From grid to head coordinates."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        u, v = [n for n in range(3) if n != axis]
        step = np.eye(3)
        step[u, u] = step[v, v] = np.cos(angle)
        step[u, v], step[v, u] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    return turn.astype(np.float32)


def join(a: Field, b: Field, blend: float) -> Field:
    """Union of two shapes, rounded over `blend` mm (the smooth minimum of distances)."""
    h = np.maximum(blend - np.abs(a - b), 0) / np.float32(blend)
    joined: Field = np.minimum(a, b) - h * h * np.float32(blend / 4)
    return joined
