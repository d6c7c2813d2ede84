"""The audit: what a user should know of the scans before training on them, without changing or caching anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medcycle.errors import MedcycleError
from medcycle.io.manifest import Row
from medcycle.prepare.acquisition import acquisition
from medcycle.prepare.findings import Audit, DomainAudit, ScanAudit
from medcycle.prepare.foreground import find_foreground
from medcycle.prepare.preparation import Preparation
from medcycle.prepare.remarks import Fingerprint, fingerprint_of, mismatches, mixtures, sample_values, swap_warning
from medcycle.volume import Volume

Progress = Callable[[int, int, str], None]


def audit(
    paths_by_domain: Mapping[str, tuple[Sequence[Path], Preparation | None]],
    *,
    size: Sequence[int] | None = None,
    axis: int | None = 2,
    reading: Mapping[str, Mapping[str, Any]] | None = None,
    rows: Mapping[str, Mapping[Path, Row]] | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Read and prepare every scan of every domain once, and say what was found.

    Args:
        paths_by_domain: name -> (scans, preparation); without a preparation the files are only looked at.
        size: the training sample's size: two numbers for planes across `axis`, three for patches.
        axis: the slicing axis (0, 1 or 2 for i, j or k); None: each of them.
        reading: name -> how its scans are read: `series` and `resample_gaps` of :func:`medcycle.io.read_volume`.
        rows: name -> what is known of its scans besides: patient, site, and a series of their own.
        progress: called with (number done, number of scans, name of the last one).
    """
    from medcycle.io import scan_name

    total = sum(len(paths) for paths, _ in paths_by_domain.values())
    done = 0
    domains: list[DomainAudit] = []
    warnings: list[str] = []
    holders: dict[Fingerprint, list[str]] = {}  # "domain: path"
    for name, (paths, preparation) in paths_by_domain.items():
        scans: list[ScanAudit] = []
        odd: list[str] = []
        known = (rows or {}).get(name, {})
        for path in map(Path, paths):
            row = known.get(path, Row(path))
            how = dict((reading or {}).get(name, {})) | ({"series": row.series} if row.series else {})
            try:
                scan, warning, fingerprint = _look(path, preparation, how)
            except MemoryError:
                refused = f"{path}: not enough memory to prepare it. Take a coarser prepare.spacing, or crop it."
                scan, warning, fingerprint = ScanAudit(str(path), scan_name(path), refused), None, None
            if size is not None and scan.prepared is not None:
                for across in (0, 1, 2) if axis is None else (axis,):
                    scan = _fit(scan, size, across) if scan.refused is None else scan
            shape = scan.prepared or (*scan.space, 1, 1, 1)[:3]
            planes = sum(shape) if axis is None else shape[axis]
            scans.append(replace(scan, site=row.site or "", planes=planes if scan.refused is None else 0))
            odd += [warning] if warning else []
            if fingerprint is not None:
                holders.setdefault(fingerprint, []).append(f"{name}: {path}")
            done += 1
            if progress is not None:
                progress(done, total, path.name)
        patients = len({row.patient for row in known.values()}) if any(row.patient for row in known.values()) else None
        domain = DomainAudit(name, preparation.modality if preparation else None, scans, patients)
        domains.append(domain)
        if odd:
            warnings.append(odd[0] + (f" ({len(odd) - 1} more scans of {name} are like it.)" if len(odd) > 1 else ""))
        warnings += mixtures(domain, preparation)
    warnings += mismatches(domains, [how for _, how in paths_by_domain.values()])
    warnings += [f"the same scan {len(p)} times: {'; '.join(p)}. Keep one." for p in holders.values() if len(p) > 1]
    return Audit(domains, warnings)


def _look(
    path: Path, preparation: Preparation | None, reading: Mapping[str, Any]
) -> tuple[ScanAudit, str | None, Fingerprint | None]:
    from medcycle.io import read_volume, scan_name

    blank = ScanAudit(str(path), scan_name(path))
    try:
        unit = "HU" if preparation is not None and preparation.modality == "ct" else None
        volume = read_volume(path, unit=unit, **reading)
    except MedcycleError as error:
        return replace(blank, refused=str(error)), None, None
    fingerprint = fingerprint_of(volume)
    p1, median, p99 = (float(v) for v in np.percentile(sample_values(volume), (1, 50, 99)))
    scanner, sequence = acquisition(volume)
    seen = replace(
        blank,
        scanner=scanner,
        sequence=sequence,
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
        return replace(seen, foreground=_plain_foreground(volume)), None, fingerprint
    warning = swap_warning(volume, preparation.modality)
    try:
        prepared = replace(preparation, n4=False)(volume)  # N4 is slow and changes nothing that is reported
    except MedcycleError as error:
        return replace(seen, refused=str(error)), warning, fingerprint
    share = float(prepared.foreground.mean())
    voxel = tuple(float(v) for v in np.linalg.norm(prepared.state.prepared_affine[:3, :3], axis=0))
    seen = replace(seen, foreground=share, prepared=tuple(prepared.array.shape[1:]), voxel=voxel)
    return seen, warning, fingerprint


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
