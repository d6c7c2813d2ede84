"""Lesions that a translation kept and lesions that it invented, as shares: for Cohen 2018's kind of hallucination.

A lesion is told by its contrast, the mean inside minus the mean of the tissue round it, so that neither noise nor a
shift of the whole tissue makes or hides one. The same measure at places that are healthy tells whether one was invented
there. Where no places are given, blobs are looked for with balls of several radii, each against the shell round it: the
extrema over place and scale (Lindeberg 1998, Feature detection with automatic scale selection).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.evaluation.masked import checked

SEEN = 0.5  # of the true contrast, from which a lesion counts
SHELL = 6.0  # mm of tissue round a lesion that it is compared with
RADII = (6.0, 8.0, 11.0, 14.0)  # mm of the balls that invented lesions are looked for with
INSIDE = 0.75  # of a ball, and a third of its shell, must lie in the tissue where lesions are looked for

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Contrast(NamedTuple):
    """One lesion's contrast to the tissue round it in HU, as it is and as it was made."""

    true: float
    made: float

    @property
    def seen(self) -> bool:
        """Whether what was made is seen as the true lesion: of its sign, and at least half its size."""
        return self.made * math.copysign(1, self.true) >= SEEN * abs(self.true)


class Blob(NamedTuple):
    """A place that looks like a lesion which is not there: centre (voxels), radius (mm), contrast in HU."""

    place: tuple[int, ...]
    radius: float
    contrast: float


def lesion_contrasts(
    prediction: npt.ArrayLike,
    reference: npt.ArrayLike,
    numbers: npt.ArrayLike,
    tissue: npt.ArrayLike,
    spacing: npt.ArrayLike,
    healthy: npt.ArrayLike | None = None,
) -> dict[int, Contrast]:
    """The contrast of every lesion in both images.

    Args:
        prediction: HU, shape (i, j, k) or (i, j).
        reference: HU, with the lesions, the same shape.
        numbers: 1, 2, ... in the lesions (or in places where one might be), 0 elsewhere; the same shape.
        tissue: above 0 where lesions can be, such as the brain; the same shape.
        spacing: mm between voxels along each axis.
        healthy: HU, the reference without lesions, where that is known, as of a phantom. It is taken off both images,
            so that what was there without the lesion (a sulcus, say) is no contrast of the lesion's.

    Returns:
        Number: contrast. The shell begins one voxel (the largest spacing) outside the lesion, which two tissues share,
        is 6 mm thick, and holds tissue without lesions only.

    Raises:
        ScanError: as in :func:`medcycle.evaluation.masked.synthrad2023`; or a lesion without tissue round it.
    """
    from scipy.ndimage import distance_transform_edt

    x, y, inside = checked(prediction, reference, tissue, channels=False)
    labels = np.asarray(numbers)
    if labels.shape != x.shape:
        raise ScanError(f"shapes {labels.shape} (lesions) and {x.shape} (images) differ; they must lie on one grid")
    if healthy is not None:
        _, without, _ = checked(prediction, healthy, tissue, channels=False)
        x, y = x - without, y - without
    step = np.broadcast_to(np.asarray(spacing, np.float64), x.ndim)
    found = {}
    for number in np.unique(labels[labels > 0]):
        lesion = labels == number
        distance = distance_transform_edt(~lesion, sampling=step)
        shell = (distance > step.max()) & (distance <= step.max() + SHELL) & inside & (labels == 0)
        if not shell.any():
            raise ScanError(f"lesion {number} has no tissue within {SHELL} mm; mark more of it as tissue")
        true, made = (float(image[lesion].mean() - image[shell].mean()) for image in (y, x))
        found[int(number)] = Contrast(true, made)
    return found


def invented_lesions(
    prediction: npt.ArrayLike,
    reference: npt.ArrayLike,
    tissue: npt.ArrayLike,
    spacing: npt.ArrayLike,
    contrast: float,
    radii: Sequence[float] = RADII,
) -> list[Blob]:
    """Blobs anywhere in the prediction that the reference does not have, with at least half of a lesion's contrast.

    Looked for in prediction - reference: the mean in a ball, minus the mean in the shell round it (see
    :func:`lesion_contrasts`), over tissue only. The strongest counts, and whatever overlaps a ball that counts is part
    of it.

    Args:
        prediction: HU, shape (i, j, k) or (i, j).
        reference: HU, the healthy truth, the same shape.
        tissue: above 0 where lesions can be; the same shape.
        spacing: mm between voxels along each axis.
        contrast: of a true lesion, HU; its sign is that of the blobs.
        radii: of the balls, mm; the first is the smallest lesion that counts.

    Returns:
        The blobs, strongest first.

    Raises:
        ScanError: as in :func:`medcycle.evaluation.masked.synthrad2023`; or a contrast of 0.
    """
    if not contrast or not math.isfinite(contrast):
        raise ScanError(f"contrast {contrast}: expected a lesion's contrast in HU, above or below 0")
    x, y, inside = checked(prediction, reference, tissue, channels=False)
    step = np.broadcast_to(np.asarray(spacing, np.float64), x.ndim)
    difference = (x - y) * math.copysign(1, contrast)
    maps = np.stack([_local_contrast(difference, inside, step, radius) for radius in radii])
    scale, *voxels = np.nonzero(maps >= SEEN * abs(contrast))
    strength, size, places = maps[scale, *voxels], np.asarray(radii)[scale], np.stack(voxels, axis=1)
    blobs = []
    while strength.size:
        best = int(strength.argmax())
        place = tuple(int(n) for n in places[best])
        blobs.append(Blob(place, float(size[best]), math.copysign(float(strength[best]), contrast)))
        apart = np.linalg.norm((places - places[best]) * step, axis=1) > size + size[best]
        strength, size, places = strength[apart], size[apart], places[apart]
    return blobs


def _local_contrast(image: Array, inside: Mask, step: Array, radius: float) -> Array:
    """The mean in the ball minus that in its shell round every voxel; -inf where too little of either is inside."""
    from scipy.signal import fftconvolve

    reach = radius + float(step.max()) + SHELL
    sides = [np.arange(-math.ceil(reach / s), math.ceil(reach / s) + 1) * s for s in step]
    distance = np.sqrt(sum(side**2 for side in np.meshgrid(*sides, indexing="ij")))
    ball = (distance <= radius).astype(np.float64)
    shell = ((distance > radius + step.max()) & (distance <= reach)).astype(np.float64)
    weight = inside.astype(np.float64)
    means, enough = [], inside.copy()
    for kernel, share in ((ball, INSIDE), (shell, 1 / 3)):
        there = fftconvolve(weight, kernel, mode="same")
        means.append(fftconvolve(image * weight, kernel, mode="same") / np.maximum(there, 0.5))
        enough &= there >= share * kernel.sum()
    return np.where(enough, means[0] - means[1], -np.inf)
