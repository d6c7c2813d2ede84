"""Unpaired sampling: any step's batch follows from (seed, step, index) alone, so nothing has to be saved to resume.

Planes are drawn where the body is, most of the time: a sample of nothing but air teaches nothing and, through
instance norm, is a known cause of NaN; a few are shown all the same, so that the networks learn to leave air alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from medcycle.data.augment import AIR
from medcycle.errors import ConfigError, ScanError

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
ALL = "all"  # instead of one of AXES: planes of each direction
FOREGROUND_SHARE = 0.01  # a plane counts as body when more than this share of it is foreground
HEIGHT_JITTER = 0.05  # standard deviation of the matched height, as a fraction of the body's extent

Array = npt.NDArray[np.float32]
Batch = tuple[Array, Array]


class Scan(Protocol):
    """What the sampler needs of a prepared scan (``medcycle.prepare.PreparedScan`` has it)."""

    @property
    def name(self) -> str:
        """The scan's name, for messages."""

    @property
    def array(self) -> Array:
        """Shape (planes, channel, h, w), in [-1, 1], the slicing axis first."""

    @property
    def foreground(self) -> npt.ArrayLike:
        """Share of every plane that is foreground, shape (planes,)."""

    @property
    def points(self) -> npt.ArrayLike:
        """Random foreground voxels as (i, j, k), shape (n, 3)."""

    def along(self, axis: int) -> Scan:
        """The same scan as planes across another axis; asked for only where planes of all directions are."""


class Transform(Protocol):
    """A random change of one sample, such as :class:`medcycle.data.Augment`."""

    def __call__(self, array: Array, rng: np.random.Generator, modality: str, *, mirror: bool = True) -> Array:
        """The changed sample, of the same shape; not mirrored unless `mirror`, which is given only where it is False.

        The channels of a sample may be planes that lie side by side: whatever moves one must move all alike.
        """


class SizeError(ScanError):
    """Scans are too small for the samples that are to be drawn from them."""


def check_sizes(scans: Sequence[Scan], size: Sequence[int], axes: str = "axial") -> None:
    """Refuse scans that are shorter than half the sample along any axis; the rest is padded with air.

    Args:
        scans: prepared scans, their slicing axis as in `axes` (3D patches: always axial).
        size: two numbers for planes, three for patches (i, j, k).
        axes: "axial", "coronal" or "sagittal"; "all" for each of them.

    Raises:
        SizeError: naming the first such scan, its size and the key to change.
    """
    if axes == ALL:
        for name, axis in AXES.items():
            check_sizes([scan.along(axis) for scan in scans], size, name)
        return
    letters = "ijk" if len(size) == 3 else "ijk".replace("ijk"[AXES[axes]], "")
    small = [scan for scan in scans if any(2 * n < s for n, s in zip(_extents(scan, len(size)), size, strict=True))]
    if not small:
        return
    found = _extents(small[0], len(size))
    short = [letter for letter, n, s in zip(letters, found, size, strict=True) if 2 * n < s]
    largest = [min(min(2 * _extents(scan, len(size))[axis] for scan in small), size[axis]) for axis in range(len(size))]
    others = f" (and {len(small) - 1} more scans like it)" if len(small) > 1 else ""
    what = "volume" if len(size) == 3 else f"{axes} planes"
    raise SizeError(
        f"{small[0].name}{others}: prepared {what} of {' x '.join(map(str, found))} voxels, less than half of "
        f"sample.size {list(size)} along {', '.join(short)}. Set sample.size to at most {largest}, take other "
        "sample.axes, or a finer prepare.spacing."
    )


