"""What a user gets for bad input: exit code 2, no traceback, a message that names the file or key and says what to do,
nothing half-written, and everything made before still usable.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from safetensors.torch import load_file, save_file

from medcycle.config import load_config
from medcycle.errors import CheckpointError
from medcycle.io import write_volume
from medcycle.training.checkpoint import checkpoints, read_checkpoint, restore_checkpoint
from medcycle.training.runtime import Processes
from medcycle.training.setup import build_gan

Run = Callable[..., Any]
Make = Callable[..., Any]


class Bad(NamedTuple):
    """One kind of bad scans: how to make them in a domain's folder, and what the message must say."""

    spoil: Callable[[Path, Make], object]
    says: tuple[str, ...]
    alone: bool = True
    """Whether it is a scan that can be named alone (to translate or evaluate it)."""


def missing_folder(folder: Path, make_ball: Make) -> None:
    shutil.rmtree(folder)


def empty_folder(folder: Path, make_ball: Make) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing here")


def foreign(folder: Path, make_ball: Make) -> Path:
    (folder / "odd.nii.gz").write_bytes(b"this is no image")
    return folder / "odd.nii.gz"


def truncated(folder: Path, make_ball: Make) -> Path:
    whole = (folder / "p0.nii.gz").read_bytes()
    (folder / "odd.nii.gz").write_bytes(whole[: len(whole) // 2])
    return folder / "odd.nii.gz"


def not_a_number(folder: Path, make_ball: Make) -> Path:
    array = make_ball(5, "mr").array[0].copy()
    array[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0])), folder / "odd.nii.gz")
    return folder / "odd.nii.gz"


def singular(folder: Path, make_ball: Make) -> Path:
    image = nib.Nifti1Image(make_ball(5, "mr").array[0], np.diag([2.0, 2.0, 2.0, 1.0]))
    content = bytearray(image.to_bytes())
    content[312:328] = content[296:312]  # srow_z becomes srow_y
    (folder / "odd.nii").write_bytes(content)
    return folder / "odd.nii"


def series(folder: Path, make_ball: Make) -> Path:
    return write_volume(make_ball(5, "mr"), folder / "odd", description="T1 made for the test")


def two_series(folder: Path, make_ball: Make) -> Path:
    target = series(folder, make_ball)
    second = write_volume(make_ball(6, "mr"), folder.parent / "second", description="T2 made for the test")
    for file in second.iterdir():
        shutil.move(file, target / f"second-{file.name}")
    second.rmdir()
    return target


def missing_slice(folder: Path, make_ball: Make) -> Path:
    target = series(folder, make_ball)
    (target / "0007.dcm").unlink()
    return target


def uneven_slices(folder: Path, make_ball: Make) -> Path:
    target = series(folder, make_ball)
    data = pydicom.dcmread(target / "0007.dcm")
    data.PixelData = data.pixel_array[:-2].tobytes()
    data.Rows -= 2
    data.save_as(target / "0007.dcm")
    return target


