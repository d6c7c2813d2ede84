"""The audit: what a user should know of the scans before training on them, without changing or caching anything."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medcycle.errors import MedcycleError, ScanError
from medcycle.prepare.foreground import find_foreground
from medcycle.prepare.identity import Identities
from medcycle.prepare.preparation import Preparation
from medcycle.volume import Volume

SAMPLE_VALUES = 1_000_000  # percentiles of an audit are taken from about this many voxels, evenly spread
MIXED = 1.05  # spacings are told apart when the largest is more than this times the smallest
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ScanAudit:
    """What one scan is. Lengths in mm, values in the scan's unit; `refused` says why it cannot be used, or is None.

    `prepared` is the shape (i, j, k) that training would see; it is None for a refused scan or without a preparation.
    """

    path: str
    name: str
    refused: str | None = None
    space: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    unit: str = ""
    channels: int = 0
    minimum: float = 0.0
    p1: float = 0.0
    median: float = 0.0
    p99: float = 0.0
    maximum: float = 0.0
    foreground: float = 0.0
    prepared: tuple[int, ...] | None = None


@dataclass(frozen=True)
class DomainAudit:
    """One domain: its scans in order; `modality` is None where no preparation was given."""

    name: str
    modality: str | None
    scans: list[ScanAudit]

    @property
    def usable(self) -> list[ScanAudit]:
        """The scans that are not refused."""
        return [scan for scan in self.scans if scan.refused is None]

    def summary(self) -> dict[str, Any]:
        """Counts, and the distinct or extreme values over the usable scans."""
        good = self.usable
        result: dict[str, Any] = {"scans": len(self.scans), "refused": len(self.scans) - len(good)}
        if good:
            result |= {
                "spacing": sorted({tuple(round(s, 3) for s in scan.spacing) for scan in good}),
                "shape": sorted({scan.space for scan in good}),
                "orientation": dict(Counter(scan.orientation for scan in good)),
                "unit": dict(Counter(scan.unit for scan in good)),
                "channels": dict(Counter(scan.channels for scan in good)),
                "minimum": min(scan.minimum for scan in good),
                "maximum": max(scan.maximum for scan in good),
                "median": float(np.median([scan.median for scan in good])),
                "foreground": float(np.median([scan.foreground for scan in good])),
            }
        return result


@dataclass(frozen=True)
class Audit:
    """All domains, and the warnings that a user should read before training."""

    domains: list[DomainAudit]
    warnings: list[str] = field(default_factory=list)

    @property
    def scans(self) -> list[ScanAudit]:
        """The scans of all domains."""
        return [scan for domain in self.domains for scan in domain.scans]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "domains": [
                {"name": d.name, "modality": d.modality, "summary": d.summary(), "scans": [asdict(s) for s in d.scans]}
                for d in self.domains
            ],
            "warnings": self.warnings,
        }


def audit(
    paths_by_domain: Mapping[str, tuple[Sequence[Path], Preparation | None]],
    *,
    size: Sequence[int] | None = None,
    axis: int = 2,
    reading: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Read and prepare every scan of every domain once, and say what was found.

    Args:
        paths_by_domain: name -> (scans, preparation); without a preparation the files are only looked at.
        size: the training sample's size: two numbers for planes across `axis`, three for patches.
        axis: the slicing axis (0, 1 or 2 for i, j or k).
        reading: name -> how its scans are read: `series` and `resample_gaps` of :func:`medcycle.io.read_volume`.
        progress: called with (number done, number of scans, name of the last one).
    """
    from medcycle.io import scan_name

    identities = Identities()
    total = sum(len(paths) for paths, _ in paths_by_domain.values())
    done = 0
    domains: list[DomainAudit] = []
    warnings: list[str] = []
    holders: dict[str, list[str]] = {}  # content -> "domain: path"
    for name, (paths, preparation) in paths_by_domain.items():
        scans: list[ScanAudit] = []
        odd: list[str] = []
        for path in map(Path, paths):
            try:
                scan, warning = _look(path, preparation, (reading or {}).get(name, {}))
            except MemoryError:
                refused = f"{path}: not enough memory to prepare it. Take a coarser prepare.spacing, or crop it."
                scan, warning = ScanAudit(str(path), scan_name(path), refused), None
            if size is not None and scan.prepared is not None:
                scan = _fit(scan, size, axis)
            scans.append(scan)
            odd += [warning] if warning else []
            with contextlib.suppress(ScanError):  # what cannot be read is refused already
                holders.setdefault(identities.of(path), []).append(f"{name}: {path}")
            done += 1
            if progress is not None:
                progress(done, total, path.name)
        domain = DomainAudit(name, preparation.modality if preparation else None, scans)
        domains.append(domain)
        if odd:
            warnings.append(odd[0] + (f" ({len(odd) - 1} more scans of {name} are like it.)" if len(odd) > 1 else ""))
        warnings += _mixtures(domain, preparation)
    warnings += [f"the same scan {len(p)} times: {'; '.join(p)}. Keep one." for p in holders.values() if len(p) > 1]
    return Audit(domains, warnings)


