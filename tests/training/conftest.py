from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


def load(path: Path) -> ModuleType:
    """A module of the tests, which are no package, by its path."""
    spec = importlib.util.spec_from_file_location(f"medcycle_test_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def original() -> ModuleType:
    """The original's networks, written plainly."""
    return load(HERE.parent / "networks" / "original.py")


@pytest.fixture(scope="session")
def original_step() -> ModuleType:
    """The original's training step, written plainly."""
    return load(HERE / "original_step.py")
