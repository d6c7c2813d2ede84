"""Fixtures every room's tests share."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

# Before torch is imported anywhere: two test workers with spinning thread pools starve one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from hypothesis import HealthCheck, settings

from medcycle.volume import Volume

# Machines that run tests are busy: how long an example took says nothing about the code.
# The same examples every time; with EXPLORE=1 new ones, to find what nobody thought of.
settings.register_profile(
    "medcycle",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=50,
    derandomize="EXPLORE" not in os.environ,
)
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


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def medcycle(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command line in this process, as `medcycle ...` does; what would be a traceback fails the test."""

    def run(*arguments: object) -> Ran:
        from medcycle.cli import main

        monkeypatch.setattr(sys, "argv", ["medcycle", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        code: object = None
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            try:
                main()
            except SystemExit as end:
                code = end.code
        assert isinstance(code, int), f"ended with {code!r}"
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


# --- A cohort that trains in a second ---------------------------------------------------------------------------------


def ball(seed: int, kind: str, shape: tuple[int, int, int] = (20, 20, 20)) -> Volume:
    """A ball with a shell: "mr" in arbitrary units, or "ct" in HU."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    radius = np.linalg.norm(grid * rng.uniform(0.9, 1.1, (3, 1, 1, 1)), axis=0)
    if kind == "mr":
        array = np.where(radius < 0.8, 600 + 60 * rng.standard_normal(shape), 5 * rng.random(shape))
    else:
        array = np.where(radius > 0.8, -1000, np.where(radius > 0.6, 900, 40)) + 10 * rng.standard_normal(shape)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    return Volume(array.round()[None].astype(np.float32), affine, "HU" if kind == "ct" else "a.u.")


def save(volume: Volume, path: Path) -> Path:
    """As NIfTI, by nibabel alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume.array[0].astype(np.int16), volume.affine), path)
    return path


def write_cohort(folder: Path, count: int = 2) -> Path:
    """`folder`/mr and `folder`/ct, p0.nii.gz and so on, and `folder`/c.yaml that trains two steps on them."""
    for index in range(count):
        for kind in ("mr", "ct"):
            save(ball(index, kind), folder / kind / f"p{index}.nii.gz")
    return write_config(folder)


def write_config(folder: Path, **sections: dict[str, Any]) -> Path:
    """`folder`/c.yaml for the scans in `folder`/mr and `folder`/ct; `sections` are merged into its sections."""
    train = {"epochs": 1, "decay_epochs": 0, "samples_per_epoch": 2, "validation": 0, "precision": "fp32"}
    values: dict[str, dict[str, Any]] = {
        "domains": {
            "a": {"name": "mr", "path": str(folder / "mr"), "modality": "mr"},
            "b": {"name": "ct", "path": str(folder / "ct"), "modality": "ct"},
        },
        "prepare": {"cache": str(folder / "cache"), "workers": 1},
        "sample": {"size": [16, 16]},
        "model": {"generator": {"filters": 4, "blocks": 1}, "discriminator": {"filters": 4, "layers": 1}},
        "train": train | {"device": "cpu", "log_every": 1, "checkpoint_every": 1},
    }
    for name, changes in sections.items():
        values[name] |= changes
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture
def make_ball() -> Callable[..., Volume]:
    return ball


@pytest.fixture
def save_nifti() -> Callable[..., Path]:
    return save


@pytest.fixture(scope="session")
def configure() -> Callable[..., Path]:
    return write_config


@pytest.fixture(scope="session")
def write_scans() -> Callable[..., Path]:
    return write_cohort


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """A folder of its own with a cohort and its c.yaml."""
    write_cohort(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cohort and the run of two steps on it: mr/, ct/, c.yaml, cache/, run/. Not to be changed."""
    from rich.console import Console

    from medcycle.config import load_config
    from medcycle.training.loop import train

    folder = tmp_path_factory.mktemp("trained")
    train(load_config(write_cohort(folder)), folder / "run", console=Console(quiet=True))
    return folder
