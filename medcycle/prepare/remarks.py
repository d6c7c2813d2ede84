"""Suspicions: what scans that can all be used still say against training on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medcycle.prepare.findings import DomainAudit
from medcycle.prepare.preparation import Preparation
from medcycle.volume import Volume

SAMPLE_VALUES = 1_000_000  # percentiles of an audit are taken from about this many voxels, evenly spread
MIXED = 1.05  # spacings are told apart when the largest is more than this times the smallest
OTHER_VOXEL, OTHER_FIELD = 1.25, 1.6  # ratios of two domains' medians along an axis that are remarked
UNEQUAL = 10  # so many times more scans in one domain than in the other


Fingerprint = tuple[tuple[float, ...], ...]
"""Equal for scans of the same values, in whatever file, compression and order of axes."""


def fingerprint_of(volume: Volume) -> Fingerprint | None:
    """What tells copies of a scan from other scans, converted and renamed ones too; None for an image of one value."""
    values = volume.array.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if low == high:
        return None
    sums = (float(f"{moment:.8e}") for moment in (values.sum(), np.square(values).sum()))
    return tuple(sorted(volume.space)), tuple(sorted(round(mm, 2) for mm in volume.spacing)), (low, high, *sums)


def sample_values(volume: Volume) -> npt.NDArray[np.float32]:
    """About SAMPLE_VALUES of the values, evenly spread."""
    values = volume.array.reshape(-1)
    return values[:: max(1, values.size // SAMPLE_VALUES)]


def mixtures(domain: DomainAudit, preparation: Preparation | None) -> list[str]:
    """Warnings for what differs between the scans of one domain and is not evened out by the preparation."""
    good = domain.usable
    warnings = []
    for what, values in (
        ("number of channels", Counter(s.channels for s in good)),
        ("unit", Counter(s.unit for s in good)),
        ("number of dimensions", Counter(len(s.space) for s in good)),
    ):
        if len(values) > 1:
            listed = ", ".join(f"{value} ({count} scans)" for value, count in values.items())
            warnings.append(f"{domain.name}: the scans' {what} differs: {listed}. Train on scans of one kind.")
    flat = len({len(s.space) for s in good}) != 1
    spacings = np.array([s.spacing for s in good]) if good and not flat else np.ones((1, 1))
    wanted = (*(preparation.spacing or ()), None, None, None) if preparation else (None, None, None)
    for axis in range(spacings.shape[1]):
        least, most = spacings[:, axis].min(), spacings[:, axis].max()
        if wanted[axis] is None and most > MIXED * least:
            warnings.append(
                f"{domain.name}: spacings along {'ijk'[axis]} run from {least:.3g} to {most:.3g} mm. Set "
                "prepare.spacing so that all scans have one voxel size."
            )
    turned = {s.orientation for s in good if len(s.space) == 3}
    if len(turned) > 1 and (preparation is None or preparation.orientation is None):
        warnings.append(
            f"{domain.name}: orientations differ ({', '.join(sorted(turned))}). Set prepare.orientation, RAS say."
        )
    return warnings


def mismatches(domains: Sequence[DomainAudit], preparations: Sequence[Preparation | None]) -> list[str]:
    """Warnings for two domains that a discriminator could tell apart by size alone, and for very unequal ones."""
    if len(domains) != 2 or None in preparations:
        return []
    one, two = domains
    warnings = []
    counts = [len(domain.usable) for domain in domains]
    if min(counts) and max(counts) >= UNEQUAL * min(counts):
        warnings.append(
            f"{counts[0]} scans of {one.name} and {counts[1]} of {two.name}: the few are shown again and again and "
            "learnt by heart. Add scans to the smaller domain, or train shorter."
        )
    first, second = one.typical(), two.typical()
    if first is None or second is None or any(how is None or how.orientation is None for how in preparations):
        return warnings
    for what, a, b, limit, mend in (
        ("voxels", first[0], second[0], OTHER_VOXEL, "Set prepare.spacing, so that one voxel size is trained on"),
        (
            "fields of view",
            first[1],
            second[1],
            OTHER_FIELD,
            "Set prepare.crop: true, or give scans of the same region",
        ),
    ):
        if max(max(x / y, y / x) for x, y in zip(a, b, strict=True)) > limit:
            sizes = [" x ".join(f"{v:.3g}" for v in side) for side in (a, b)]
            warnings.append(
                f"the {what} of the domains differ: {one.name} {sizes[0]} mm, {two.name} {sizes[1]} mm (medians, as "
                f"prepared). {mend}; networks learn to tell domains by it."
            )
    return warnings


def swap_warning(volume: Volume, modality: str) -> str | None:
    """A sentence saying that the values do not look like the modality, or None.

    CT holds air, about -1000 HU. MR, an arbitrary scale from about 0, has no large part far below it.
    """
    where = volume.source.get("path", "volume")
    values = sample_values(volume)
    least = float(volume.array.min())
    if modality == "ct" and (least > -200 or not ((values > -1200) & (values < -800)).any()):
        return (
            f"{where}: does not look like CT: values from {least:g} to {float(volume.array.max()):g}, none like air "
            "(about -1000 HU). Are the domains swapped, or was the rescale intercept lost?"
        )
    low = float(np.percentile(values, 1))
    if modality == "mr" and (volume.unit == "HU" or (low < -500 and least > -5000)):
        return (
            f"{where}: looks like CT in an MR domain (unit {volume.unit}, 1 % of its values lie at or below {low:g}). "
            "Are the domains swapped?"
        )
    return None
