"""read_volume and write_volume themselves: choosing the format, and writes that fail leaving nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medcycle import io
from medcycle.errors import ScanError
from medcycle.io import read_volume, write_volume
from medcycle.volume import Volume

VOLUME = Volume(np.zeros((1, 3, 3, 3)), np.eye(4), "HU")
PICTURE = Volume(np.zeros((1, 3, 3)), np.diag((-1.0, -1, 1, 1)), "uint8")
NAMES = ["a.nii", "a.nii.gz", "a.mha", "a.mhd", "a.nrrd", "a.png", "a.tif", "series"]


def volume_for(name: str) -> Volume:
    return PICTURE if name.endswith((".png", ".tif")) else VOLUME


@pytest.mark.parametrize("name", NAMES)
def test_makes_the_folders_above_and_nothing_else(tmp_path: Path, name: str) -> None:
    path = write_volume(volume_for(name), tmp_path / "new" / "deep" / name)
    assert path == tmp_path / "new" / "deep" / name
    extra = {"a.raw"} if name == "a.mhd" else set()
    assert {file.name for file in path.parent.iterdir()} == {name} | extra
    assert read_volume(path).space[:2] == (3, 3)


@pytest.mark.parametrize("name", NAMES)
def test_no_place_to_write(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    for place in (tmp_path / "file" / name, tmp_path / "file" / "deep" / "er" / name):
        with pytest.raises(ScanError) as caught:
            write_volume(volume_for(name), place)
        assert str(caught.value).startswith(f"{place}: cannot be written, because {tmp_path / 'file'} is a file, not")
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize("name", NAMES)
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = write_volume(volume_for(name), tmp_path / name)
    before = {str(file): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def full(self: Path, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ScanError, match=rf"{name}: cannot be written \(No space left on device\)"):
        write_volume(volume_for(name), path)
    assert {str(file): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert {file.name for file in tmp_path.iterdir()} == {name} | ({"a.raw"} if name == "a.mhd" else set())


def test_full_disk_that_itk_does_or_does_not_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(image: Any, name: str, **options: Any) -> None:
        Path(name).write_bytes(b"short")

    def loud(image: Any, name: str, **options: Any) -> None:
        raise RuntimeError("write failed")

    for fake, reason in ((silent, "only 5 bytes"), (loud, "write failed")):
        monkeypatch.setattr(sitk, "WriteImage", fake)
        with pytest.raises(ScanError, match=rf"a\.mha: .*{reason}"):
            write_volume(VOLUME, tmp_path / "a.mha")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a.nii" / "keep").mkdir(parents=True)
    with pytest.raises(ScanError, match=r"a\.nii: already holds keep"):
        write_volume(VOLUME, tmp_path / "a.nii")
    assert (tmp_path / "a.nii" / "keep").is_dir()


def test_names(tmp_path: Path) -> None:
    for name in ("a.dcm", "a.txt", "sub-1.run-2"):
        with pytest.raises(ScanError, match="no format to write"):
            write_volume(VOLUME, tmp_path / name)
    assert write_volume(VOLUME, f"{tmp_path}/sub-1.run-2/").is_dir()
    (tmp_path / "foreign.xyz").write_text("?")
    (tmp_path / "fake.dcm").write_text("?")
    with pytest.raises(ScanError, match=r"foreign\.xyz: no scan that can be read"):
        read_volume(tmp_path / "foreign.xyz")
    with pytest.raises(ScanError, match=r"fake\.dcm: cannot be read as DICOM"):
        read_volume(tmp_path / "fake.dcm")
    with pytest.raises(ScanError, match="no such file"):
        read_volume(tmp_path / "missing.nii")
    write_volume(VOLUME, tmp_path / "a.nii")
    with pytest.raises(ScanError, match="series '3' was asked for"):
        read_volume(tmp_path / "a.nii", series="3")


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    file, folder = ((tmp_path / name).stat().st_mode for name in ("file", "folder"))
    for name in ("a.nii", "b.nii.gz", "c.mha", "d.mhd", "e.nrrd", "series"):
        written = write_volume(VOLUME, tmp_path / name)
        assert written.stat().st_mode == (folder if written.is_dir() else file)
    assert (tmp_path / "series" / "0001.dcm").stat().st_mode == file
    assert (tmp_path / "d.raw").stat().st_mode == file


def test_public_names() -> None:
    assert io.__all__ == sorted(io.__all__)
    assert all(hasattr(io, name) for name in io.__all__)
