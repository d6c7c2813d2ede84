"""What an audit finds: plain records of scans, domains, and warnings."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ScanAudit:
    """What one scan is. Lengths in mm, values in the scan's unit; `refused` says why it cannot be used, or is None.

    `prepared` is the shape (i, j, k) that training would see, `voxel` its voxel size; they are None for a refused scan
    or without a preparation. `planes` counts what 2D training would draw from. `site` is what a manifest says;
    `scanner` and `sequence` come from a DICOM header. Nothing here tells who the patient is, beyond the file's name.
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
    voxel: tuple[float, ...] | None = None
    planes: int = 0
    site: str = ""
    scanner: str = ""
    sequence: str = ""

    @property
    def field(self) -> tuple[float, ...]:
        """Field of view in mm, as prepared where that is known."""
        space, spacing = (self.space, self.spacing) if self.prepared is None else (self.prepared, self.voxel or ())
        return tuple(n * s for n, s in zip(space, spacing, strict=True))


@dataclass(frozen=True)
class DomainAudit:
    """One domain: its scans in order; `modality` is None where no preparation was given, `patients` counts them."""

    name: str
    modality: str | None
    scans: list[ScanAudit]
    patients: int | None = None

    @property
    def usable(self) -> list[ScanAudit]:
        """The scans that are not refused."""
        return [scan for scan in self.scans if scan.refused is None]

    def summary(self) -> dict[str, Any]:
        """Counts, and the distinct or extreme values over the usable scans."""
        good = self.usable
        result: dict[str, Any] = {"scans": len(self.scans), "refused": len(self.scans) - len(good)}
        if self.patients is not None:
            result["patients"] = self.patients
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
                "planes": sum(scan.planes for scan in good),
            }
            for what in ("site", "scanner", "sequence"):
                counts = Counter(getattr(scan, what) for scan in good)
                if any(counts):
                    result[f"{what}s"] = {name or "not told": count for name, count in counts.most_common()}
        return result

    def typical(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """The median voxel size and field of view (mm) of the usable 3D scans, as prepared; None without such."""
        good = [scan for scan in self.usable if len(scan.space) == 3 and scan.voxel]
        if not good:
            return None
        voxels, fields = np.median([s.voxel for s in good], axis=0), np.median([s.field for s in good], axis=0)
        return tuple(float(v) for v in voxels), tuple(float(v) for v in fields)


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