BAD = {
    "missing folder": Bad(missing_folder, ("domains.a.path", "mr: no such file or folder"), alone=False),
    "empty folder": Bad(empty_folder, ("domains.a.path", "mr: no scans in this folder; looked"), alone=False),
    "one unreadable file among many": Bad(foreign, ("odd.nii.gz: cannot be read as NIfTI", "damaged, truncated or")),
    "truncated": Bad(truncated, ("odd.nii.gz: cannot be read as NIfTI", "truncated")),
    "NaN": Bad(not_a_number, ("odd.nii.gz: 1 of 8000 values are NaN", "Replace them")),
    "singular affine": Bad(singular, ("odd.nii: the affine is singular", "Repair the file's geometry")),
    "two series": Bad(
        two_series,
        (
            *("odd: holds 2 DICOM series", "T1 made for the test", "T2 made for the test"),
            "(--series, series=, or domains.a.series, domains.b.series of a configuration)",
        ),
    ),
    "missing slice": Bad(missing_slice, ("odd: ", "1 missing slice", "resample_gaps")),
    "slices of different size": Bad(
        uneven_slices, ("odd: slices of one series differ in Rows: 20 in 0001.dcm, 18 in 0007.dcm",)
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["train", "prepare", "inspect"])
def test_bad_scans_in_a_domain(name: str, command: str, cohort: Path, medcycle: Run, make_ball: Make) -> None:
    bad = BAD[name]
    bad.spoil(cohort / "mr", make_ball)
    config = cohort / "c.yaml"
    arguments: dict[str, tuple[object, ...]] = {
        "train": ("--strict", "--config", config, "--out", cohort / "run"),
        "prepare": ("--strict", "--config", config),
        "inspect": (config,),
    }
    ran = medcycle(command, *arguments[command])
    told = ran.err + ran.out
    assert ran.code == 2
    assert "Traceback" not in told
    for text in bad.says:
        assert text in told
    assert not list((cohort / "run").rglob("*.safetensors"))
    assert not checkpoints(cohort / "run" / "checkpoints")
    assert list(cohort.rglob("*.tmp")) == []
    if bad.alone and command == "prepare":
        # The good scans of both domains stay prepared, and without the bad one it works.
        assert "the others are, and stay cached" in told
        kept = sorted((cohort / "cache").glob("*.npy"))
        assert len(kept) == 4
        before = [path.stat().st_mtime_ns for path in kept]
        for odd in (cohort / "mr").glob("odd*"):
            shutil.rmtree(odd) if odd.is_dir() else odd.unlink()
        assert medcycle("prepare", "--strict", "--config", config).code == 0
        assert [path.stat().st_mtime_ns for path in kept] == before


@pytest.mark.parametrize("name", [name for name, bad in BAD.items() if bad.alone])
def test_a_bad_scan_is_left_out_and_listed(name: str, cohort: Path, medcycle: Run, make_ball: Make) -> None:
    BAD[name].spoil(cohort / "mr", make_ball)
    run = cohort / "run"
    for arguments in (("prepare",), ("train", "--out", run)):
        ran = medcycle(*arguments, "--config", cohort / "c.yaml")
        assert ran.code == 0, ran.err
        assert "1 scan(s) cannot be used and are left out" in ran.err
        assert "  domains.a (mr): " in ran.err
        for text in BAD[name].says:
            assert text in ran.err
    assert str(run / "refused.txt") in ran.err
    listed = (run / "refused.txt").read_text()
    assert listed.startswith("domains.a (mr): ")
    for text in BAD[name].says:
        assert text in listed
    assert "1 refused, see refused.txt" in (run / "report.html").read_text()
    assert len(list((cohort / "cache").glob("*.npy"))) == 4


@pytest.mark.parametrize("name", [name for name, bad in BAD.items() if bad.alone])
def test_a_bad_scan_to_translate_or_evaluate(
    name: str, trained: Path, tmp_path: Path, medcycle: Run, make_ball: Make, save_nifti: Make
) -> None:
    for index in range(2):
        save_nifti(make_ball(index, "mr"), tmp_path / "mr" / f"p{index}.nii.gz")
    odd = BAD[name].spoil(tmp_path / "mr", make_ball)
    for source, out in ((odd, tmp_path / "one.nii.gz"), (tmp_path / "mr", tmp_path / "all")):
        ran = medcycle("translate", "--model", trained / "run", source, out)
        assert ran.code == 2
        assert "Traceback" not in ran.err
        for text in BAD[name].says:
            assert text in ran.err
    assert not (tmp_path / "one.nii.gz").exists()
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["p0.nii.gz", "p1.nii.gz"]  # the good ones
    ran = medcycle(
        "evaluate", "--prediction", odd, "--reference", trained / "ct" / "p0.nii.gz", "--out", tmp_path / "e"
    )
    assert ran.code == 2
    for text in BAD[name].says:
        assert text in ran.err
    assert not (tmp_path / "e").exists()
    assert list(tmp_path.rglob("*.tmp")) == []


@pytest.mark.parametrize("where", ["missing", "empty"])
def test_no_scans_to_translate_or_evaluate(where: str, trained: Path, tmp_path: Path, medcycle: Run) -> None:
    (tmp_path / "empty").mkdir()
    says = {"missing": "missing: no such file or folder", "empty": "empty: no scans in this folder"}[where]
    for arguments in (
        ("translate", "--model", trained / "run", tmp_path / where, tmp_path / "out"),
        ("evaluate", "--prediction", tmp_path / where, "--reference", trained / "ct", "--out", tmp_path / "out"),
        ("evaluate", "--prediction", trained / "ct", "--reference", tmp_path / where, "--out", tmp_path / "out"),
        ("inspect", tmp_path / where),
    ):
        ran = medcycle(*arguments)
        assert ran.code == 2
        assert says in ran.err
    assert not (tmp_path / "out").exists()


def test_scans_thinner_than_asked(
    cohort: Path, medcycle: Run, configure: Make, make_ball: Make, save_nifti: Make
) -> None:
    save_nifti(make_ball(3, "mr", (20, 6, 20)), cohort / "mr" / "thin.nii.gz")
    config, run = cohort / "c.yaml", cohort / "run"
    says = "20 x 6 voxels, less than half of sample.size [16, 16]"
    for arguments in (("train", "--strict", "--config", config, "--out", cohort / "strict"), ("inspect", config)):
        ran = medcycle(*arguments)
        assert ran.code == 2
        assert "thin" in ran.err + ran.out
        assert says in ran.err + ran.out
    ran = medcycle("train", "--config", config, "--out", run)
    assert ran.code == 0, ran.err
    assert "1 scan(s) cannot be used and are left out" in ran.err
    assert says in (run / "refused.txt").read_text()
    (cohort / "mr" / "thin.nii.gz").rename(cohort / "thin.nii.gz")
    shutil.rmtree(cohort / "mr")
    (cohort / "mr").mkdir()
    (cohort / "thin.nii.gz").rename(cohort / "mr" / "thin.nii.gz")
    ran = medcycle("train", "--config", config, "--out", cohort / "none")  # no other is left
    assert ran.code == 2
    assert says in ran.err
    assert not checkpoints(cohort / "none" / "checkpoints")
    # What the message says to do is enough, in the same run folder and with the same cache.
    ran = medcycle("train", "--config", config, "--out", cohort / "none", "sample.size=[12, 12]")
    assert ran.code == 0, ran.err


def test_swapped_domains_are_a_warning(cohort: Path, medcycle: Run, configure: Make) -> None:
    (cohort / "mr").rename(cohort / "keep")
    (cohort / "ct").rename(cohort / "mr")
    (cohort / "keep").rename(cohort / "ct")
    for command in (("train", "--out", cohort / "run", "--config"), ("prepare", "--config"), ("inspect",)):
        ran = medcycle(*command, cohort / "c.yaml")
        told = " ".join((ran.err + ran.out).split())
        assert ran.code == 0
        assert "p0.nii.gz: looks like CT in an MR domain" in told
        assert "p0.nii.gz: does not look like CT" in told
        assert told.count("Are the domains swapped") == 2


# --- Nowhere to write -------------------------------------------------------------------------------------------------


def test_no_permission_to_write(cohort: Path, trained: Path, medcycle: Run) -> None:
    # A folder below a plain file can be made by nobody, not even by root, as whom tests often run.
    (cohort / "file").write_text("in the way")
    place = cohort / "file" / "out"
    config = cohort / "c.yaml"
    for arguments in (
        ("train", "--config", config, "--out", place),
        ("train", "--config", config, "--out", cohort / "run", f"prepare.cache={place}"),
        ("prepare", "--config", config, f"prepare.cache={place}"),
        ("inspect", cohort / "mr", "--out", place / "audit.json"),
        ("translate", "--model", trained / "run", cohort / "mr", place),
        ("translate", "--model", trained / "run", cohort / "mr" / "p0.nii.gz", place / "p0.nii.gz"),
        ("translate", "--model", trained / "run", cohort / "mr" / "p0.nii.gz", f"{place}/"),
        ("evaluate", "--prediction", cohort / "ct", "--reference", cohort / "ct", "--out", place),
        ("demo", "--out", place),
        ("config", "copy", "quick.yaml", place / "c.yaml"),
    ):
        ran = medcycle(*arguments)
        assert ran.code == 2, arguments
        assert str(place) in ran.err
        assert f"{cohort / 'file'} is a file, not a folder" in ran.err or "Not a directory" in ran.err
        assert "File exists" not in ran.err
    assert (cohort / "file").read_text() == "in the way"


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", "previews", "metrics.csv"])
def test_something_in_the_way_in_the_run_folder(name: str, cohort: Path, medcycle: Run) -> None:
    (cohort / "run").mkdir()
    if name == "metrics.csv":
        (cohort / "run" / name / "folder").mkdir(parents=True)
    else:
        (cohort / "run" / name).write_text("in the way")
    ran = medcycle("train", "--config", cohort / "c.yaml", "--out", cohort / "run")
    assert ran.code == 2
    assert f"{cohort / 'run' / name}" in ran.err
    assert "cannot be written" in ran.err


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """full_disk(ending): from now on, files of that ending take a few bytes and no more."""
    real = Path.open

    def fill(ending: str) -> None:
        def open_full(self: Path, mode: str = "r", *arguments: Any, **settings: Any) -> Any:
            file = real(self, mode, *arguments, **settings)
            if mode[0] in "wax" and ending in self.name:
                file.write(b"half" if "b" in mode else "half")
                file.close()
                raise OSError(errno.ENOSPC, "No space left on device")
            return file

        monkeypatch.setattr(Path, "open", open_full)

    return fill


@pytest.mark.parametrize("ending", ["step-00000002.pt", "metrics.csv", "mr_to_ct.safetensors", "report.html", ".json"])
def test_full_disk_while_training(
    ending: str, cohort: Path, medcycle: Run, full_disk: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(ending)
    ran = medcycle("train", "--config", cohort / "c.yaml", "--out", cohort / "run")
    assert ran.code == 2
    assert "No space left on device" in ran.err
    assert "Traceback" not in ran.err
    assert [path.name for path in cohort.rglob("*") if "tmp" in path.name] == []
    for path in cohort.rglob("*"):
        assert path.name == "metrics.csv" or not path.is_file() or path.read_bytes() != b"half"
    monkeypatch.undo()
    monkeypatch.setenv("COLUMNS", "200")
    go_on = ["--resume"] if checkpoints(cohort / "run" / "checkpoints") else []
    ran = medcycle("train", "--config", cohort / "c.yaml", "--out", cohort / "run", *go_on)
    assert ran.code == 0, ran.err
    rows = (cohort / "run" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "1", "2"]


def test_models_that_the_last_step_could_not_write_are_written_at_resume(
    trained: Path, tmp_path: Path, medcycle: Run
) -> None:
    run = shutil.copytree(trained / "run", tmp_path / "run")
    whole = load_file(run / "mr_to_ct.safetensors")
    (run / "mr_to_ct.safetensors").unlink()
    assert medcycle("train", "--config", trained / "c.yaml", "--out", run, "--resume").code == 0
    again = load_file(run / "mr_to_ct.safetensors")
    assert all(torch.equal(again[name], value) for name, value in whole.items())


@pytest.mark.parametrize("out", ["new", "new.mha", "series/"])
def test_full_disk_while_translating(
    out: str, trained: Path, tmp_path: Path, medcycle: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    import medcycle.io.files as files

    monkeypatch.setattr(files, "_move", full)
    source = trained / "mr" if out == "new" else trained / "mr" / "p0.nii.gz"
    ran = medcycle("translate", "--model", trained / "run", source, f"{tmp_path}/{out}")
    assert ran.code == 2
    assert "No space left on device" in ran.err
    assert "free space" in ran.err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# --- Configurations ---------------------------------------------------------------------------------------------------


def test_a_typo_in_the_configuration(cohort: Path, trained: Path, medcycle: Run) -> None:
    config = cohort / "c.yaml"
    config.write_text(config.read_text().replace("samples_per_epoch", "sample_per_epoch"))
    for command in (("train", "--config"), ("prepare", "--config"), ("inspect",), ("config", "check")):
        ran = medcycle(*command, config)
        assert ran.code == 2
        assert f"{config}:" in ran.err
        assert "train.sample_per_epoch: unknown key. Did you mean 'samples_per_epoch'?" in ran.err
    ran = medcycle("train", "--config", trained / "c.yaml", "trian.epochs=3")
    assert ran.code == 2
    assert "override 'trian.epochs=3'  trian: unknown key. Did you mean 'train'?" in ran.err
    ran = medcycle("train", "--config", "mri2tc")
    assert ran.code == 2
    assert "mri2tc: no such file. Did you mean mri2ct.yaml?" in ran.err


# --- Checkpoints and models -------------------------------------------------------------------------------------------


def damage_newest(folder: Path) -> None:
    newest = checkpoints(folder)[-1]
    newest.write_bytes(newest.read_bytes()[:500])


def damage_all(folder: Path) -> None:
    for path in checkpoints(folder):
        path.write_bytes(b"\x80\x02something else")


def foreign_checkpoint(folder: Path) -> None:
    for path in checkpoints(folder):
        torch.save({"epoch": 3, "state_dict": {"weight": torch.zeros(3)}}, path)


def half_a_checkpoint(folder: Path) -> None:
    for path in checkpoints(folder):
        torch.save({"format": 1, "gan": {}}, path)


@pytest.mark.parametrize("spoil", [damage_all, foreign_checkpoint, half_a_checkpoint])
def test_a_corrupt_or_foreign_checkpoint(spoil: Make, trained: Path, tmp_path: Path, medcycle: Run) -> None:
    run = shutil.copytree(trained / "run", tmp_path / "run")
    spoil(run / "checkpoints")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    ran = medcycle("train", "--config", trained / "c.yaml", "--out", run, "--resume")
    assert ran.code == 2
    assert "step-00000002.pt: cannot be read as a checkpoint" in ran.err
    assert "Train anew in another folder" in ran.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_damaged_newest_checkpoint_is_passed_over(trained: Path, tmp_path: Path, medcycle: Run) -> None:
    run = shutil.copytree(trained / "run", tmp_path / "run")
    damage_newest(run / "checkpoints")
    ran = medcycle("train", "--config", trained / "c.yaml", "--out", run, "--resume")
    assert ran.code == 0
    assert "warning: " in ran.err
    assert "going on from step-00000001.pt" in ran.err
    assert load_file(run / "mr_to_ct.safetensors").keys() == load_file(trained / "run" / "mr_to_ct.safetensors").keys()


def test_a_checkpoint_of_another_run(trained: Path, tmp_path: Path, medcycle: Run) -> None:
    run = shutil.copytree(trained / "run", tmp_path / "run")
    ran = medcycle("train", "--config", trained / "c.yaml", "--out", run, "--resume", "model.generator.filters=6")
    assert ran.code == 2
    assert "model.generator.filters: the run has 4, now 6" in ran.err
    ran = medcycle("train", "--config", trained / "c.yaml", "--out", run)
    assert ran.code == 2
    assert "holds a run already" in ran.err
    ran = medcycle("train", "--config", trained / "c.yaml", "--out", tmp_path / "none", "--resume")
    assert ran.code == 2
    assert "no checkpoint to resume from" in ran.err
    assert not (tmp_path / "none").exists()


def test_a_damaged_part_of_a_second_process(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained / "run" / "checkpoints", tmp_path / "checkpoints")
    path, state = read_checkpoint(folder)
    gan = build_gan(load_config(trained / "c.yaml"), (1, 1), torch.device("cpu"), "fp32")
    restore_checkpoint(path, state, gan, Processes(1, 2, 1))  # without a part: it starts with empty buffers
    path.with_name(f"{path.stem}.rank1.pt").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"rank1\.pt: cannot be read .* Remove it to go on"):
        restore_checkpoint(path, state, gan, Processes(1, 2, 1))


@pytest.mark.parametrize("kind", ["missing", "truncated", "foreign", "pickle", "empty folder", "wrong target"])
def test_a_corrupt_or_foreign_model(kind: str, trained: Path, tmp_path: Path, medcycle: Run) -> None:
    model = tmp_path / "mr_to_ct.safetensors"
    content = (trained / "run" / "mr_to_ct.safetensors").read_bytes()
    arguments: list[str] = []
    says = "mr_to_ct.safetensors: "
    if kind == "truncated":
        model.write_bytes(content[: len(content) // 2])
        says += "not a complete model file"
    elif kind == "foreign":
        save_file({"weight": torch.zeros(3)}, model)
        says += "a safetensors file of another tool"
    elif kind == "pickle":
        model = tmp_path / "latest_net_G.pth"
        torch.save({"weight": torch.zeros(3)}, model)
        says = "latest_net_G.pth: no generator of the original program"
    elif kind == "empty folder":
        model = tmp_path
        says = "no exported model in this folder"
    elif kind == "wrong target":
        model = trained / "run"
        arguments = ["--to", "pet"]
        says = "mr_to_ct.safetensors (from 'mr' to 'ct')"
    else:
        says += "missing"
    ran = medcycle("translate", "--model", model, *arguments, trained / "mr", tmp_path / "out")
    assert ran.code == 2
    assert says in ran.err
    assert not (tmp_path / "out").exists()


# --- Scoring ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_scored(trained: Path, tmp_path: Path, medcycle: Run, make_ball: Make, save_nifti: Make) -> None:
    ct = trained / "ct"
    save_nifti(make_ball(0, "ct"), tmp_path / "names" / "q0.nii.gz")
    save_nifti(make_ball(0, "ct", (20, 20, 18)), tmp_path / "grid" / "p0.nii.gz")
    save_nifti(make_ball(0, "ct"), tmp_path / "grid" / "p1.nii.gz")
    for arguments, says in (
        (("--prediction", tmp_path / "names", "--reference", ct), "q0"),
        (("--prediction", tmp_path / "grid", "--reference", ct), "lies on another grid than its reference"),
        (("--prediction", ct, "--reference", ct, "--metrics", "synthrad"), "choose one of synthrad2023"),
        (("--prediction", ct, "--reference", ct, "--mask", tmp_path / "none"), "none: no such file or folder"),
    ):
        ran = medcycle("evaluate", *arguments, "--out", tmp_path / "out")
        assert ran.code == 2
        assert says in ran.err
    assert not (tmp_path / "out").exists()


def test_odd_names_are_shown_as_they_are(trained: Path, tmp_path: Path, medcycle: Run) -> None:
    # [bold] and [/x] would be mark-up to the terminal library, and be swallowed or end in a traceback.
    folder = tmp_path / "[" / "x] [bold]"
    folder.mkdir(parents=True)
    shutil.copy(trained / "ct" / "p0.nii.gz", folder / "[red]p.nii.gz")
    ran = medcycle("inspect", folder)
    assert ran.code == 0
    assert "[red]p" in ran.out
    assert "[/x][bold]:" in "".join(ran.out.split())  # long titles are wrapped
    out = tmp_path / "[" / "e]"
    ran = medcycle("evaluate", "--prediction", folder, "--reference", folder, "--out", out)
    assert ran.code == 0
    assert "[red]p" in ran.out
    assert list(json.loads((out / "metrics.json").read_text())["cases"]) == ["[red]p"]
    run = tmp_path / "[" / "run]"
    assert medcycle("train", "--config", trained / "c.yaml", "--out", run).code == 0
    swapped = (f"domains.a.path={folder!s}", f"domains.b.path={trained / 'mr'}", f"prepare.cache={tmp_path / 'cache'}")
    ran = medcycle("prepare", "--config", trained / "c.yaml", *swapped)
    assert ran.code == 0
    assert "[/x] [bold]/[red]p.nii.gz: looks like CT" in ran.err
