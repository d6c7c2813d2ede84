from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medcycle.errors import ConfigError, ModelError, ScanError
from medcycle.inference import Translator, translate_paths
from medcycle.inference.residuals import plan_residuals
from medcycle.io import read_volume, write_volume

Make = Callable[..., Any]


@pytest.fixture
def both(translator: Make) -> Translator:
    made: Translator = translator("ct", "mr")
    made.opposite = translator("mr", "ct")
    return made


@pytest.fixture
def tree(tmp_path: Path, make_ball: Make) -> Path:
    """p1/CT.nii.gz, p2/CT.mha, p3 (DICOM)."""
    folder = tmp_path / "in"
    for name in ("p1/CT.nii.gz", "p2/CT.mha", "p3"):
        write_volume(make_ball((12, 12, 12)), folder / name)
    return folder


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("_residual", ["out/p1/CT_residual.nii.gz", "out/p2/CT_residual.mha", "out/p3_residual.nii.gz"]),
        ("maps", ["maps/p1/CT.nii.gz", "maps/p2/CT.mha", "maps/p3.nii.gz"]),
        ("maps.1/", ["maps.1/p1/CT.nii.gz", "maps.1/p2/CT.mha", "maps.1/p3.nii.gz"]),
        ("./_maps", ["_maps/p1/CT.nii.gz", "_maps/p2/CT.mha", "_maps/p3.nii.gz"]),
    ],
)
def test_a_tree_of_scans(
    both: Translator, tree: Path, monkeypatch: pytest.MonkeyPatch, asked: str, names: list[str]
) -> None:
    monkeypatch.chdir(tree.parent)
    assert len(translate_paths(both, "in", "out", residual=asked)) == 3
    found = sorted(str(path) for path in Path().rglob("*") if path.is_file() and path.parts[0] not in ("in",))
    others = {"out/p1/CT.nii.gz", "out/p2/CT.mha"} | {f"out/p3/{n + 1:04d}.dcm" for n in range(12)}
    assert set(found) - others == {str(Path(name)) for name in names}
    for name, source in zip(names, ("p1/CT.nii.gz", "p2/CT.mha", "p3"), strict=True):
        made, scan = read_volume(name, unit="HU"), read_volume(tree / source, unit="HU")
        np.testing.assert_allclose(made.affine, scan.affine, atol=1e-4)
        assert made.space == scan.space
        assert abs(made.array).max() <= 1  # identity both ways


@pytest.mark.parametrize(
    ("out", "asked", "name"),
    [
        ("sct.nii.gz", "_r", "sct_r.nii.gz"),
        ("a/sct.nrrd", "_r", "a/sct_r.nrrd"),
        ("series", "_r", "series_r.nii.gz"),
        ("series.v2/", "_r", "series.v2_r.nii.gz"),
        ("a/sct.mha", "maps", "maps/sct.mha"),
        ("a/sct.mha", "b/r.nii.gz", "b/r.nii.gz"),
        ("series", "maps", "maps/series.nii.gz"),
    ],
)
def test_one_scan(
    both: Translator, make_ball: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, asked: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_volume(make_ball((10, 10, 10)), "in.nii.gz")
    translate_paths(both, "in.nii.gz", out, residual=asked)
    assert read_volume(name, unit="HU").space == (10, 10, 10)
    assert Path(out).exists()
    with pytest.raises(ScanError, match="already there"):
        translate_paths(both, "in.nii.gz", out, residual=asked)
    translate_paths(both, "in.nii.gz", out, residual=asked, overwrite=True)


def test_of_a_dicom_series_to_a_dicom_series(both: Translator, tree: Path, tmp_path: Path) -> None:
    told: list[str] = []
    translate_paths(both, tree / "p3", tmp_path / "sct", residual="_r", tell=lambda name, _: told.append(name))
    assert told == ["p3"]
    made, scan = read_volume(tmp_path / "sct_r.nii.gz", unit="HU"), read_volume(tree / "p3")
    np.testing.assert_allclose(made.affine, scan.affine, atol=1e-4)
    assert len(list((tmp_path / "sct").iterdir())) == 12


def test_pictures_stay_pictures(translator: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = translator("photo", "photo")
    made.opposite = translator("photo", "photo")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)).save("a.png")
    told: list[str] = []
    translate_paths(made, "a.png", "b.png", residual="_r", tell=lambda name, _: told.append(name))
    assert np.asarray(Image.open("b_r.png")).shape == (9, 14, 3)
    assert told == []
    with pytest.raises(ConfigError, match="--quality: pictures have no body"):
        translate_paths(made, "a.png", "c.png", quality="q.csv")


