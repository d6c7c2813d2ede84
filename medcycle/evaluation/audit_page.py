"""The audit as a page: warnings and refusals first, then the domains side by side, then every scan."""

from __future__ import annotations

import math
from typing import Any

from medcycle.evaluation.report import render
from medcycle.prepare import Audit, DomainAudit, ScanAudit


def audit_page(audit: Audit) -> str:
    """The audit as self-contained HTML; what headers and file names say is escaped."""
    return render(
        "audit.html",
        title="Audit",
        domains=[_domain(domain) for domain in audit.domains],
        balance=_balance(audit.domains),
        refused=[
            {"domain": domain.name, "name": scan.name, "why": scan.refused}
            for domain in audit.domains
            for scan in domain.scans
            if scan.refused
        ],
        warnings=audit.warnings,
        count=len(audit.scans),
        usable=sum(len(domain.usable) for domain in audit.domains),
    )


def _balance(domains: list[DomainAudit]) -> list[tuple[str, list[str]]]:
    """Rows of the table that sets the domains side by side: a label, and a cell for each domain."""
    told = [domain.summary() for domain in domains]
    typical = [domain.typical() for domain in domains]
    rows: list[tuple[str, list[str]]] = [
        ("modality", [domain.modality or "not told" for domain in domains]),
        *((key, [str(s.get(key, "-")) for s in told]) for key in ("scans", "refused", "patients", "planes")),
        ("voxel, mm (median, prepared)", ["-" if one is None else sizes(one[0]) for one in typical]),
        ("field of view, mm (median, prepared)", ["-" if one is None else sizes(one[1]) for one in typical]),
        ("spacing, mm (as stored)", [_distinct(summary.get("spacing", [])) for summary in told]),
        ("voxels (as stored)", [_distinct(summary.get("shape", [])) for summary in told]),
    ]
    for key in ("orientation", "unit", "channels", "sites", "scanners", "sequences"):
        cells = [", ".join(f"{name} ({count})" for name, count in summary.get(key, {}).items()) for summary in told]
        if any(cells):
            rows.append((key, [cell or "-" for cell in cells]))
    rows.append(("values", [f"{s['minimum']:.5g} to {s['maximum']:.5g}" if "minimum" in s else "-" for s in told]))
    return rows


def _distinct(found: list[tuple[float, ...]]) -> str:
    shown = "; ".join(sizes(one) for one in found[:4])
    return (f"{shown} and {len(found) - 4} more" if len(found) > 4 else shown) or "-"


def sizes(numbers: tuple[float, ...]) -> str:
    """Sizes along the axes as text: 240 x 240 x 180."""
    return " x ".join(f"{number:.3g}" if number < 1000 else f"{number:.0f}" for number in numbers)


def _domain(domain: DomainAudit) -> dict[str, Any]:
    low = min((scan.minimum for scan in domain.usable), default=0.0)
    high = max((scan.maximum for scan in domain.usable), default=1.0)
    return {
        "name": domain.name,
        "modality": domain.modality,
        "low": f"{low:.5g}",
        "high": f"{high:.5g}",
        "sites": any(scan.site for scan in domain.scans),
        "headers": any(scan.scanner or scan.sequence for scan in domain.scans),
        "scans": [_scan(scan, low, high) for scan in domain.scans],
    }


def _scan(scan: ScanAudit, low: float, high: float) -> dict[str, Any]:
    def place(value: float) -> float:
        share = (value - low) / (high - low) if high > low and math.isfinite(value) else 0.0
        return round(100 * min(max(share, 0.0), 1.0), 2)

    return {
        "name": scan.name,
        "refused": scan.refused is not None,
        "space": sizes(scan.space),
        "spacing": sizes(scan.spacing),
        "orientation": scan.orientation,
        "unit": scan.unit,
        "values": f"{scan.p1:.4g} / {scan.median:.4g} / {scan.p99:.4g}",
        "bar": {"left": place(scan.p1), "width": place(scan.p99) - place(scan.p1), "median": place(scan.median)},
        "body": f"{scan.foreground:.0%}",
        "site": scan.site,
        "scanner": scan.scanner,
        "sequence": scan.sequence,
    }
