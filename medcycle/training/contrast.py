"""The contrast curve: what each value of one domain is most likely to be in the other, learnt without any pair.

A cycle is closed by a generator that leaves the contrast as it is, and a training that begins there seldom finds out
that, say, white matter is brighter than grey in T1 and darker in FLAIR. But where in the body which tissue lies is much
the same in all patients: a region of deep white matter is dark in everybody's FLAIR. So the mean of the target's scans
in each region of the body is explained by how the source's values are spread there (ecological regression: Goodman
1953, Ecological regressions and behavior of individuals, eq. 1, with one unknown for each knot of a curve). The curve
may rise and fall. It knows nothing of places and shapes and two tissues of one value; it is a first guess, from which
the adversarial training goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError

VOXELS = 2**20  # of each scan, spread over its body
KNOTS = 12  # of the curve, evenly from -1 to 1
CELLS, REACH = 30, 1.25  # cells along an axis; the body reaches from -1 to 1
WIDTH = 0.125  # standard deviation of a region: about 10 mm of a head
FILLED = 0.3  # of the fullest region; emptier ones lie mostly outside the body
FEWEST = 4 * KNOTS  # regions
BEND = 0.01  # weight of the curve's second differences
TINY = 1e-12
DOUBTFUL = 0.7  # explained; scans of the same patient explain 0.87 and 0.94, of two unlike ones 0.51 and 0.55

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ContrastSettings:
    """How much the curve counts as a loss: its weight falls linearly to 0 within so many steps."""

    weight: float = 0.0
    steps: int = 1

    def share(self, step: int) -> float:
        """Of the weight that counts in a step, from 0."""
        return max(0.0, 1 - step / self.steps)


class ContrastCurve(NamedTuple):
    """What the body's values `linspace(-1, 1, KNOTS)` become, from -1 to 1, and the share of the variance of the
    target's regional means that this explains: of those that it was fitted to, so it tells a bad fit, not a good curve.
    """

    values: Array
    explained: float

    @property
    def trusted(self) -> bool:
        """Whether it explains as much as it does where the same regions hold the same tissue."""
        return self.explained >= DOUBTFUL

    @property
    def worth(self) -> str:
        """How much it explains, in words."""
        return f"explains {self.explained:.0%} of what regions of the body differ by"

    def sentence(self, names: str) -> str:
        """How far it can be trusted, for the user."""
        said = f"Contrast curve, {names}: {self.worth}"
        if self.trusted:
            return said
        return (
            f"{said}. That is little: the same regions of these scans seem to hold different tissue. Give both domains "
            "more scans, or set loss.contrast.weight=0 (and loss.identity=0.5)."
        )


def regional_values(volumes: Iterable[npt.NDArray[np.float32]]) -> Array:
    """How the values of the body are spread in each region, of all scans together, each of which counts the same.

    Places are told relative to each body as in :mod:`medcycle.networks.position`: its mean and sqrt(3) of its standard
    deviation along each axis are 0 and 1.

    Args:
        volumes: (i, j, k) in [-1, 1], -1 being outside the body, with the axes in one order.

    Returns:
        Float64 (KNOTS, CELLS, CELLS, CELLS): for every region, shares of voxels by the knots that their values lie
        between; a voxel counts for either as much as it is near it, so that the mean of the knots, weighted by these,
        is the region's mean.
    """
    from scipy.ndimage import gaussian_filter

    counts = np.zeros((KNOTS, CELLS**3))
    for volume in volumes:
        body = volume > -1
        chosen = np.flatnonzero(body)
        chosen = chosen[:: -(-len(chosen) // VOXELS) or 1]
        if not chosen.size:
            continue
        values = volume[np.unravel_index(chosen, volume.shape)].astype(np.float64)
        cells = np.zeros(values.size, np.int64)
        for along in np.unravel_index(chosen, volume.shape):
            relative = (along - along.mean()) / max(np.sqrt(3) * along.std(), 0.5)
            cells = cells * CELLS + ((relative / REACH + 1) / 2 * CELLS).clip(0, CELLS - 1).astype(np.int64)
        above = (values.clip(-1, 1) + 1) / 2 * (KNOTS - 1)
        knot = above.astype(np.int64).clip(0, KNOTS - 2)
        for near, share in ((knot, knot + 1 - above), (knot + 1, above - knot)):
            found = np.bincount(near * CELLS**3 + cells, share / values.size, counts.size)
            counts += found.reshape(counts.shape)
    cube = counts.reshape(KNOTS, CELLS, CELLS, CELLS)
    smooth: Array = gaussian_filter(cube, WIDTH / (2 * REACH / CELLS), mode="constant", axes=(1, 2, 3))
    return smooth


def contrast_curve(source: Array, target: Array) -> ContrastCurve:
    """The curve of the source's values whose regional means are most like the target's, by least squares.

    No value leaves [-1, 1], and the curve bends no more than it must. It is one of the body; air stays air.

    Args:
        source: of :func:`regional_values`.
        target: likewise.

    Raises:
        ScanError: fewer than FEWEST regions are in the body of both.
    """
    from scipy.optimize import lsq_linear

    filled = [regions.sum(0) / max(regions.sum(0).max(), TINY) for regions in (source, target)]
    used = np.minimum(*filled) > FILLED
    if used.sum() < FEWEST:
        raise ScanError(
            f"loss.contrast: only {used.sum()} regions lie in the bodies of both domains, and {FEWEST} are needed to "
            "tell how values belong together. Look at the scans with `medcycle inspect`, or set loss.contrast.weight=0."
        )
    weights = np.minimum(*filled)[used]
    shares, told = (regions[:, used].T / regions[:, used].sum(0)[:, None] for regions in (source, target))
    means = told @ np.linspace(-1, 1, KNOTS)
    weighted = np.sqrt(weights)[:, None] * shares
    bends = np.sqrt(BEND * np.square(weighted).sum() / KNOTS) * np.diff(np.eye(KNOTS), 2, axis=0)
    rows = np.concatenate([weighted, bends])
    wanted = np.concatenate([np.sqrt(weights) * means, np.zeros(len(bends))])
    curve = lsq_linear(rows, wanted, (-1, 1), method="bvls").x
    missed = np.average(np.square(shares @ curve - means), weights=weights)
    spread = np.average(np.square(means - np.average(means, weights=weights)), weights=weights)
    return ContrastCurve(curve, max(0.0, float(1 - missed / spread)) if spread > TINY else 0.0)