def test_what_cannot_be_is_refused_before_anything_is_done(
    both: Translator, translator: Make, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for source, asked, error, message in (
        ("in", "map.nii.gz", ConfigError, "one file's name for 3 scans. Name a folder, or what to add"),
        ("in/p1/CT.nii.gz", "map.xyz", ConfigError, "--residual map.xyz: residual maps are written as .nii, .nii.gz"),
        ("in/p1/CT.nii.gz", "map.jpg", ConfigError, "--residual map.jpg: residual maps are written as .nii, .nii.gz"),
        ("in/p1/CT.nii.gz", "_r.nii.gz", ConfigError, "For a folder or file of that name: ./_r.nii.gz"),
        ("in/p1/CT.nii.gz", "out.mha", ScanError, "would all be written here"),
        ("in/p1/CT.nii.gz", "in/p1/CT.nii.gz", ScanError, "the scan itself"),
    ):
        with pytest.raises(error) as caught:
            translate_paths(both, source, "out.mha" if source != "in" else "out", residual=asked)
        assert message in str(caught.value)
    with pytest.raises(ModelError, match="no opposite model"):
        translate_paths(translator(), "in", "out", residual="_r")
    shutil.copy("in/p1/CT.nii.gz", "clip.mp4")
    with pytest.raises(ConfigError, match=r"clip\.mp4: residual maps are made of scans and pictures, not of videos"):
        plan_residuals(both, [(Path("clip.mp4"), "out.mp4")], "out.mp4", "_r")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "clip.mp4"}


def test_a_4d_file_is_refused_and_the_others_go_on(both: Translator, tree: Path, tmp_path: Path) -> None:
    import nibabel as nib

    four = np.stack([read_volume(tree / "p1" / "CT.nii.gz").array[0]] * 2, axis=-1)
    nib.save(nib.Nifti1Image(four.astype(np.int16), np.diag([-2.0, -2, 3, 1])), tree / "time.nii.gz")
    with pytest.raises(ScanError, match=r"1 of 4 inputs.*\n.*time\.nii\.gz: holds 2 volumes in time"):
        translate_paths(both, tree, tmp_path / "out", residual="_r")
    assert (tmp_path / "out" / "p1" / "CT_r.nii.gz").is_file()
    told: list[str] = []
    translate_paths(both, tree / "time.nii.gz", tmp_path / "t.nii.gz", tell=lambda name, _: told.append(name))
    assert told == []


def test_scans_of_one_name_are_told_apart(both: Translator, tree: Path, tmp_path: Path) -> None:
    shutil.move(tree / "p2" / "CT.mha", tmp_path)
    shutil.copytree(tree / "p1", tree / "p4")
    told: list[tuple[str, str]] = []
    quality = tmp_path / "q.csv"
    translate_paths(
        both, tree, tmp_path / "out", quality=quality, tell=lambda name, found: told.append((name, found.judgement))
    )
    assert told == [(f"{tree}/p1/CT.nii.gz", "unknown"), ("p3", "unknown"), (f"{tree}/p4/CT.nii.gz", "unknown")]
    assert len(quality.read_text().splitlines()) == 4


def test_a_quality_file_that_is_an_output_is_refused(both: Translator, tree: Path, tmp_path: Path) -> None:
    scan, out = tree / "p1" / "CT.nii.gz", tmp_path / "sct.nii.gz"
    for asked in ({"quality": out}, {"quality": tmp_path / "sct_r.nii.gz", "residual": "_r"}):
        with pytest.raises(ConfigError, match=r"--quality .*: a translation goes there"):
            translate_paths(both, scan, out, **asked)
    assert not out.exists()


def test_a_quality_file_that_cannot_be_written_stops(both: Translator, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ScanError, match=r"q\.csv: cannot be .*file"):
        translate_paths(both, tree, tmp_path / "out", quality=tmp_path / "file" / "q.csv")
    (tmp_path / "closed").mkdir(mode=0o500)
    if not os.access(tmp_path / "closed", os.W_OK):  # not for root
        with pytest.raises(ScanError, match=r"q\.csv: cannot be written"):
            translate_paths(both, tree, tmp_path / "out", quality=tmp_path / "closed" / "q.csv")
