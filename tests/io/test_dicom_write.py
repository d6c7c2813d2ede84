from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medcycle.errors import ScanError
from medcycle.io import read_volume, write_dicom_series, write_volume
from medcycle.io.dicom_record import ModelRecord
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
        named = data.ReferencedSeriesSequence[0].ReferencedInstanceSequence  # those referred to, no others
        assert [item.ReferencedSOPInstanceUID for item in named] == [original.SOPInstanceUID]
        assert "ReferencedImageSequence" not in data
        assert data.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert (data.PixelRepresentation, data.BitsStored, data.RescaleSlope, data.RescaleType) == (1, 16, 1, "HU")
        assert data.RescaleIntercept == int(data.RescaleIntercept)
        assert data.WindowCenter == 40
        assert data.SourceImageSequence[0].SpatialLocationsPreserved == "YES"
        assert [item.CodeValue for item in data.DerivationCodeSequence] == ["123110"]
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


def test_harmonized_ct_keeps_its_acquisition(tmp_path: Path, make_series: Maker) -> None:
    kept = {"KVP": 120, "WindowCenter": [60, 300]}
    kept |= {"WindowWidth": [350, 1500], "SpiralPitchFactor": 0.8}
    source = read_volume(
        make_series(
            tmp_path / "source",
            change=lambda k: {"XRayTubeCurrent": 100 + k, "Exposure": 50 + k},
            Modality="CT",
            SOPClassUID=CT_CLASS,
            RescaleSlope=1,
            RescaleIntercept=-1024,
            CTDIvol=17.0,
            **kept,
        )
    )
    assert source.unit == "HU"
    for k, data in enumerate(datasets(write_volume(source, tmp_path / "ct", like=source))):
        assert {keyword: data[keyword].value for keyword in kept} == kept
        assert (data.XRayTubeCurrent, data.Exposure) == (100 + k, 50 + k)
        assert "CTDIvol" not in data  # a dose is counted once
    coarse = source.replace(array=source.array[..., ::2], affine=source.affine @ np.diag((1.0, 1, 2, 1)))
    data = datasets(write_volume(coarse, tmp_path / "coarse", like=source))[0]
    assert "ConvolutionKernel" not in data  # a network has made it another
    assert "XRayTubeCurrent" not in data  # that of a slice which is not here
    synthetic = datasets(write_volume(source.replace(unit="a.u."), tmp_path / "mr", like=source))[0]
    assert "KVP" not in synthetic
    assert synthetic.WindowWidth != 350


def test_windows_that_do_not_pair_are_not_taken(tmp_path: Path, make_series: Maker) -> None:
    for name, values in (
        ("a", {"WindowCenter": [1, 2], "WindowWidth": 5}),
        ("b", {"WindowCenter": 1, "WindowWidth": 0}),
    ):
        made = make_series(tmp_path / name, Modality="CT", RescaleSlope=1, RescaleIntercept=0, **values)
        source = read_volume(made)
        data = datasets(write_volume(source, tmp_path / f"{name}_out", like=source))[0]
        assert (data.WindowCenter, data.WindowWidth) == (40, 400)


def test_another_grid_names_no_source_images(tmp_path: Path, source: Volume) -> None:
    coarse = source.replace(array=source.array[:, ::2], affine=source.affine @ np.diag((2.0, 1, 1, 1)))
    folder = write_volume(coarse, tmp_path / "mr", like=source)
    assert np.allclose(read_volume(folder).affine, coarse.affine, atol=1e-6)
    data = datasets(folder)[0]
    assert "SourceImageSequence" not in data
    originals = {pydicom.dcmread(file).SOPInstanceUID for file in source.source["files"]}
    series = data.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    for named in (data.ReferencedImageSequence, series):  # a reader finds all of them, as related images
        assert {item.ReferencedSOPInstanceUID for item in named} == originals
    assert data.FrameOfReferenceUID == "1.2.3.5"