class UnpairedSampler:
    """Random samples of two domains that have nothing to do with one another.

    Args:
        scans_a, scans_b: the prepared scans of each domain.
        size: (h, w) for planes across `axes`, or (i, j, k) for 3D patches of scans prepared with axis 2.
        axes: the planes' direction, one of AXES (2D only); "all" draws it anew for each pair of samples, the same for
            both. Scans stored as axial planes then give the others at a price: of 256^3 voxels in memory an axial
            plane takes 0.03 ms, a sagittal one 0.3, a coronal one 4, and its first reading that of the whole scan.
        context: neighbours on either side that a plane has as further channels (2D only): channel c of plane n + d
            lies at (context + d) * C + c. Beyond the scan's ends its last plane is repeated.
        foreground: probability that a sample is drawn from the body rather than from anywhere.
        match_position: draw B near the relative height (0 at the body's first plane, 1 at its last) that A was
            drawn at. For cohorts that show the same stretch of the body in the same orientation.
        augment: applied to every sample, with the domain's modality.
        modalities: of domains A and B ("mr", "ct" or "image").
        seed: of everything random.

    Raises:
        ScanError: a domain without scans or without any foreground, scans of one domain with different channels,
            or scans too small (:func:`check_sizes`).
    """

    def __init__(
        self,
        scans_a: Sequence[Scan],
        scans_b: Sequence[Scan],
        *,
        size: Sequence[int],
        axes: str = "axial",
        context: int = 0,
        foreground: float = 0.9,
        match_position: bool = False,
        augment: Transform | None = None,
        modalities: tuple[str, str] = ("mr", "ct"),
        seed: int = 0,
    ) -> None:
        self.size = tuple(int(n) for n in size)
        self.context = context
        self.foreground = foreground
        self.match_position = match_position
        self.augment = augment
        self.modalities = modalities
        self.seed = seed
        self._views = [
            (_Domain.of(_along(scans_a, axis), "a"), _Domain.of(_along(scans_b, axis), "b"))
            for axis in (AXES.values() if axes == ALL else (None,))
        ]
        for scans in (scans_a, scans_b):
            check_sizes(scans, self.size, axes)

    held_on_device = False  # samples are made from files, ahead, in background threads

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the samples of domains A and B, those of neighbouring planes included."""
        first, second = self._views[0]
        planes = 2 * self.context + 1
        return planes * int(first.scans[0].array.shape[1]), planes * int(second.scans[0].array.shape[1])

    @property
    def samples_per_epoch(self) -> int:
        """Samples that show the larger domain about once: its foreground planes, or its volume in patches."""
        if len(self.size) == 2:
            return max(sum(len(domain.body) for domain in views) for views in zip(*self._views, strict=True))
        return max(
            sum(
                math.prod(math.ceil(n / s) for n, s in zip(_extents(scan, 3), self.size, strict=True))
                for scan in d.scans
            )
            for d in self._views[0]
        )

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """This process's share of the batch of one step.

        Args:
            step: optimisation step, from 0.
            batch_size: of all processes together, a multiple of `world`.
            rank, world: this process and their number; the ranks' shares in order are the batch of one process.

        Returns:
            Float32 arrays (batch_size / world, channel, *size) of domains A and B, in [-1, 1].

        Raises:
            ConfigError: if the batch does not divide among the processes.
        """
        if batch_size < 1 or batch_size % world:
            raise ConfigError(
                f"train.batch_size: {batch_size} cannot be shared by {world} processes. Set it to a multiple of "
                f"{world}, such as {max(1, round(batch_size / world)) * world}, or start fewer processes."
            )
        share = batch_size // world
        pairs = [self._pair(step, index) for index in range(rank * share, (rank + 1) * share)]
        return np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs])

    def _pair(self, step: int, index: int) -> Batch:
        rng_a, rng_b = (np.random.default_rng([self.seed, step, index, domain]) for domain in (0, 1))
        view = 0
        if len(self._views) > 1:
            view = int(np.random.default_rng([self.seed, step, index, 2]).integers(len(self._views)))
        a, b = self._views[view]
        place_a = a.draw(rng_a, self.foreground, len(self.size))
        place_b = b.draw(rng_b, self.foreground, len(self.size), near=place_a if self.match_position else None)
        # Of all directions, a sagittal plane, which has no left and right, must not be mirrored.
        how = {"mirror": False} if len(self._views) > 1 and view == AXES["sagittal"] else {}
        first, second = self.modalities
        return self._sample(a, place_a, rng_a, first, **how), self._sample(b, place_b, rng_b, second, **how)

    def _sample(self, domain: _Domain, place: _Place, rng: np.random.Generator, modality: str, **how: bool) -> Array:
        array = domain.scans[place.scan].array
        if len(self.size) == 2:
            sample = _crop_plane(_plane(array, place.voxel[2], self.context), self.size, rng, aim=place.body)
        else:
            sample = _crop_patch(array, self.size, place.voxel)
        return sample if self.augment is None else self.augment(sample, rng, modality, **how)


@dataclass(frozen=True)
class _Place:
    """Where a sample is taken: `voxel` is the centre (i, j, k) of a patch; of a 2D sample only the plane, its last."""

    scan: int
    voxel: tuple[int, int, int]
    body: bool  # drawn from the foreground on purpose
    height: float  # relative to the body: 0 at its first plane, 1 at its last


@dataclass(frozen=True)
class _Domain:
    """The scans of one domain with the tables that drawing needs."""

    scans: Sequence[Scan]
    every: npt.NDArray[np.int64]  # (n, 2): scan and plane of all planes
    body: npt.NDArray[np.int64]  # (m, 2): of those with foreground
    extent: list[tuple[int, int]]  # first and last foreground plane of every scan
    with_body: npt.NDArray[np.int64]  # the scans that have foreground

    @classmethod
    def of(cls, scans: Sequence[Scan], key: str) -> _Domain:
        if not scans:
            raise ScanError(f"domains.{key}: no scans to sample from. Check domains.{key}.path.")
        channels = {int(scan.array.shape[1]): scan.name for scan in scans}
        if len(channels) > 1:
            found = ", ".join(f"{name} has {n}" for n, name in sorted(channels.items()))
            raise ScanError(f"domains.{key}: scans with different numbers of channels ({found}). Keep one kind.")
        every, body, extent = [], [], []
        for number, scan in enumerate(scans):
            inside = np.flatnonzero(np.asarray(scan.foreground) > FOREGROUND_SHARE)
            every += [(number, plane) for plane in range(len(scan.array))]
            body += [(number, int(plane)) for plane in inside]
            extent.append((int(inside[0]), int(inside[-1])) if inside.size else (0, len(scan.array) - 1))
        if not body:
            raise ScanError(
                f"domains.{key}: no plane of its {len(scans)} scans has more than {FOREGROUND_SHARE:.0%} foreground. "
                "Look at them with `medcycle inspect`, or set prepare.foreground=false."
            )
        return cls(scans, np.array(every), np.array(body), extent, np.unique(np.array(body)[:, 0]))

    def draw(self, rng: np.random.Generator, foreground: float, ndim: int, near: _Place | None = None) -> _Place:
        """A random place; with `near`, at about that height and in the body only if that one is."""
        inside = bool(rng.random() < foreground) if near is None else near.body
        height = None if near is None else near.height + HEIGHT_JITTER * float(rng.standard_normal())
        if ndim == 3:  # every scan alike, however many planes it has
            scan = int(rng.choice(self.with_body if inside else len(self.scans)))
            voxel = self._voxel(scan, rng, inside, height)
        else:
            table = self.body if inside else self.every
            scan, plane = (int(n) for n in table[rng.integers(len(table))])
            voxel = (0, 0, plane if height is None else self._plane_at(scan, height, inside))
        first, last = self.extent[scan]
        return _Place(scan, voxel, inside, (voxel[2] - first) / (last - first) if last > first else 0.5)

    def _plane_at(self, scan: int, height: float, inside: bool) -> int:
        first, last = self.extent[scan]
        low, high = (first, last) if inside else (0, len(self.scans[scan].array) - 1)
        return min(max(round(first + height * (last - first)), low), high)

    def _voxel(self, scan: int, rng: np.random.Generator, inside: bool, height: float | None) -> tuple[int, int, int]:
        points = np.asarray(self.scans[scan].points).reshape(-1, 3)
        if not inside or not len(points):
            i, j, k = (int(rng.integers(n)) for n in _extents(self.scans[scan], 3))
            return i, j, k if height is None else self._plane_at(scan, height, inside)
        if height is not None:  # one of the points on the plane that comes nearest
            distance = np.abs(points[:, 2] - self._plane_at(scan, height, inside))
            points = points[distance == distance.min()]
        i, j, k = (int(n) for n in points[rng.integers(len(points))])
        return i, j, k


def _extents(scan: Scan, ndim: int) -> tuple[int, ...]:
    """Voxels along the sample's axes: (h, w) of a plane, (i, j, k) of an axially prepared volume."""
    planes, _, h, w = scan.array.shape
    return (h, w) if ndim == 2 else (h, w, planes)