def _look(path: Path, preparation: Preparation | None, reading: Mapping[str, Any]) -> tuple[ScanAudit, str | None]:
    from medcycle.io import read_volume, scan_name

    blank = ScanAudit(str(path), scan_name(path))
    try:
        unit = "HU" if preparation is not None and preparation.modality == "ct" else None
        volume = read_volume(path, unit=unit, **reading)
    except MedcycleError as error:
        return replace(blank, refused=str(error)), None
    p1, median, p99 = (float(v) for v in np.percentile(_sample(volume), (1, 50, 99)))
    seen = replace(
        blank,
        space=volume.space,
        spacing=volume.spacing,
        orientation=volume.orientation,
        unit=volume.unit,
        channels=volume.channels,
        minimum=float(volume.array.min()),
        p1=p1,
        median=median,
        p99=p99,
        maximum=float(volume.array.max()),
    )
    if preparation is None:
        return replace(seen, foreground=_plain_foreground(volume)), None
    warning = swap_warning(volume, preparation.modality)
    try:
        prepared = replace(preparation, n4=False)(volume)  # N4 is slow and changes nothing that is reported
    except MedcycleError as error:
        return replace(seen, refused=str(error)), warning
    share = float(prepared.foreground.mean())
    return replace(seen, foreground=share, prepared=tuple(prepared.array.shape[1:])), warning


def _sample(volume: Volume) -> Any:
    values = volume.array.reshape(-1)
    return values[:: max(1, values.size // SAMPLE_VALUES)]


def _plain_foreground(volume: Volume) -> float:
    if volume.unit in ("uint8", "uint16"):
        return 1.0
    array = volume.array if len(volume.space) == 3 else volume.array[..., np.newaxis]
    return float(find_foreground(array, volume.affine, "ct" if volume.unit == "HU" else "mr").mean())


def _fit(scan: ScanAudit, size: Sequence[int], axis: int) -> ScanAudit:
    """Refuse a scan that is shorter than half the sample along an axis, as training does (the rest is padded)."""
    have = scan.prepared or ()
    if len(size) == 2:
        have = tuple(n for a, n in enumerate(have) if a != axis)
    if all(2 * n >= wanted for n, wanted in zip(have, size, strict=True)):
        return scan
    return replace(
        scan,
        refused=f"{scan.path}: prepared to {' x '.join(map(str, have))} voxels, less than half of sample.size "
        f"{list(size)} along an axis. Take a smaller sample.size, other sample.axes or a finer prepare.spacing.",
    )


def _mixtures(domain: DomainAudit, preparation: Preparation | None) -> list[str]:
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


def swap_warning(volume: Volume, modality: str) -> str | None:
    """A sentence saying that the values do not look like the modality, or None.

    CT holds air, about -1000 HU. MR, an arbitrary scale from about 0, has no large part far below it.
    """
    where = volume.source.get("path", "volume")
    values = _sample(volume)
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
