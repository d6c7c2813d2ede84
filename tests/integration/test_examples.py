"""The examples do what their docstrings say: each runs as a program, on phantom heads, for a few steps."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

import medcycle

Run = Callable[..., str]
STEPS = (
    *("train.epochs=1", "train.decay_epochs=0", "train.samples_per_epoch=4", "train.batch_size=2"),
    *("prepare.workers=1", "model.generator.filters=4", "model.discriminator.filters=4"),
)
WINDOW = (-1024, 2048)  # HU, of quick.yaml


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def run(folder: Path, root: Path) -> Run:
    """Run an example in `folder`, as a user would; gives what it printed."""

    def start(name: str, *arguments: str, expect: int = 0) -> str:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(root)}
        command = [sys.executable, str(root / "examples" / name), *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == expect, done.stderr
        return done.stdout + done.stderr

    return start


@pytest.fixture(scope="module")
def trained(folder: Path, run: Run) -> Path:
    """`folder` after train_from_python.py: phantoms/ and runs/example/, which other examples take by default."""
    run("train_from_python.py", "--phantom", "--epochs", "1", "--samples", "4", "--filters", "4")
    return folder


def load(path: Path) -> Any:
    return nib.load(path)


def check_ct(path: Path, scan: Path) -> None:
    """A synthetic CT on the scan's grid, air outside the body, values in the window and not all the same."""
    made, given = load(path), load(scan)
    assert made.shape == given.shape
    np.testing.assert_allclose(made.affine, given.affine, atol=1e-4)
    values = np.asarray(made.dataobj)
    assert np.isfinite(values).all()
    assert values.min() >= WINDOW[0]
    assert values.max() <= WINDOW[1]
    assert values[0, 0, -1] == -1000
    assert np.unique(values).size > 50


def test_every_example_is_tested_and_safe_to_import(root: Path) -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    for path in (root / "examples").glob("*.py"):
        assert f"def test_{path.stem}(" in tests
        # Without this line, processes that prepare scans would start the whole example once more each.
        assert 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")


def test_train_from_python(trained: Path) -> None:
    made = trained / "runs" / "example"
    assert {path.name for path in made.glob("*.safetensors")} == {"mr_to_ct.safetensors", "ct_to_mr.safetensors"}
    check_ct(made / "synthetic_ct.nii.gz", trained / "phantoms/train/mr/head01.nii.gz")


def test_translate_dicom_series(trained: Path, run: Run) -> None:
    printed = run("translate_dicom_series.py")
    assert "48 CT slices, all where they were" in printed
    before, after = (
        sorted((pydicom.dcmread(path) for path in (trained / name).iterdir()), key=lambda s: s.ImagePositionPatient[2])
        for name in ("phantoms/test/mr_dicom/head07", "sct/head07")
    )
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(old.ImagePositionPatient, new.ImagePositionPatient, atol=1e-4)
        assert old.FrameOfReferenceUID == new.FrameOfReferenceUID
        assert old.SeriesInstanceUID != new.SeriesInstanceUID
        hu = new.pixel_array * float(new.RescaleSlope) + float(new.RescaleIntercept)
        assert hu.shape == old.pixel_array.shape
        assert hu.min() >= WINDOW[0]
        assert hu.max() <= WINDOW[1]


def test_monai_pipeline(trained: Path, run: Run) -> None:
    run("monai_pipeline.py", "--out", "monai")
    scan = trained / "phantoms/test/mr/head07.nii.gz"
    written = load(trained / "monai/head07_ct.nii.gz")
    assert nib.aff2axcodes(written.affine) == ("L", "P", "S")  # as the pipeline turned it
    upright = nib.as_closest_canonical(written)
    np.testing.assert_allclose(upright.affine, load(scan).affine, atol=1e-4)
    # The same scan without MONAI: the way it lies in memory must not matter.
    expected = medcycle.Translator.load(trained / "runs/example", to="ct", device="cpu")(scan)
    np.testing.assert_allclose(np.asarray(upright.dataobj), expected.array[0], atol=0.01)


def test_custom_network(trained: Path, run: Run) -> None:
    steps = [text for text in STEPS if "generator" not in text]
    run("custom_network.py", "--override", *steps)
    made = trained / "runs" / "custom"
    check_ct(made / "synthetic_ct.nii.gz", trained / "phantoms/train/mr/head01.nii.gz")
    with pytest.raises(medcycle.ModelError, match="custom network"):
        medcycle.Translator.load(made, to="ct")


def test_harmonize_cohort(folder: Path, run: Run) -> None:
    run("harmonize_cohort.py", "--phantom", "--override", *STEPS)
    scans = sorted((folder / "phantoms/scanner_a").iterdir())
    assert [path.name for path in sorted((folder / "harmonized").iterdir())] == [path.name for path in scans]
    for scan in scans:
        given, made = load(scan), load(folder / "harmonized" / scan.name)
        assert made.shape == given.shape
        np.testing.assert_array_equal(made.affine, given.affine)
        values = np.asarray(made.dataobj)
        assert np.isfinite(values).all()
        assert values.std() > 0
        assert not np.allclose(values, np.asarray(given.dataobj), rtol=0.01)


def test_the_slurm_job_trains_and_goes_on(cohort: Path, root: Path) -> None:
    """SLURM's own commands are played by scripts; torchrun and its two processes are real."""
    tools = cohort / "tools"
    tools.mkdir()
    torchrun = f'exec {sys.executable} -m torch.distributed.run "$@"'
    for name, text in {"scontrol": "echo localhost", "srun": 'exec "$@"', "torchrun": torchrun}.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    job = {"SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
    environment = os.environ | job | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(root)}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(root / "examples" / "slurm.sbatch"), "c.yaml", "runs/slurm"]
    said = ""
    for _ in range(2):  # submitted again after its end: nothing is left to do, nothing is lost
        done = subprocess.run(command, cwd=cohort, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        said += done.stderr
        assert (cohort / "runs" / "slurm" / "mr_to_ct.safetensors").is_file()
    assert said.count("2 process(es)") == 2
    assert "step 0 of 1" in said
    assert "step 1 of 1" in said
