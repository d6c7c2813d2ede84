"""Every command: what it does, what it prints, and how it ends. Most run in this process, for speed."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medcycle import __version__
from medcycle.config import load_config, shipped
from medcycle.io import write_volume

Run = Callable[..., Any]
COMMANDS = (
    "train",
    "prepare",
    "inspect",
    "translate",
    "check-tiling",
    "evaluate",
    "download",
    "export",
    "benchmark",
    "demo",
    "config",
)


def process(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medcycle", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=200)


def test_help_and_version(medcycle: Run) -> None:
    ran = medcycle("--help")
    assert ran.code == 0
    for command in COMMANDS:
        assert re.search(rf"^ +{command} +[A-Z]", ran.out, re.MULTILINE), command
        said = medcycle(command, "--help")
        assert said.code == 0
        assert f"medcycle {command}" in said.out
    assert medcycle("--version").out == f"medcycle {__version__}\n"


def test_help_is_quick() -> None:
    # The processor's time, not the clock's: other programs run on the machine of the tests.
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("trian",), "No such command 'trian'"),
        (("train",), "Missing option '--config'"),
        (("translate", "in", "out", "--model", "m", "--overlap", "2"), "Invalid value for '--overlap'"),
        (("evaluate", "--prediction", "p", "--reference", "r", "--nonsense"), "No such option: --nonsense"),
    ],
)
def test_wrong_use_is_exit_code_2(arguments: tuple[str, ...], says: str, medcycle: Run) -> None:
    ran = medcycle(*arguments)
    assert ran.code == 2
    assert says in ran.err


def test_an_error_in_a_process_of_its_own(tmp_path: Path) -> None:
    ran = process("translate", "--model", "nowhere", "a.nii.gz", "b.nii.gz", cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("medcycle: error: nowhere: missing; expected")
    assert "Traceback" not in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_looked_at(medcycle: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "x" * 5000
    ran = medcycle("train", "--config", name)
    assert ran.code == 2
    assert ran.err == f"medcycle: error: {name}: File name too long\n"


AGAIN = "Run the same command again"


@pytest.mark.parametrize(
    ("command", "where", "says"),
    [
        ("demo", "medcycle.demo.run_demo", f"{AGAIN}: it goes on where it was."),
        ("prepare --config quick", "medcycle.config.reading.find_config", f"{AGAIN}: it goes on where it was."),
        (
            "train --config quick",
            "medcycle.config.reading.find_config",
            f"{AGAIN}; once a checkpoint is saved, with --r",
        ),
        ("benchmark miniature", "medcycle.benchmark.run_benchmark", f"{AGAIN}: it goes on where it was."),
        ("download maps", "medcycle.data.download.download", f"{AGAIN}: it goes on where it was."),
        (
            "translate --model m a b",
            "medcycle.inference.Translator.load",
            "Finished files are kept, none is half-w",
        ),
        ("config check quick", "medcycle.config.reading.find_config", f"{AGAIN}."),
    ],
)
def test_ctrl_c_says_how_to_go_on(
    command: str, where: str, says: str, medcycle: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    ran = medcycle(*command.split())
    assert ran.code == 130
    assert ran.err.startswith(f"medcycle: stopped. {says}")
    assert ("--resume" in ran.err) is command.startswith("train")


# --- config -----------------------------------------------------------------------------------------------------------


def test_config_list_and_copy(medcycle: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listed = medcycle("config", "list").out.splitlines()
    assert [line.split()[0] for line in listed] == list(shipped())
    for line in listed:
        name = line.split()[0]
        assert f"medcycle train --config {name}" in line or f"medcycle benchmark {Path(name).stem}" in line
        assert medcycle("config", "copy", name).out == f"Wrote {name}\n"
        assert (tmp_path / name).read_bytes() == shipped()[name].read_bytes()
    again = medcycle("config", "copy", "quick.yaml")
    assert again.code == 2
    assert "quick.yaml: exists" in again.err
    assert medcycle("config", "copy", "quick", "mine.yaml").code == 0


def test_config_check_shows_every_default(medcycle: Run, tmp_path: Path) -> None:
    ran = medcycle("config", "check", "mri2ct.yaml", "train.epochs=3")
    assert ran.code == 0
    (tmp_path / "c.yaml").write_text(ran.out)
    assert load_config(tmp_path / "c.yaml") == load_config("mri2ct.yaml", ["train.epochs=3"])


def test_config_check_shows_every_mistake(medcycle: Run, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "domains:\n  a: {name: mr, path: data/mr, modality: mri}\n  b: {name: ct, modality: ct}\n"
        "sample:\n  size: [256]\nlos: {}\n"
    )
    ran = medcycle("config", "check", file, "train.bach_size=4", "train.epochs")
    assert ran.code == 2
    assert ran.out == ""
    for says in (
        f"{file}:2  domains.a.modality: found 'mri'; allowed are 'mr', 'ct' or 'image'. Did you mean 'mr'?",
        f"{file}:3  domains.b.path: is missing and has no default",
        f"{file}:5  sample.size: needs two numbers (slices) or three (patches), found 1",
        f"{file}:6  los: unknown key. Did you mean 'loss'?",
        "override 'train.bach_size=4'  train.bach_size: unknown key. Did you mean 'batch_size'?",
        "override 'train.epochs': expected section.key=value, such as train.epochs=20",
    ):
        assert says in ran.err


# --- train and prepare ------------------------------------------------------------------------------------------------


def test_train_takes_its_folder_from_the_configuration(
    cohort: Path, medcycle: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cohort)
    plan = medcycle("train", "--config", "c.yaml", "--dry-run")
    assert plan.code == 0
    assert "2 scans to train, 0 held out; the first: 20 x 20 x 20 voxels of 2 x 2 x 2 mm, RAS, HU" in plan.out
    assert "runs/c (nothing written)" in plan.out
    assert sorted(path.name for path in cohort.iterdir()) == ["c.yaml", "ct", "mr"]

    assert medcycle("prepare", "--config", "c.yaml").out == f"Prepared scans are in {cohort / 'cache'}\n"
    prepared = {path: path.stat().st_mtime_ns for path in (cohort / "cache").glob("*.npy")}
    assert len(prepared) == 4

    ran = medcycle("train", "--config", "c.yaml", "train.samples_per_epoch=1")
    assert ran.code == 0
    assert ran.out == "Done: 1 steps. Models, previews and report.html are in runs/c\n"
    assert {path: path.stat().st_mtime_ns for path in (cohort / "cache").glob("*.npy")} == prepared  # made once
    assert (cohort / "runs" / "c" / "mr_to_ct.safetensors").is_file()

    ran = medcycle("train", "--config", "c.yaml", "--resume", "train.samples_per_epoch=1", "train.epochs=2")
    assert ran.code == 0
    assert ran.out.startswith("Done: 2 steps.")


def test_a_training_that_was_stopped_exits_with_130(
    cohort: Path, medcycle: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medcycle.training.step import training_step

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return training_step(*arguments)

    monkeypatch.setattr("medcycle.training.graph.training_step", interrupted)
    ran = medcycle("train", "--config", cohort / "c.yaml", "--out", cohort / "run")
    assert ran.code == 130
    assert ran.out == ""
    assert "Stopped after step 1 and saved.\nGo on with the same command and --resume.\n" in ran.err
    assert "medcycle: stopped" not in ran.err  # it has said all
    monkeypatch.undo()
    ran = medcycle("train", "--config", cohort / "c.yaml", "--out", cohort / "run", "--resume")
    assert ran.out.startswith("Done: 2 steps.")


def test_dry_run_checks_the_batch_of_all_processes(
    cohort: Path, medcycle: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = ("train", "--config", cohort / "c.yaml", "--dry-run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    ran = medcycle(*plan)
    assert ran.code == 2
    assert "train.batch_size: 1 samples cannot be shared evenly by 2 processes" in ran.err
    monkeypatch.setenv("RANK", "1")
    ran = medcycle(*plan, "train.batch_size=2")
    assert (ran.code, ran.out) == (0, "")  # the first process tells


def test_only_the_first_process_warns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from medcycle.notices import show_warnings

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show_warnings()
        for rank in ("0", "1"):
            monkeypatch.setenv("RANK", rank)
            warnings.warn(f"from {rank}", stacklevel=1)
    assert capsys.readouterr().err == "warning: from 0\n"


# --- inspect ----------------------------------------------------------------------------------------------------------


def test_inspect(cohort: Path, medcycle: Run) -> None:
    ran = medcycle("inspect", cohort / "c.yaml", "--out", cohort / "audit.json")
    assert ran.code == 0
    assert "mr (mr): 2 scan(s)" in ran.out
    assert "ct (ct): 2 scan(s)" in ran.out
    assert "warning" not in ran.out
    found = json.loads((cohort / "audit.json").read_text())
    assert [scan["space"] for domain in found["domains"] for scan in domain["scans"]] == [[20, 20, 20]] * 4
    shutil.copy(cohort / "mr" / "p0.nii.gz", cohort / "mr" / "again.nii.gz")
    ran = medcycle("inspect", cohort / "mr", cohort / "ct" / "*.nii.gz")
    assert ran.code == 0
    assert "the same scan 2 times" in ran.out
    assert f"{cohort / 'ct' / '*.nii.gz'}: 2 scan(s)" in " ".join(ran.out.split())
    assert not (cohort / "cache").exists()


def test_inspect_writes_a_page(cohort: Path, medcycle: Run, make_ball: Run) -> None:
    shutil.rmtree(cohort / "ct")
    folder = write_volume(make_ball(0, "ct"), cohort / "ct" / "head0")
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        data.Manufacturer = data.SeriesDescription = "<script>alert(1)</script>"
        data.PatientName, data.PatientID = "Doe^Jane", "ID77"
        data.save_as(file)
    (cohort / "mr" / "odd.nii.gz").write_bytes(b"nothing")
    (cohort / "mr" / "cohort.csv").write_text(
        "path,patient,site,age\np0.nii.gz,Joan,Delft,4\nodd.nii.gz,Joan,Delft,5\n"
    )
    configuration = (cohort / "c.yaml", f"domains.a.path={cohort / 'mr' / 'cohort.csv'}")
    ran = medcycle("inspect", *configuration, "--out", cohort / "audit.html")
    assert ran.code == 2  # a scan is refused
    assert "columns ignored: age" in ran.err
    assert "sites: Delft (1)" in ran.out
    assert "patients: 1" in ran.out
    assert "refused: " in ran.out
    page = (cohort / "audit.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "odd.nii.gz: cannot be read as NIfTI" in page
    assert "Delft (1)" in page
    for text in (page, ran.out, ran.err):
        assert not any(secret in text for secret in ("Doe", "ID77", "Joan"))
    ran = medcycle("inspect", *configuration, "--out", cohort / "audit.pdf")
    assert ran.code == 2
    assert "audit.pdf: an audit is written as .html (a page) or .json" in ran.err
    assert not (cohort / "audit.pdf").exists()


def test_inspect_takes_what_train_takes(cohort: Path, medcycle: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cohort)
    paths = [f"domains.{key}.path={cohort / name}" for key, name in (("a", "mr"), ("b", "ct"))]
    ran = medcycle("inspect", "quick", *paths, "sample.size=[16, 16]", "prepare.spacing=null")
    assert ran.code == 0, ran.out + ran.err
    assert "mr (mr): 2 scan(s)" in ran.out
    assert "ct (ct): 2 scan(s)" in ran.out
    ran = medcycle("inspect", "c.yaml", "domains.a.path=nowhere")
    assert ran.code == 2
    assert "domains.a.path: nowhere: no such file" in ran.err
    ran = medcycle("inspect", "c.yaml", "mr")
    assert ran.code == 2
    assert "override 'mr': expected section.key=value" in ran.err
    (cohort / "mr").rename("quick")
    assert "quick: 2 scan(s)" in medcycle("inspect", "quick").out  # a folder of that name comes first


# --- prepare ----------------------------------------------------------------------------------------------------------


def test_prepare_goes_on_without_a_bad_scan(cohort: Path, medcycle: Run) -> None:
    (cohort / "ct" / "odd.nii.gz").write_bytes(b"nothing")
    ran = medcycle("prepare", "--config", cohort / "c.yaml", "prepare.nyul=true", "prepare.crop=true")
    assert ran.code == 0
    assert "warning: 1 scan(s) cannot be used and are left out (--strict stops here):" in ran.err
    assert f"  domains.b (ct): {cohort / 'ct' / 'odd.nii.gz'}: cannot be read as NIfTI" in ran.err
    assert len(list((cohort / "cache").glob("*.npy"))) == 4
    assert len(list((cohort / "cache").glob("*.landmarks.json"))) == 2
    ran = medcycle("prepare", "--strict", "--config", cohort / "c.yaml")
    assert ran.code == 2
    assert "1 of 3 scans cannot be prepared" in ran.err


# --- translate --------------------------------------------------------------------------------------------------------


def test_translate_one_and_many(trained: Path, tmp_path: Path, medcycle: Run) -> None:
    model = ("translate", "--model", trained / "run", "--device", "cpu")
    source = trained / "mr" / "p0.nii.gz"
    ran = medcycle(*model, source, tmp_path / "one.nii.gz")
    assert ran.code == 0
    line, last = ran.out.splitlines()
    assert re.fullmatch(
        r"p0\.nii\.gz: structure agreement MIND 0\.\d{3} \(training 0\.\d{3} to 0\.\d{3}\), MI .*: "
        r"(ok|outside the training range \(.*\): look at it)",
        line,
    )
    assert last == f"1 scan(s) written to {tmp_path / 'one.nii.gz'}"
    made: Any = nib.load(tmp_path / "one.nii.gz")
    np.testing.assert_allclose(made.affine, np.diag([2.0, 2, 2, 1]))
    assert made.shape == (20, 20, 20)
    assert made.get_data_dtype() == np.int16  # HU
    assert made.dataobj[0, 0, 0] == -1000

    ran = medcycle(*model, trained / "mr", tmp_path / "many", "--format", "mha", "--precision", "fp32")
    assert [line.partition(":")[0] for line in ran.out.splitlines()[:2]] == ["p0.nii.gz", "p1.nii.gz"]
    assert ran.out.endswith(f"\n2 scan(s) written to {tmp_path / 'many'}\n")
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == ["p0.mha", "p1.mha"]
    again = medcycle(*model, trained / "mr", tmp_path / "many", "--format", "mha")
    assert again.code == 2
    assert "already there" in again.err
    assert medcycle(*model, trained / "mr", tmp_path / "many", "--format", "mha", "--overwrite").code == 0

    ran = medcycle(*model, source, f"{tmp_path}/series/", "--batch-size", 3)
    assert ran.code == 0
    assert len(list((tmp_path / "series").iterdir())) == 20

    back = medcycle(*model, "--to", "mr", trained / "ct" / "p0.nii.gz", tmp_path / "back.nii.gz")
    assert back.code == 0
    restored: Any = nib.load(tmp_path / "back.nii.gz")
    assert restored.get_data_dtype() == np.float32  # arbitrary units
    bad = medcycle(*model, source, tmp_path / "x.nii.gz", "--device", "tpu")
    assert bad.code == 2
    assert "tpu" in bad.err
    bad = medcycle(*model, source, tmp_path / "x.nii.gz", "--axes", "coronal")
    assert bad.code == 2
    assert "axes coronal: this model was trained on axial planes" in bad.err


def test_residual_maps_and_a_quality_file(trained: Path, tmp_path: Path, medcycle: Run) -> None:
    table = tmp_path / "quality.csv"
    model = ("translate", "--model", trained / "run", "--device", "cpu", "--quality", table)
    source = trained / "mr" / "p0.nii.gz"
    ran = medcycle(*model, source, f"{tmp_path}/sct/", "--residual", "_residual")
    assert ran.code == 0, ran.err
    assert ", cycle error 0." in ran.out
    made: Any = nib.load(tmp_path / "sct_residual.nii.gz")
    np.testing.assert_allclose(made.affine, np.diag([2.0, 2, 2, 1]))
    assert (made.shape, made.get_data_dtype()) == ((20, 20, 20), np.float32)  # the MR's arbitrary unit
    assert made.get_fdata().max() > 0 == made.get_fdata().min()

    ran = medcycle(*model, "--to", "mr", trained / "ct", tmp_path / "many", "--residual", tmp_path / "maps")
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["p0.nii.gz", "p1.nii.gz"]
    back: Any = nib.load(tmp_path / "maps" / "p0.nii.gz")
    assert back.get_data_dtype() == np.int16  # HU
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["scan"], row["residual"]) for row in rows] == [
        ("mr_to_ct", str(source), str(tmp_path / "sct_residual.nii.gz")),
        ("ct_to_mr", str(trained / "ct" / "p0.nii.gz"), str(tmp_path / "maps" / "p0.nii.gz")),
        ("ct_to_mr", str(trained / "ct" / "p1.nii.gz"), str(tmp_path / "maps" / "p1.nii.gz")),
    ]
    assert all(0 < float(row["mind_p5"]) <= float(row["mind_p95"]) and float(row["cycle_error"]) > 0 for row in rows)

    alone = tmp_path / "alone" / "mr_to_ct.safetensors"
    alone.parent.mkdir()
    shutil.copy(trained / "run" / alone.name, alone)
    for wrong, said in (
        (("--model", alone, "--residual", "_residual"), "ct_to_mr.safetensors: missing; it is the opposite model"),
        (("--residual", tmp_path / "maps" / "p0.nii.gz"), "already there"),
        (("--quality", source), "cannot be read as a quality file"),
    ):
        before = sorted(tmp_path.rglob("*"))
        ran = medcycle("translate", "--model", trained / "run", *wrong, source, tmp_path / "new.nii.gz")
        assert ran.code == 2
        assert said in ran.err
        assert sorted(tmp_path.rglob("*")) == before


def test_translated_pictures_are_not_called_scans(tmp_path: Path, medcycle: Run) -> None:
    import torch
    from PIL import Image

    from medcycle.networks import build_generator
    from medcycle.networks.upstream import generator_state

    network = build_generator("resnet", in_channels=1, out_channels=1, ndim=2, filters=2, blocks=1)
    torch.save(generator_state(network), tmp_path / "latest_net_G.pth")
    Image.new("L", (16, 16)).save(tmp_path / "a.png")
    ran = medcycle("translate", "--model", tmp_path / "latest_net_G.pth", tmp_path / "a.png", tmp_path / "b.png")
    assert (ran.code, ran.out) == (0, f"1 file(s) written to {tmp_path / 'b.png'}\n")


def test_export_knows_one_form(trained: Path, tmp_path: Path, medcycle: Run) -> None:
    ran = medcycle("export", "--to", "onnx", trained / "run", tmp_path / "out")
    assert (ran.code, ran.err) == (
        2,
        "medcycle: error: --to onnx: allowed is upstream, the original program's .pth files\n",
    )
    assert not (tmp_path / "out").exists()


# --- evaluate ---------------------------------------------------------------------------------------------------------


def test_evaluate(trained: Path, tmp_path: Path, medcycle: Run, make_ball: Run, save_nifti: Run) -> None:
    for index in range(2):
        prediction, truth = tmp_path / "sct" / f"p{index}.nii.gz", trained / "ct" / f"p{index}.nii.gz"
        array = np.asarray(nib.load(truth).dataobj) + 10 * (index + 1)  # type: ignore[attr-defined]
        prediction.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array.astype(np.int16), np.diag([2.0, 2, 2, 1])), prediction)
        inside = make_ball(index, "ct").replace(array=(make_ball(index, "ct").array > -500).astype(np.float32))
        save_nifti(inside, tmp_path / "mask" / f"p{index}.nii.gz")
    both = ("evaluate", "--prediction", tmp_path / "sct", "--reference", trained / "ct")
    ran = medcycle(*both, "--mask", tmp_path / "mask", "--input", trained / "mr", "--out", tmp_path / "e")
    assert ran.code == 0, ran.err
    assert "synthrad2023, 2 case(s)" in ran.out
    assert re.search(r"mean ± sd +│ +15\.0 ± 7\.1", ran.out)
    assert f"{tmp_path / 'e' / 'report.html'}" in ran.out.replace("\n", "")
    found = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert found["metrics"] == "synthrad2023"
    assert {case: figures["mae"] for case, figures in found["cases"].items()} == {"p0": 10, "p1": 20}
    assert found["mean"]["mae"] == 15
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == ["metrics.csv", "metrics.json", "report.html"]
    ran = medcycle(*both, "--metrics", "basic")
    assert ran.code == 0
    assert "RMSE" in ran.out
    ran = medcycle(*both)
    assert "note: No masks were given: scored inside the body" in ran.out


def test_a_translation_of_a_series_with_gaps_is_scored(
    trained: Path, tmp_path: Path, medcycle: Run, make_ball: Run
) -> None:
    source, truth = write_volume(make_ball(0, "mr"), tmp_path / "mr"), write_volume(make_ball(0, "ct"), tmp_path / "ct")
    (source / "0007.dcm").unlink()
    out = tmp_path / "sct"
    ran = medcycle("translate", "--model", trained / "run", "--resample-gaps", source, f"{out}/")
    assert ran.code == 0, ran.err
    both = ("evaluate", "--prediction", out, "--reference", truth)
    refused = medcycle(*both)
    assert refused.code == 2
    assert "--resample-gaps" in refused.err
    ran = medcycle(*both, "--resample-gaps")
    assert ran.code == 0, ran.err
    assert f"warning: {out}: 1 of 20 slices" in ran.err


# --- warnings ---------------------------------------------------------------------------------------------------------


def test_odd_headers_are_no_flood_of_warnings(cohort: Path, trained: Path, medcycle: Run, make_ball: Run) -> None:
    shutil.rmtree(cohort / "mr")
    for index in range(2):
        folder = write_volume(make_ball(index, "mr"), cohort / "mr" / f"head{index}")
        for file in folder.iterdir():
            data = pydicom.dcmread(file)
            with pydicom.config.disable_value_validation():
                data.PatientID = "Doe^Jane" + "x" * (70 + index)  # too long
                data.SeriesInstanceUID = f"1.2.0{index + 1}.3"  # no leading zeros are allowed
                data.save_as(file)
    configs = ("--config", cohort / "c.yaml")
    runs = [
        medcycle("train", *configs, "--out", cohort / "run"),
        medcycle("prepare", *configs, "prepare.workers=2", "prepare.percentiles=[1, 99]"),
        medcycle("translate", "--model", trained / "run", cohort / "mr", cohort / "out", "--format", "dicom"),
    ]
    for ran in runs:
        assert ran.code == 0, ran.err
        lines = [line for line in ran.err.splitlines() if "warning" in line.lower()]
        assert all(line.startswith("warning: DICOM: ") and "(said once; " in line for line in lines), lines
        assert len({re.sub(r"[0-9]+", "", line) for line in lines}) == len(lines) <= 2, lines  # a kind, of 80 values
        assert "Jane" not in ran.err
        assert "1.2.0" not in ran.err


# --- demo -------------------------------------------------------------------------------------------------------------


def test_demo_works_in_the_folder_it_is_given(medcycle: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import medcycle.demo as home

    asked: list[Path] = []
    monkeypatch.setattr(home, "run_demo", asked.append)
    assert medcycle("demo").code == 0
    assert medcycle("demo", "--out", tmp_path).code == 0
    assert asked == [Path("demo"), tmp_path]
