from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session")
def original() -> ModuleType:
    """The plain networks of original.py (tests are no package, so it is loaded by its path)."""
    spec = importlib.util.spec_from_file_location("medcycle_test_original", Path(__file__).with_name("original.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Networks draw their first weights from torch's global generator."""
    torch.manual_seed(0)
