"""The first pass: every scan looked at once, its numbers kept, whatever else becomes of the cohort."""

from __future__ import annotations

import os

import nibabel as nib
import numpy as np
import pytest

from medcycle.io import read_volume
from medcycle.prepare import Preparation, cache, fit_landmarks, fitting, prepare_cohort

MR = Preparation(modality="mr", orientation=None)


def write(path, seed, power=1.0):
    rng = np.random.default_rng(seed)
    array = np.abs(rng.normal(0, 5, (14, 12, 10)))
    array[3:-3, 3:-3, 2:-2] += 900 * rng.uniform(0.3, 1, array[3:-3, 3:-3, 2:-2].shape) ** power
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path


@pytest.fixture
def scans(tmp_path):
    return [write(tmp_path / "mr" / f"scan{i}.nii.gz", i, 1 + i / 2) for i in range(3)]


@pytest.fixture
def looked(monkeypatch):
    """The scans that are read in the first pass, and those made in the second (in this process)."""
    seen = {"look": [], "make": []}
    real_look, real_make = fitting._look, cache._make
    monkeypatch.setattr(fitting, "_look", lambda job: seen["look"].append(job.path.name) or real_look(job))
    monkeypatch.setattr(cache, "_make", lambda job: seen["make"].append(job.path.name) or real_make(job))
    return seen


def test_the_standard_is_that_of_all_scans(scans, tmp_path):
    told = []
    fitted = fit_landmarks(scans, MR, tmp_path / "cache", progress=lambda *said: told.append(said))
    assert fitted == MR.standardized([MR.landmarks_of(read_volume(path)) for path in scans])
    assert fitted.landmarks != MR.standardized([MR.landmarks_of(read_volume(scans[0]))]).landmarks
    assert told == [(i + 1, 3, f"scan{i}.nii.gz") for i in range(3)]
    assert fit_landmarks(scans[::-1], MR, tmp_path / "other", workers=2) == fitted
    assert fit_landmarks(scans, Preparation(), tmp_path / "cache") == Preparation()


def test_only_what_changed_is_looked_at_again(scans, tmp_path, looked):
    folder = tmp_path / "cache"

    def both(paths):
        for made in looked.values():
            made.clear()
        how = fit_landmarks(paths, MR, folder)
        prepare_cohort(paths, how, folder)
        return how

    first = both(scans)
    assert (len(looked["look"]), len(looked["make"])) == (3, 3)
    assert both(scans) == first
    assert looked == {"look": [], "make": []}
    grown = both([*scans, write(tmp_path / "mr" / "new.nii.gz", 9, 4.0)])
    assert grown.landmarks != first.landmarks
    assert looked["look"] == ["new.nii.gz"]
    assert len(looked["make"]) == 4  # another standard, other arrays
    assert both(scans) == first
    assert looked == {"look": [], "make": []}  # the arrays of the old standard are still there
    write(scans[1], 77, 0.5)
    os.utime(scans[1], ns=(1, 1))
    assert both(scans) != first
    assert looked["look"] == ["scan1.nii.gz"]


def test_a_damaged_entry_is_made_again(scans, tmp_path, looked):
    folder = tmp_path / "cache"
    first = fit_landmarks(scans, MR, folder)
    for entry, text in zip(sorted(folder.glob("*.landmarks.json")), ("", "[1]", '{"a": 1}'), strict=True):
        entry.write_text(text)
    assert fit_landmarks(scans, MR, folder) == first
    assert len(looked["look"]) == 6


def test_a_bad_scan_adds_nothing_and_stops_nothing(scans, tmp_path):
    torn = tmp_path / "mr" / "torn.nii.gz"
    torn.write_bytes(b"nothing")
    missing = tmp_path / "mr" / "missing.nii.gz"
    fitted = fit_landmarks([torn, *scans, missing], MR, tmp_path / "cache")
    assert fitted == fit_landmarks(scans, MR, tmp_path / "cache")
    cohort = prepare_cohort([torn, *scans, missing], fitted, tmp_path / "cache", strict=False)
    assert [path.name for path, _ in cohort.failures] == ["torn.nii.gz", "missing.nii.gz"]
    assert [scan.path for scan in cohort.scans] == scans
    assert all("nii.gz" in message for _, message in cohort.failures)