def _along(scans: Sequence[Scan], axis: int | None) -> Sequence[Scan]:
    return scans if axis is None else [scan.along(axis) for scan in scans]


def neighbours(plane: int, context: int, first: int, last: int) -> npt.NDArray[np.int64]:
    """The planes that are shown together with one, itself in the middle; the ends repeat beyond them."""
    return np.clip(np.arange(plane - context, plane + context + 1), first, last)


def _plane(array: Array, plane: int, context: int) -> Array:
    """A plane of (planes, C, h, w) with its neighbours as channels, ((2 * context + 1) * C, h, w)."""
    if not context:
        return np.asarray(array[plane])
    stack = np.asarray(array[neighbours(plane, context, 0, len(array) - 1)])
    return stack.reshape(-1, *array.shape[2:])


def _crop_plane(plane: Array, size: Sequence[int], rng: np.random.Generator, aim: bool) -> Array:
    """A random crop (C, *size) of a plane (C, h, w); with `aim`, one that holds a random pixel of the body."""
    extents = plane.shape[1:]
    pixel = [0, 0]
    aim = aim and any(n > s for n, s in zip(extents, size, strict=True))
    if aim:
        body = np.flatnonzero(plane.max(axis=0) > AIR + 1e-3)
        aim = bool(body.size)
        if aim:
            pixel = [int(p) for p in np.unravel_index(body[rng.integers(body.size)], extents)]
    starts = []
    for n, s, p in zip(extents, size, pixel, strict=True):
        low, high = (max(0, p - s + 1), min(n - s, p)) if aim else (0, n - s)
        starts.append(int(rng.integers(low, high + 1)) if n > s else 0)
    window = tuple(slice(start, start + s) for start, s in zip(starts, size, strict=True))
    return pad_sample(plane[(slice(None), *window)], size)


def _crop_patch(array: Array, size: Sequence[int], centre: Sequence[int]) -> Array:
    """The patch (C, i, j, k) of a volume (k, C, i, j) round a centre, moved inside the volume where it sticks out."""
    planes, _, h, w = array.shape
    starts = [min(max(c - s // 2, 0), max(n - s, 0)) for c, s, n in zip(centre, size, (h, w, planes), strict=True)]
    i, j, k = (slice(start, start + s) for start, s in zip(starts, size, strict=True))
    return pad_sample(np.asarray(array[k, :, i, j]).transpose(1, 2, 3, 0), size)


def pad_sample(sample: Array, size: Sequence[int]) -> Array:
    """A contiguous float32 copy of (C, *n), centred in air where an axis is short of `size`."""
    padded = np.full((sample.shape[0], *size), AIR, np.float32)
    starts = [(s - n) // 2 for s, n in zip(size, sample.shape[1:], strict=True)]
    window = tuple(slice(start, start + n) for start, n in zip(starts, sample.shape[1:], strict=True))
    padded[(slice(None), *window)] = sample
    return padded
