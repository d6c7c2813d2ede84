"""Baselines that know nothing of anatomy: what a translation must beat before its figures mean anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.volume import Volume

Baseline = Callable[[Volume], Volume]
"""An input scan to its translation, on the same grid."""

HU_RANGE = (-1024, 3071)  # what 12 bits of CT hold


def constant(like: Volume, value: float = 40.0, unit: str = "HU") -> Volume:
    """One value everywhere on the grid of `like`; 40 HU, soft tissue, is the best constant guess inside a body."""
    return like.replace(array=np.full((1, *like.space), value, np.float32), unit=unit)


def pooled_histogram(training_cts: Iterable[Path | Volume]) -> npt.NDArray[np.int64]:
    """Voxel counts of all training CTs together, one bin a HU from -1024 to 3071 (values beyond go to the ends).

    Raises:
        ScanError: no scan given, or one that cannot be read as HU.
    """
    low, high = HU_RANGE
    counts = np.zeros(high - low + 1, np.int64)
    for scan in training_cts:
        volume = scan if isinstance(scan, Volume) else _read_ct(scan)
        values = np.clip(np.rint(volume.array), low, high).astype(np.int64) - low
        counts += np.bincount(values.ravel(), minlength=counts.size)
    if not counts.any():
        raise ScanError("histogram matching needs at least one training CT, and none was given")
    return counts


def _read_ct(path: Path) -> Volume:
    from medcycle.io import read_volume

    return read_volume(path, unit="HU")


def histogram_matching(scan: Volume, histogram: npt.NDArray[np.int64]) -> Volume:
    """Map the grey values of the whole scan, in order, so that they are spread as the pooled HU are.

    Each value goes to the HU with the same cumulative share of voxels, linearly interpolated between HU, as
    :func:`skimage.exposure.match_histograms` does with a single reference image.

    Args:
        scan: one channel, any unit.
        histogram: counts from :func:`pooled_histogram`.
    """
    _, inverse, counts = np.unique(scan.array[:1], return_inverse=True, return_counts=True)
    present = np.flatnonzero(histogram)
    share = np.cumsum(histogram[present]) / histogram.sum()
    hu = np.interp(np.cumsum(counts) / inverse.size, share, present + float(HU_RANGE[0]))
    return scan.replace(array=hu[inverse].reshape(1, *scan.space).astype(np.float32), unit="HU")


def ct_baselines(training_cts: Iterable[Path | Volume]) -> dict[str, Baseline]:
    """The two baselines of an MR-to-CT table, by the name to print, for :func:`medcycle.evaluation.evaluate`."""
    matched = partial(histogram_matching, histogram=pooled_histogram(training_cts))
    return {"constant 40 HU": constant, "histogram matching": matched}
