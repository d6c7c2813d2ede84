"""Volume -> array in [-1, 1] and back, exactly; a whole cohort at once, cached on disk."""

from __future__ import annotations

from medcycle.prepare.audit import Audit, DomainAudit, ScanAudit, audit, swap_warning
from medcycle.prepare.cache import Cohort, CohortError, PreparedScan, prepare_cohort
from medcycle.prepare.foreground import find_foreground
from medcycle.prepare.preparation import Preparation
from medcycle.prepare.state import Prepared, PreparedState

__all__ = [
    "Audit",
    "Cohort",
    "CohortError",
    "DomainAudit",
    "Preparation",
    "Prepared",
    "PreparedScan",
    "PreparedState",
    "ScanAudit",
    "audit",
    "find_foreground",
    "prepare_cohort",
    "swap_warning",
]
