"""The demo from end to end, with small phantoms and a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
import pytest

import medcycle.demo
from medcycle.data import write_cohort
from medcycle.demo import run_demo
from medcycle.training.checkpoint import checkpoints

FEW = (
    *("train.epochs=1", "train.decay_epochs=0", "train.samples_per_epoch=4", "train.batch_size=2"),
    *("train.checkpoint_every=1", "prepare.workers=1", "prepare.spacing=[9, 9, 9]", "sample.size=[16, 16]"),
    *("model.generator.filters=4", "model.generator.blocks=1", "model.discriminator.filters=4"),
)


def small_cohort(folder: Path, **settings: object) -> Path:
    return write_cohort(folder, heads=(2, 2, 1), shape=(24, 24, 18), spacing=9.0)


def test_the_whole_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medcycle.demo, "write_cohort", small_cohort)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "[demo]: #1" / "scans.part" / "train").mkdir(parents=True)  # of a demo that was interrupted
    report = run_demo(tmp_path / "[demo]: #1", FEW)
    assert report == tmp_path / "[demo]: #1" / "evaluation" / "report.html"
    out = tmp_path / "[demo]: #1"
    assert sorted(path.name for path in out.iterdir()) == ["cache", "evaluation", "run", "scans", "sct", "sct-dicom"]
    found = json.loads((out / "evaluation" / "metrics.json").read_text())
    assert list(found["cases"]) == ["head05"]
    assert set(found["baselines"]) == {"constant 40 HU", "histogram matching"}
    printed = capsys.readouterr().out
    assert "histogram matching" in printed
    assert str(report) in printed
    slices = [pydicom.dcmread(path) for path in (out / "sct-dicom" / "head05").iterdir()]
    assert len(slices) == 18
    assert {data.Modality for data in slices} == {"CT"}
    # Stopped in the middle and run again, it goes on: nothing is written or trained twice.
    newest = checkpoints(out / "run" / "checkpoints")[-1]
    newest.unlink()
    before = (out / "scans" / "test" / "ct" / "head05.nii.gz").stat().st_mtime_ns
    run_demo(out, FEW)
    assert checkpoints(out / "run" / "checkpoints")[-1] == newest
    assert (out / "scans" / "test" / "ct" / "head05.nii.gz").stat().st_mtime_ns == before
