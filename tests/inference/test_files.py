from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from medcycle.cli import app
from medcycle.errors import ConfigError, ModelError, ScanError
from medcycle.inference import Translator, plan_outputs, translate_paths
from medcycle.io import read_volume, write_volume
from medcycle.prepare import Preparation
from medcycle.volume import Volume

Make = Callable[..., Any]


@pytest.fixture
def cohort(tmp_path: Path, make_ball: Make) -> Path:
    """Three CT scans: NIfTI, MHA and a DICOM folder."""
    folder = tmp_path / "in"
    write_volume(make_ball((12, 12, 12)), folder / "head1.nii.gz")
    write_volume(make_ball((12, 13, 12)), folder / "head2.mhd")
    write_volume(make_ball((12, 12, 11)), folder / "head3")
    (folder / "notes.txt").write_text("none")
    return folder


def tree(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_many_scans_keep_their_names_and_formats(translator: Make, cohort: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    steps: list[tuple[int, int]] = []
    written = translate_paths(
        translator(),
        cohort,
        tmp_path / "out",
        progress=lambda *at: seen.append(at),
        steps=lambda *at: steps.append(at),
    )
    assert [path.name for path in written] == ["head1.nii.gz", "head2.mha", "head3"]
    assert seen == [(1, 3, "head1"), (2, 3, "head2"), (3, 3, "head3")]
    assert steps.count((12, 12)) == 2
    assert (11, 11) in steps
    for path, source in zip(written, ("head1.nii.gz", "head2.mhd", "head3"), strict=True):
        old, new = read_volume(cohort / source, unit="HU"), read_volume(path, unit="HU")
        np.testing.assert_allclose(new.affine, old.affine, atol=1e-4)
        body = old.array > -500
        np.testing.assert_allclose(new.array[body], old.array[body], atol=1)
    assert len(list((tmp_path / "out" / "head3").iterdir())) == 11


@pytest.mark.parametrize(("kind", "names"), [("nii.gz", ".nii.gz"), ("mha", ".mha"), ("dicom", "/")])
def test_many_scans_in_one_format(cohort: Path, tmp_path: Path, kind: str, names: str) -> None:
    planned = plan_outputs(cohort, tmp_path / "out", kind)
    assert [out for _, out in planned] == [f"{tmp_path}/out/head{n}{names}" for n in (1, 2, 3)]


def test_one_scan_goes_by_the_outputs_name(translator: Make, cohort: Path, tmp_path: Path) -> None:
    one = cohort / "head1.nii.gz"
    for name in ("a.nii", "deep/er/a.nrrd", "dicom", "dicom.1/"):
        out = f"{tmp_path}/{name}"
        assert translate_paths(translator(), str(one), out) == [Path(out)]
        assert read_volume(out, unit="HU").space == (12, 12, 12)
    assert translate_paths(translator(), cohort / "head3", tmp_path / "b.mha") == [tmp_path / "b.mha"]
    assert translate_paths(translator(), one, tmp_path / "many", format="mha") == [tmp_path / "many" / "head1.mha"]
    assert translate_paths(translator(), one, tmp_path / "c.nii.gz", format="nii.gz") == [tmp_path / "c.nii.gz"]


def test_several_inputs_and_a_pattern(cohort: Path, tmp_path: Path) -> None:
    by_pattern = plan_outputs(f"{cohort}/*.nii.gz", tmp_path / "out")
    assert by_pattern == [(cohort / "head1.nii.gz", f"{tmp_path}/out/head1.nii.gz")]
    several = plan_outputs([cohort / "head1.nii.gz", cohort / "head3"], tmp_path / "out")
    assert [out for _, out in several] == [f"{tmp_path}/out/head1.nii.gz", f"{tmp_path}/out/head3/"]


def test_scans_of_one_name_keep_their_folders(translator: Make, make_ball: Make, tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        write_volume(make_ball((12, 12, 12)), tmp_path / "in" / patient / "CT.nii.gz")
    translate_paths(translator(), tmp_path / "in", tmp_path / "out")
    assert tree(tmp_path / "out") == ["p1/CT.nii.gz", "p2/CT.nii.gz"]


def test_pictures_become_png(translator: Make, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in" / "a.bmp")
    Image.fromarray(pixels).save(tmp_path / "in" / "b.png")
    written = translate_paths(translator("photo", "photo"), tmp_path / "in", tmp_path / "out")
    assert [path.name for path in written] == ["a.png", "b.png"]
    for path in written:
        np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)


# -- refusals --------------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unless_asked(translator: Make, cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "head2.mha").write_text("precious")
    with pytest.raises(ScanError, match=r"head2\.mha: already there.*Nothing was translated"):
        translate_paths(translator(), cohort, out)
    assert tree(out) == ["head2.mha"]
    assert (out / "head2.mha").read_text() == "precious"
    assert len(translate_paths(translator(), cohort, out, overwrite=True)) == 3
    assert len(translate_paths(translator(), cohort, out, overwrite=True)) == 3  # its own DICOM series too
    with pytest.raises(ScanError, match="already there"):
        translate_paths(translator(), cohort / "head3", out / "head3")


def test_the_scan_itself_is_never_replaced(translator: Make, cohort: Path) -> None:
    before = (cohort / "head1.nii.gz").read_bytes()
    for source, out in ((cohort / "head1.nii.gz", cohort / "head1.nii.gz"), (cohort, cohort)):
        with pytest.raises(ScanError, match="the scan itself"):
            translate_paths(translator(), source, out, overwrite=True)
    assert (cohort / "head1.nii.gz").read_bytes() == before


def test_one_bad_scan_does_not_stop_the_others(translator: Make, cohort: Path, tmp_path: Path) -> None:
    (cohort / "bad.nii.gz").write_bytes((cohort / "head1.nii.gz").read_bytes()[:300])
    flat = Volume(np.zeros((1, 9, 9), np.float32), np.eye(4), "uint8")
    write_volume(flat, cohort / "picture.png")
    (cohort / "head3" / "0002.dcm").unlink()
    seen: list[str] = []
    with pytest.raises(ScanError) as caught:
        translate_paths(translator(), cohort, tmp_path / "out", progress=lambda done, total, name: seen.append(name))
    message = str(caught.value)
    assert "3 of 5 inputs could not be translated; 2 were written" in message
    for name in ("bad.nii.gz", "picture.png", "head3"):
        assert name in message
    assert seen == ["bad", "head1", "head2", "head3", "picture"]
    assert tree(tmp_path / "out") == ["head1.nii.gz", "head2.mha"]


def test_the_only_scan_gives_its_own_error(translator: Make, tmp_path: Path) -> None:
    write_volume(Volume(np.zeros((1, 9, 9), np.float32), np.eye(4), "uint8"), tmp_path / "p.png")
    with pytest.raises(ModelError, match="3D patches"):
        translate_paths(translator("photo", "photo", size=(4, 4, 4)), tmp_path / "p.png", tmp_path / "out.png")


def test_memory_that_ends_is_an_error_of_that_scan(
    translator: Make, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = translator()

    def huge(*args: Any, **settings: Any) -> Path:
        raise MemoryError

    for stage in ("read", "examine", "write"):
        with monkeypatch.context() as patch:
            patch.setattr(made, stage, huge)
            with pytest.raises(ScanError, match=r"head1\.nii\.gz: too large"):
                translate_paths(made, cohort / "head1.nii.gz", tmp_path / "out.nii.gz")


def test_files_are_read_and_written_while_the_network_works(
    translator: Make, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second scan has been read before the first is done; the first is written while the second is worked on."""
    made, read_two, wrote_one = translator(), threading.Event(), threading.Event()
    real_read, real_examine, real_write = made.read, made.examine, made.write
    worked: list[bool] = []

    def read(path: Path, **options: Any) -> Volume:
        volume = real_read(path, **options)
        if "head2" in str(path):
            read_two.set()
        return volume

    def examine(volume: Volume, *more: Any, **options: Any) -> Any:
        if len(worked) < 2:
            worked.append((read_two, wrote_one)[len(worked)].wait(20))
        return real_examine(volume, *more, **options)

    def write(*arguments: Any, **options: Any) -> Path:
        path = real_write(*arguments, **options)
        wrote_one.set()
        return path

    for name, replaced in (("read", read), ("examine", examine), ("write", write)):
        monkeypatch.setattr(made, name, replaced)
    written = translate_paths(made, cohort, tmp_path / "out")
    assert worked == [True, True]
    assert [path.name for path in written] == ["head1.nii.gz", "head2.mha", "head3"]


@pytest.mark.parametrize(
    ("source", "out", "kind", "error", "message"),
    [
        ("", "out.nii.gz", None, ScanError, "3 inputs from .* need a folder"),
        ("", "out", "dcm", ConfigError, "'dcm' is not known; allowed are nii.gz"),
        ("head1.nii.gz", "out.mha", "nii.gz", ConfigError, "another format"),
        ("head1.nii.gz", "out.xyz", None, ScanError, "no format is called '.xyz'.*has a dot: .*out.xyz/"),
        ("head1.nii.gz", "out.dcm", None, ScanError, r"\.dcm is read, not written.*A DICOM series is a folder"),
        ("nothing", "out", None, ScanError, "nothing"),
        ("", "in/head1.nii.gz/out", None, ScanError, "head1"),
    ],
)
def test_plans_that_make_no_sense(
    translator: Make, cohort: Path, tmp_path: Path, source: str, out: str, kind: str, error: type, message: str
) -> None:
    before = tree(tmp_path)
    with pytest.raises(error, match=message):
        translate_paths(translator(), cohort / source, tmp_path / out, format=kind)
    assert tree(tmp_path) == before


def test_two_scans_for_one_output(translator: Make, make_ball: Make, tmp_path: Path) -> None:
    for name in ("a.nii", "a.mha"):
        write_volume(make_ball((12, 12, 12)), tmp_path / "in" / name)
    assert len(plan_outputs(tmp_path / "in", tmp_path / "out")) == 2  # a.nii and a.mha are two files
    with pytest.raises(ScanError, match=r"a\.mha.*a\.nii would all be written here"):
        translate_paths(translator(), tmp_path / "in", tmp_path / "out", format="nii.gz")
    assert not (tmp_path / "out").exists()


# -- series with missing slices --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*not evenly spaced")
def test_a_series_with_a_gap_comes_back_with_that_gap(
    translator: Make, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_volume(cohort / "head3")
    (cohort / "head3" / "0005.dcm").unlink()
    with pytest.raises(ScanError, match=r"1 missing slice.*--resample-gaps"):
        translate_paths(translator(), cohort / "head3", tmp_path / "out")
    with pytest.warns(UserWarning, match=r"1 of 11 slices.*between 0004\.dcm and 0006\.dcm"):
        translate_paths(translator(), cohort / "head3", tmp_path / "out", resample_gaps=True)
    with pytest.raises(ScanError, match="1 missing slice"):
        read_volume(tmp_path / "out")
    with pytest.warns(UserWarning, match="1 of 11 slices"):
        result = read_volume(tmp_path / "out", resample_gaps=True)
    assert result.source["places"] == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    np.testing.assert_allclose(result.affine, whole.affine, atol=1e-6)
    body = whole.array > -500
    body[..., 4] = False
    np.testing.assert_allclose(result.array[body], whole.array[body], atol=1)

    # The command line, and a format without gaps.
    monkeypatch.setattr(Translator, "load", lambda *args, **settings: translator())
    arguments = ["translate", str(cohort / "head3"), str(tmp_path / "out.nii.gz"), "--model", "none"]
    assert isinstance(CliRunner().invoke(app, arguments).exception, ScanError)
    with pytest.warns(UserWarning, match="1 of 11 slices"):
        assert CliRunner().invoke(app, [*arguments, "--resample-gaps"]).exit_code == 0
    assert read_volume(tmp_path / "out.nii.gz").space == whole.space


# -- what a DICOM series tells ---------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path, make_ball: Make) -> Path:
    """Two CT series of one study of one patient, some HU beyond the model's window, and a NIfTI file."""
    folder = tmp_path / "study"
    volume = make_ball((12, 12, 5))
    volume.array[0, 6, 6, 2] = 9000
    for name in ("thin", "thick"):
        write_volume(volume, folder / name)
        for file in (folder / name).iterdir():
            data = pydicom.dcmread(file)
            data.PatientName, data.PatientID, data.StudyDate = "Beeblebrox^Zaphod", "QX-42", "20190607"
            data.StudyInstanceUID, data.FrameOfReferenceUID = "1.2.840.99.1", "1.2.840.99.2"
            data.save_as(file)
    write_volume(volume, folder / "other.nii.gz")
    return folder


def series(folder: Path) -> list[Any]:
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


def test_deidentified_series_of_a_study_stay_together(
    translator: Make, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Translator, "load", lambda *args, **settings: translator())
    arguments = ["translate", str(study), str(tmp_path / "out"), "--model", "none", "--deidentify"]
    with pytest.warns(UserWarning, match="clamped"):
        assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    thin, thick = series(tmp_path / "out" / "thin"), series(tmp_path / "out" / "thick")
    assert {data.PatientIdentityRemoved for data in (*thin, *thick)} == {"YES"}
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert len({str(data[keyword].value) for data in (*thin, *thick)}) == 1
    assert len({data.SeriesInstanceUID for data in (*thin, *thick)}) == 2
    for file in (tmp_path / "out").rglob("*.dcm"):
        for word in (b"Beeblebrox", b"QX-42", b"20190607", b"1.2.840.99"):
            assert word not in file.read_bytes()
    np.testing.assert_allclose(read_volume(tmp_path / "out" / "thin").affine, read_volume(study / "thin").affine)


def test_deterministic_series_have_the_same_bytes(
    translator: Make, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Translator, "load", lambda *args, **settings: translator())
    for name in ("one", "two"):
        arguments = ["translate", str(study / "thin"), str(tmp_path / name / "sct"), "--model", "none"]
        with pytest.warns(UserWarning, match="clamped"):
            done = CliRunner().invoke(app, [*arguments, "--deterministic-uids"], catch_exceptions=False)
        assert done.exit_code == 0
    files = tree(tmp_path / "one")
    assert files == tree(tmp_path / "two")
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    with pytest.warns(UserWarning, match="clamped"):
        translate_paths(translator(), study / "thin", tmp_path / "three")
    assert series(tmp_path / "three")[0].SOPInstanceUID != series(tmp_path / "one" / "sct")[0].SOPInstanceUID


def test_one_of_two_ways_with_names(translator: Make, study: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Ask for one of the two"):
        translate_paths(translator(), study, tmp_path / "out", deidentify=True, deterministic_uids=True)
    assert not (tmp_path / "out").exists()


def test_the_share_that_is_clamped_is_told(translator: Make, study: Path, tmp_path: Path) -> None:
    made = translator(preparations={"ct": Preparation(modality="ct", window=(-1000.0, 1000.0))})
    # 1 of 12 x 12 x 5 voxels.
    with pytest.warns(UserWarning, match=r"0\.139 % of the voxels were clamped to \[-1000, 1000\] HU") as caught:
        translate_paths(made, study / "thin", tmp_path / "out")
    assert sum("clamped" in str(warning.message) for warning in caught) == 1
    data = series(tmp_path / "out")[2]
    assert (data.SmallestPixelValueInSeries, data.LargestPixelValueInSeries) == (-1000, 1000)
    assert "clamped to [-1000, 1000]" in data.DerivationDescription
    assert data.pixel_array.max() == 1000
