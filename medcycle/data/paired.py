"""Samples of registered pairs: both domains at the same place, beside the unpaired ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from medcycle.data.augment import Augment
from medcycle.data.loader import Sampler
from medcycle.data.unpaired import (
    ALL,
    AXES,
    Batch,
    Scan,
    _along,
    _crop_patch,
    _crop_plane,
    _Domain,
    _plane,
    check_sizes,
)


class Pair(Scan, Protocol):
    """What the sampler needs of a prepared pair (``medcycle.prepare.PreparedPair`` has it)."""

    @property
    def split(self) -> int:
        """Number of A's channels, which come first in `array`."""


class PairedSampler:
    """Random samples of registered pairs; a sample follows from (seed, step, index) alone.

    Drawn as :class:`medcycle.data.UnpairedSampler` draws A. Both images are cut, mirrored and turned as one array, so
    they show the same place. Artefacts are left out: an image with artefacts would be the other direction's target.

    Args:
        pairs: the prepared pairs.
        size: (h, w) for planes across `axes`, or (i, j, k) for 3D patches of pairs prepared with axis 2.
        axes: the planes' direction, one of AXES (2D only); "all" draws it anew for each sample.
        context: neighbours on either side that a plane has as further channels (2D only).
        foreground: probability that a sample is drawn from the body rather than from anywhere.
        augment: whose geometry is applied.
        seed: of everything random.

    Raises:
        ScanError: no pair has any foreground, or pairs too small (:func:`medcycle.data.check_sizes`).
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        size: Sequence[int],
        axes: str = "axial",
        context: int = 0,
        foreground: float = 0.9,
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        self.size = tuple(int(n) for n in size)
        self.context, self.foreground, self.augment, self.seed = context, foreground, augment, seed
        self.split = pairs[0].split
        self._views = [_Domain.of(_along(pairs, axis), "a") for axis in (AXES.values() if axes == ALL else (None,))]
        check_sizes(pairs, self.size, axes)

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """This process's share of the paired batch of one step, as :meth:`medcycle.data.UnpairedSampler.batch`.

        Returns:
            Float32 arrays (batch_size / world, channel, *size) of domains A and B, in [-1, 1]: the same places.
        """
        share = batch_size // world
        both = np.stack([self._sample(step, index) for index in range(rank * share, (rank + 1) * share)])
        planes = both.reshape(share, 2 * self.context + 1, -1, *self.size)
        a, b = planes[:, :, : self.split], planes[:, :, self.split :]
        return a.reshape(share, -1, *self.size), b.reshape(share, -1, *self.size)

    def _sample(self, step: int, index: int) -> Any:
        rng = np.random.default_rng([self.seed, step, index, 3])  # 0 to 2 are the unpaired samples'
        view = int(rng.integers(len(self._views)))
        pairs = self._views[view]
        place = pairs.draw(rng, self.foreground, len(self.size))
        array = pairs.scans[place.scan].array
        if len(self.size) == 2:
            sample = _crop_plane(_plane(array, place.voxel[2], self.context), self.size, rng, aim=place.body)
        else:
            sample = _crop_patch(array, self.size, place.voxel)
        # Of all directions, a sagittal plane, which has no left and right, must not be mirrored.
        mirror = len(self._views) == 1 or view != AXES["sagittal"]
        return sample if self.augment is None else self.augment.geometry(sample, rng, mirror=mirror)


class WithPairs:
    """The batches of a sampler, each followed by one of registered pairs: (A, B, paired A, paired B)."""

    def __init__(self, sampler: Sampler, pairs: PairedSampler) -> None:
        self._sampler, self._pairs = sampler, pairs

    @property
    def held_on_device(self) -> bool:
        """The sampler's."""
        return self._sampler.held_on_device

    @property
    def samples_per_epoch(self) -> int:
        """The sampler's: pairs come besides."""
        return self._sampler.samples_per_epoch

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> tuple[Any, ...]:
        """This process's share: as many paired samples as unpaired ones."""
        return *self._sampler.batch(step, batch_size, rank, world), *self._pairs.batch(step, batch_size, rank, world)
