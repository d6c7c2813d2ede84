"""Fixtures every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported anywhere: two test workers with spinning thread pools starve one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from hypothesis import HealthCheck, settings

# Machines that run tests are busy: how long an example took says nothing about the code.
settings.register_profile("medcycle", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
settings.load_profile("medcycle")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test scans, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("MEDCYCLE_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared test data at {folder}; set MEDCYCLE_SHARED_DATA to run this test")
    return folder
