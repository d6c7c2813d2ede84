"""Volume -> array in [-1, 1] and back, exactly; a whole cohort at once, cached on disk."""

from __future__ import annotations

from medcycle.prepare.audit import audit
from medcycle.prepare.cache import Cohort, CohortError, PreparedScan, prepare_cohort
from medcycle.prepare.findings import Audit, DomainAudit, ScanAudit
from medcycle.prepare.fitting import fit_landmarks
from medcycle.prepare.foreground import find_foreground
from medcycle.prepare.pairs import PreparedPair, prepare_pair
from medcycle.prepare.preparation import Preparation
from medcycle.prepare.remarks import swap_warning
from medcycle.prepare.state import Prepared, PreparedState

__all__ = [
    "Audit",
    "Cohort",
    "CohortError",
    "DomainAudit",
    "Preparation",
    "Prepared",
    "PreparedPair",
    "PreparedScan",
    "PreparedState",
    "ScanAudit",
    "audit",
    "find_foreground",
    "fit_landmarks",
    "prepare_cohort",
    "prepare_pair",
    "swap_warning",
]