def test_a_straightened_tilt_is_another_grid(tmp_path: Path, source: Volume) -> None:
    tilted = source.replace(source={**source.source, "tilt": 12.0})
    written = datasets(write_volume(tilted, tmp_path / "mr", like=tilted))
    for data in written:
        assert "SourceImageSequence" not in data
        assert len(data.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 4
        assert data.FrameOfReferenceUID == "1.2.3.5"
        assert [item.CodeValue for item in data.DerivationCodeSequence] == ["123110", "113085"]
        assert "resampled to another grid" in data.DerivationDescription


def test_like_an_enhanced_image(tmp_path: Path, make_enhanced: Callable[..., Any]) -> None:
    image = make_enhanced()
    timing, averages = pydicom.Dataset(), pydicom.Dataset()
    timing.RepetitionTime, averages.NumberOfAverages = 1234, 2
    image.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence = [timing]
    image.PerFrameFunctionalGroupsSequence[0].MRAveragesSequence = [averages]
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    source = read_volume(tmp_path / "a.dcm")
    folder = write_volume(source, tmp_path / "mr", like=source)
    read = read_volume(folder)
    assert np.array_equal(read.array, source.array)
    assert np.allclose(read.affine, source.affine)
    written = datasets(folder)
    assert {data.PatientID for data in written} == {"ID-12345"}
    assert {(data.RepetitionTime, data.NumberOfAverages) for data in written} == {(1234, 2)}
    # The frames are stored in the reverse of their order along the normal.
    assert [data.SourceImageSequence[0].ReferencedFrameNumber for data in written] == [3, 2, 1]
    assert {data.SourceImageSequence[0].ReferencedSOPInstanceUID for data in written} == {image.SOPInstanceUID}


def test_without_source_makes_a_phantom_study(tmp_path: Path) -> None:
    one, two = (datasets(write_volume(hounsfield(), tmp_path / name)) for name in ("head1", "head2"))
    assert str(one[0].PatientName) == "medcycle^unknown"
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


def test_hu_beyond_16_bits_are_clamped(tmp_path: Path) -> None:
    volume = hounsfield().replace(array=np.full((1, 2, 2, 2), 1e6))
    with pytest.warns(UserWarning, match=r"100 % of the voxels were clamped to \[-32768, 32767\] HU"):
        folder = write_volume(volume, tmp_path / "ct")
    assert read_volume(folder).array.max() == 32767
    data = datasets(folder)[0]
    assert (data.SmallestPixelValueInSeries, data.LargestPixelValueInSeries) == (32767, 32767)


@pytest.mark.parametrize(
    ("window", "beyond", "said"),
    [
        ((-1024.0, 3071.0), {0: -1024.6, 1: 3071.6, 2: 9000.0}, "1.5 % of the voxels were clamped to [-1024, 3071] HU"),
        ((-1000.4, 300.9), {5: 301.0}, "0.5 % of the voxels were clamped to [-1000, 300] HU"),
        ((-1024.0, 3071.0), {0: -1024.4, 1: 3071.4}, ""),
    ],
)
def test_hu_are_clamped_to_the_declared_range(
    tmp_path: Path, window: tuple[float, float], beyond: dict[int, float], said: str
) -> None:
    array = np.linspace(-900, 290, 200, dtype=np.float32).reshape(1, 5, 10, 4)
    for index, value in beyond.items():
        array.reshape(-1)[index] = value
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = write_dicom_series(hounsfield().replace(array=array), tmp_path / "ct", window=window)
    assert [str(one.message) for one in caught] == ([f"{folder}: {said}"] if said else [])
    low, high = int(np.ceil(window[0])), int(np.floor(window[1]))
    read = read_volume(folder).array
    assert np.array_equal(read, np.clip(np.rint(array), low, high))
    for k, data in enumerate(datasets(folder)):
        assert (data.SmallestPixelValueInSeries, data.LargestPixelValueInSeries) == (read.min(), read.max())
        assert (data.SmallestImagePixelValue, data.LargestImagePixelValue) == (read[..., k].min(), read[..., k].max())
        assert f"HU rounded to whole numbers and clamped to [{low}, {high}]" in data.DerivationDescription


def test_a_tiny_share_is_not_called_nothing(tmp_path: Path) -> None:
    array = np.zeros((1, 50, 50, 10), np.float32)
    array[0, 0, 0, 0] = 5000
    with pytest.warns(UserWarning, match=r"ct: less than 0\.01 % of the voxels"):
        write_dicom_series(hounsfield().replace(array=array), tmp_path / "ct", window=(-1024, 3071))


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


# --- What made it -----------------------------------------------------------------------------------------------------

RECORD = ModelRecord("mr_to_ct", "0123456789abcdef" * 2, "2026-11-22T07:00:00+00:00", "0.1.0")


def test_the_model_the_software_and_the_scanner_are_named(tmp_path: Path, make_series: Maker) -> None:
    scanner = {"Manufacturer": "ACME", "ManufacturerModelName": "Tube 3", "SoftwareVersions": ["a", "b"]}
    source = read_volume(make_series(tmp_path / "source", **scanner))
    folder = write_dicom_series(source, tmp_path / "mr", like=source, description="test", model=RECORD)
    data = datasets(folder)[0]
    processed, acquired = data.ContributingEquipmentSequence
    assert processed.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert (processed.Manufacturer, processed.ManufacturerModelName) == ("medcycle", "mr_to_ct")
    assert processed.SoftwareVersions[0].startswith("medcycle ")
    assert processed.SoftwareVersions[1] == f"weights {RECORD.checksum}"
    assert processed.DateOfManufacture == "20261122"
    assert len(processed.ContributionDateTime) == 14
    assert acquired.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
    assert {keyword: acquired[keyword].value for keyword in scanner} == scanner
    for text in (processed.ContributionDescription, data.DerivationDescription):
        for fact in (RECORD.name, RECORD.checksum, RECORD.created, "NOT FOR CLINICAL USE"):
            assert fact in text
    assert (data.Manufacturer, data.SoftwareVersions) == ("medcycle", processed.SoftwareVersions[0].split()[1])


def test_a_model_of_any_name(tmp_path: Path) -> None:
    record = ModelRecord("m\u00fc\\nch\n\x00" + "en" * 400, "c", "yesterday", "")
    item = datasets(write_dicom_series(hounsfield(), tmp_path / "a", model=record))[0].ContributingEquipmentSequence[0]
    assert item.ManufacturerModelName.startswith("m?/nch en")
    assert "DateOfManufacture" not in item


# --- The same bytes ---------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_deterministic_series_are_the_same_bytes(tmp_path: Path, source: Volume) -> None:
    dated = [pydicom.dcmread(file) for file in source.source["files"]]
    for data in dated:
        data.SeriesDate, data.ContentTime = "20200102", "101112"
        data.save_as(data.filename)

    def write(name: str, volume: Volume = source, like: Volume | None = source, **options: Any) -> Path:
        settings: dict[str, Any] = {"description": "d", "model": RECORD, "deterministic": True, **options}
        return write_dicom_series(volume, tmp_path / name, like=like, **settings)

    one = write("one")
    assert contents(one) == contents(write("two"))
    assert contents(one) == contents(write("one"))
    data = datasets(one)[0]
    assert (data.SeriesDate, data.ContentTime) == ("20200102", "101112")
    assert "InstanceCreationDate" not in data
    assert "ContributionDateTime" not in data.ContributingEquipmentSequence[0]
    assert data.StudyInstanceUID == "1.2.3.4"
    # Files that differ in anything are never called the same.
    other = source.array.copy()
    other[0, 0, 0, 0] += 1
    for name, changes in {
        "values": {"volume": source.replace(array=other)},
        "model": {"model": ModelRecord("mr_to_ct", "fedcba")},
        "description": {"description": "e"},
        "unit": {"volume": source.replace(unit="HU")},
        "grid": {"volume": source.replace(affine=source.affine @ np.diag((1.0, 1, 1.1, 1)))},
    }.items():
        changed = datasets(write(name, **changes))
        assert changed[0].SeriesInstanceUID != data.SeriesInstanceUID, name
        assert {d.SOPInstanceUID for d in changed}.isdisjoint({d.SOPInstanceUID for d in datasets(one)}), name
    # Without a source, too: an invented patient, called as the folder.
    bare = write("bare", like=None)
    again = write_dicom_series(source, tmp_path / "below" / "bare", description="d", model=RECORD, deterministic=True)
    assert contents(bare) == contents(again)
    assert datasets(bare)[0].StudyDate == ""
    assert all(d.SOPInstanceUID.is_valid for d in datasets(bare))


# --- Headers that hold anything ---------------------------------------------------------------------------------------


def test_copied_text_breaks_nothing(tmp_path: Path, make_series: Maker) -> None:
    hostile = {
        "PatientName": "Evil^\x1b[31mName\r\n" + "x" * 80,
        "PatientID": "../../etc/passwd\\second",
        "PatientBirthDate": "1.1.70",
        "PatientSex": "male",
        "PatientAge": "old",
        "PatientWeight": "heavy",
        "StudyDescription": "<script>alert(1)</script>\x00\n" + "y" * 80,
        "StudyID": "a very long study identifier",
        "AccessionNumber": "a\\b",
        "BodyPartExamined": "big toe!",
        "PatientPosition": "lying",
        "ScanningSequence": "SE\\WHATEVER",
        "ScanOptions": "CG\\FS",
        "EchoTime": "soon",
        "EchoTrainLength": "1.5",
        "FlipAngle": "nan",
        "SeriesNumber": "9" * 12,
        "SpecificCharacterSet": "KLINGON",
        "AcquisitionDate": "never",
        "Manufacturer": "",
        "SeriesDescription": "../../../tmp/owned",
    }
    folder = make_series(tmp_path / "source")
    with warnings.catch_warnings(action="ignore"):
        for file in folder.iterdir():
            data = pydicom.dcmread(file)
            for keyword, value in hostile.items():
                raw = value.encode() + b" " * (len(value.encode()) % 2)
                tag, vr = pydicom.tag.Tag(keyword), pydicom.datadict.dictionary_VR(keyword)
                data[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(raw), raw, 0, False, True)
            data.save_as(file)
        source = read_volume(folder)
    for unit in ("a.u.", "HU"):
        with warnings.catch_warnings(action="error"):
            written = write_volume(source.replace(unit=unit), tmp_path / unit[0], like=source)
        data = datasets(written)[0]
        assert str(data.PatientName) == "Evil^ [31mName " + "x" * 49
        assert data.PatientID == "../../etc/passwd second"
        assert data.StudyDescription == ("<script>alert(1)</script> " + "y" * 80)[:64]
        for keyword in ("PatientBirthDate", "PatientSex"):
            assert data[keyword].value == ""
        for keyword in ("PatientAge", "PatientWeight", "AcquisitionDate", "BodyPartExamined", "FlipAngle"):
            assert keyword not in data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["H", "a", "source"]


def test_sources_without_names_are_not_referred_to(tmp_path: Path, make_series: Maker) -> None:
    source = read_volume(make_series(tmp_path / "source", StudyInstanceUID="", FrameOfReferenceUID=""))
    nameless = [pydicom.dcmread(file) for file in source.source["files"]]
    for data in nameless:
        del data.SOPInstanceUID
        data.save_as(data.filename)
    written = datasets(write_volume(source, tmp_path / "out", like=source))
    for keyword in ("SourceImageSequence", "ReferencedImageSequence", "ReferencedSeriesSequence"):
        assert keyword not in written[0]
    assert len({(d.StudyInstanceUID, d.FrameOfReferenceUID) for d in written}) == 1
    assert written[0].StudyInstanceUID.is_valid


def test_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = write_volume(hounsfield(), tmp_path / ("B\u00f6se\\ \n\udce4" + "z" * 90))
    assert datasets(folder)[0].PatientID == "B\u00f6se/ " + "z" * 57


@pytest.mark.parametrize("value", [-1.234567890123e-101, 1 / 3, -1e9 / 7, 12.0, -0.0, 5e-324, -123456789.123456])
def test_decimal_strings_have_sixteen_characters_at_most(value: float) -> None:
    from medcycle.io.dicom_dataset import _decimal

    text = _decimal(value)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, rel=1e-7)
