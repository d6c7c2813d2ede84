from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset

from medcycle.errors import ScanError
from medcycle.io import read_volume
from medcycle.io.dicom_series import is_dicom
from medcycle.volume import Volume

Maker = Callable[..., Path]
LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
HU = {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU", "Modality": "CT"}


def by_simpleitk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array (i, j, k) and RAS affine of SimpleITK's own reading of a folder."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(), LPS @ affine


def agrees(volume: Volume, folder: Path) -> None:
    array, affine = by_simpleitk(folder)
    assert np.allclose(volume.affine, affine, rtol=0, atol=1e-4)
    assert np.array_equal(volume.array[0], array)


def test_series(tmp_path: Path, make_series: Maker) -> None:
    folder = make_series(tmp_path / "series")
    volume = read_volume(folder)
    assert volume.array.shape == (1, 5, 4, 4)
    assert volume.array[0, 3, 2, 1] == 100 + 20 + 3  # column 3, row 2, slice 1
    # 0.75 mm between columns, 0.5 between rows, 2.5 by the positions although Slice Thickness says 9.
    expected = [[-0.75, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]]
    assert np.allclose(volume.affine, expected)
    assert volume.unit == "a.u."
    assert volume.source["format"] == "dicom"
    assert volume.source["modality"] == "MR"
    assert [Path(file).name for file in volume.source["files"]] == ["s99.dcm", "s98.dcm", "s97.dcm", "s96.dcm"]
    assert "Secret" not in repr(volume.source)
    agrees(volume, folder)


@pytest.mark.parametrize("seed", range(4))
def test_oblique_and_reversed(tmp_path: Path, make_series: Maker, seed: int) -> None:
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    normal = np.cross(axes[:, 0], axes[:, 1])
    step = 3.1 * (-1) ** seed  # instance numbers against the normal too

    def place(k: int) -> dict[str, Any]:
        return {"ImagePositionPatient": [f"{value:.9f}" for value in (12, -34, 56) + normal * step * k]}

    orientation = [f"{value:.12f}" for value in (*axes[:, 0], *axes[:, 1])]
    folder = make_series(tmp_path / "series", change=place, ImageOrientationPatient=orientation)
    volume = read_volume(folder)
    assert volume.spacing == pytest.approx((0.75, 0.5, 3.1))
    first = 0 if step > 0 else 3
    assert volume.array[0, 0, 0, 0] == 100 * first
    agrees(volume, folder)


def test_rescale_of_each_slice(tmp_path: Path, make_series: Maker) -> None:
    def change(k: int) -> dict[str, Any]:
        return {"RescaleSlope": k + 1, "RescaleIntercept": -1000 * k}

    folder = make_series(tmp_path / "ct", change=change, Modality="CT", RescaleType="HU")
    volume = read_volume(folder)
    assert volume.unit == "HU"
    assert volume.array[0, 3, 2].tolist() == [(100 * k + 23) * (k + 1) - 1000 * k for k in range(4)]


def test_monochrome1(tmp_path: Path, make_series: Maker) -> None:
    dark = make_series(tmp_path / "mr", PhotometricInterpretation="MONOCHROME1")
    assert read_volume(dark).array[0, 3, 2, 1] == 4095 - 123
    ct = make_series(tmp_path / "ct", PhotometricInterpretation="MONOCHROME1", **HU)  # HU stay HU, shown dark or bright
    assert read_volume(ct).array[0, 3, 2, 1] == 123 - 1024


def test_units(tmp_path: Path, make_series: Maker) -> None:
    ct = make_series(tmp_path / "ct", **HU)
    assert read_volume(ct).unit == read_volume(ct, unit="HU").unit == "HU"
    assert read_volume(ct, unit="a.u.").unit == "a.u."
    raw = make_series(tmp_path / "raw", Modality="CT")
    assert read_volume(raw).unit == "a.u."
    silent = make_series(tmp_path / "silent", Modality="CT", RescaleSlope=1, RescaleIntercept=0)
    assert read_volume(silent).unit == "HU"
    density = make_series(tmp_path / "density", **{**HU, "RescaleType": "ED"})  # electron density
    assert read_volume(density).unit == "a.u."
    mr = make_series(tmp_path / "mr")
    for folder, reason in ((raw, "absent, no rescale"), (mr, "Modality MR"), (density, "Type ED")):
        with pytest.raises(ScanError, match=f"HU asked for.*{reason}"):
            read_volume(folder, unit="HU")
    with pytest.raises(ScanError, match="uint8"):
        read_volume(mr, unit="uint8")
    with pytest.raises(ScanError, match="unit 'hu'"):
        read_volume(mr, unit="hu")


def test_single_slice(tmp_path: Path, make_series: Maker) -> None:
    folder = make_series(tmp_path / "one", 1)
    volume = read_volume(folder / "s99.dcm")
    assert volume.space == (5, 4, 1)
    assert volume.spacing == (0.75, 0.5, 9.0)


def test_foreign_files_and_localizers_are_passed_over(tmp_path: Path, make_series: Maker) -> None:
    folder = make_series(tmp_path / "series")
    make_series(folder, 1, prefix="l", series="1.2.9", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (folder / "notes.txt").write_text("hello")
    (folder / ".DS_Store").write_bytes(b"x" * 200)
    report = {"Modality": "SR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.22"}
    make_series(folder, 1, prefix="sr", series="1.2.10", **report, Rows=None, Columns=None, PixelData=None)
    with pytest.warns(
        UserWarning, match=r"2 of 6 .* passed over: 1 without an image \(SR\) \(sr99\.dcm\), 1 localizer"
    ):
        assert read_volume(folder).space == (5, 4, 4)


def test_several_series_are_listed_without_the_patient(tmp_path: Path, make_series: Maker) -> None:
    folder = make_series(tmp_path / "series")
    make_series(folder, 3, prefix="t", series="1.2.840.99.777777777777", SeriesNumber=8, SeriesDescription="T1 COR")
    with pytest.raises(ScanError) as caught:
        read_volume(folder)
    message = str(caught.value)
    for part in (
        str(folder),
        "2 DICOM series",
        "number 7: MR 'T2 AX', 4 files",
        "'T1 COR', 3 files",
        "...777777777777",
    ):
        assert part in message
    assert "Secret" not in message
    assert "12345" not in message
    for wanted, slices in (("7", 4), ("t1 cor", 3), ("1.2.840.99.777777777777", 3), ("7777", 3), ("T2 AX", 4)):
        assert read_volume(folder, series=wanted).space[2] == slices
    with pytest.raises(ScanError, match="no DICOM series match '9'"):
        read_volume(folder, series="9")
    make_series(folder, 2, prefix="u", series="1.2.840.55", SeriesNumber=8)
    with pytest.raises(ScanError, match="2 DICOM series match '8'"):
        read_volume(folder, series="8")


def test_missing_slices(tmp_path: Path, make_series: Maker) -> None:
    folder = make_series(tmp_path / "gap", [0, 1, 2, 4, 5, 8])
    with pytest.raises(
        ScanError, match=r"3 missing slice.*2\.500 mm apart, but 5\.000 mm between s97\.dcm and s95\.dcm"
    ):
        read_volume(folder)


def test_doubled_slices(tmp_path: Path, make_series: Maker) -> None:
    folder = make_series(tmp_path / "twice")
    make_series(folder, 4, prefix="t", EchoTime=90)
    with pytest.raises(ScanError, match=r"4 of 8 slices lie where another one lies.*differ in EchoTime"):
        read_volume(folder)


def test_phases_of_the_heart(tmp_path: Path, make_series: Maker) -> None:
    folder = make_series(tmp_path / "cine", TriggerTime=0)
    make_series(folder, 4, prefix="t", TriggerTime=35.5)
    with pytest.raises(ScanError, match=r"They differ in TriggerTime \(0\.0, 35\.5\): separate them by that"):
        read_volume(folder)


def test_uneven_positions(tmp_path: Path, make_series: Maker) -> None:
    def place(heights: list[float]) -> Callable[[int], dict[str, Any]]:
        return lambda k: {"ImagePositionPatient": [-10, -20, heights[k]]}

    with pytest.raises(ScanError, match="not evenly spaced"):
        read_volume(make_series(tmp_path / "a", 4, change=place([0, 2.5, 5.9, 8.4])))
    rounded = read_volume(make_series(tmp_path / "b", 5, change=place([0, 0.6, 1.3, 1.9, 2.5])))  # 0.625, one decimal
    assert rounded.spacing[2] == pytest.approx(0.625)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("Rows", 2),
        ("PixelSpacing", [0.5, 0.8]),
        ("ImageOrientationPatient", [0, 1, 0, -1, 0, 0]),
        ("FrameOfReferenceUID", "1.2.3.6"),
        ("StudyInstanceUID", "1.2.3.7"),
        ("Modality", "CT"),
    ],
)
def test_mixed_slices(tmp_path: Path, make_series: Maker, keyword: str, value: object) -> None:
    folder = make_series(tmp_path / "mixed", change=lambda k: {keyword: value} if k == 2 else {})
    with pytest.raises(ScanError, match=rf"differ in {keyword}.*s97\.dcm"):
        read_volume(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"PixelData": None}, "without pixel data"),
        ({"PixelData": b"\0" * 10}, "cannot be read as DICOM pixels"),
        ({"ImagePositionPatient": None}, r"no usable Image Position \(Patient\),"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "at right angles"),
        ({"PixelSpacing": [0, 0.5]}, "positive spacing"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "Rescale Slope"),
        ({"RescaleIntercept": 0}, "Rescale Slope"),
        ({"Rows": None}, "an MR image without an image"),
        ({"Rows": None, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.66"}, r"2 without an image \(MR\)"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, r"2 localizer\(s\)"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour image"),
        ({"NumberOfFrames": 2}, "2 frames that say nothing of their places"),
    ],
)
def test_unusable_images(tmp_path: Path, make_series: Maker, changes: dict[str, Any], reason: str) -> None:
    folder = make_series(tmp_path / "bad", 2, **changes)
    with pytest.raises(ScanError, match=reason):
        read_volume(folder)


def test_undecodable_syntax_is_named(tmp_path: Path, make_slice: Callable[..., Any]) -> None:
    data = make_slice(0, "1.2.3")
    path = tmp_path / "a.dcm"
    data.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    mpeg = b"1.2.840.10008.1.2.4.100"  # MPEG2: no decoder for it
    plain = b"1.2.840.10008.1.2.1\0"
    header = content.replace(b"UI" + len(plain).to_bytes(2, "little") + plain, b"UI\x18\0" + mpeg + b"\0")
    group = header.index(b"\x02\0\0\0UL") + 8
    length = int.from_bytes(header[group : group + 4], "little") + len(mpeg) + 1 - len(plain)
    path.write_bytes(header[:group] + length.to_bytes(4, "little") + header[group + 4 :])
    with pytest.raises(ScanError, match=r"a\.dcm: cannot be read as DICOM pixels \(MPEG2"):
        read_volume(path)


def test_damaged_files(tmp_path: Path, make_series: Maker) -> None:
    folder = make_series(tmp_path / "series")
    content = (folder / "s97.dcm").read_bytes()
    for part in (b"", b"hello", content[:100], content[: len(content) // 2], content[:-7]):
        (folder / "s97.dcm").write_bytes(part)
        with pytest.raises(ScanError, match=str(folder)):
            read_volume(folder)


def test_wrong_folders(tmp_path: Path, make_series: Maker) -> None:
    make_series(tmp_path / "study/t1")
    make_series(tmp_path / "study/t2")
    with pytest.raises(ScanError, match=r"no DICOM files directly in this folder; give one of.*: t1, t2"):
        read_volume(tmp_path / "study")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match="no DICOM files directly"):
        read_volume(tmp_path / "empty")
    with pytest.raises(ScanError, match="no such file"):
        read_volume(tmp_path / "missing")


def test_without_preamble(tmp_path: Path, make_slice: Callable[..., Any]) -> None:
    data = make_slice(1, "1.2.3")
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    content = (tmp_path / "a.dcm").read_bytes()
    expected = read_volume(tmp_path / "a.dcm").array
    bare = make_slice(1, "1.2.3")
    for implicit in (True, False):
        del bare.file_meta
        bare.save_as(tmp_path / f"bare{implicit}", implicit_vr=implicit, little_endian=True)
        assert is_dicom(tmp_path / f"bare{implicit}")
        assert np.array_equal(read_volume(tmp_path / f"bare{implicit}").array, expected)
        bare = make_slice(1, "1.2.3")
    (tmp_path / "nopreamble").write_bytes(content[132:])
    assert np.array_equal(read_volume(tmp_path / "nopreamble").array, expected)
    assert not is_dicom(tmp_path)


def test_enhanced(tmp_path: Path, make_enhanced: Callable[..., Any]) -> None:
    make_enhanced().save_as(tmp_path / "a.dcm", enforce_file_format=True)
    volume = read_volume(tmp_path / "a.dcm")
    assert volume.spacing == (0.75, 0.5, 2.5)
    stored = np.arange(60).reshape(3, 4, 5)
    expected = np.stack(
        [stored[f].T * (f + 1) + 5 for f in (2, 1, 0)], axis=-1
    )  # frames turned to lie along the normal
    assert np.array_equal(volume.array[0], expected)
    assert volume.affine[:3, 3].tolist() == [10, 20, 25]
    assert volume.source["files"] == [str(tmp_path / "a.dcm")] * 3
    make_enhanced(NumberOfFrames=2).save_as(tmp_path / "b.dcm", enforce_file_format=True)
    with pytest.raises(ScanError, match=r"b\.dcm: says it has 2 frames, but describes 3"):
        read_volume(tmp_path / "b.dcm")


def test_enhanced_with_several_images_at_each_place(tmp_path: Path, make_enhanced: Callable[..., Any]) -> None:
    def mark(sequence: str, keyword: str, values: list[Any], name: str) -> Path:
        data = make_enhanced(4)
        for group, value, height in zip(data.PerFrameFunctionalGroupsSequence, values, (0, 0, 2.5, 2.5), strict=True):
            item = Dataset()
            setattr(item, keyword, value)
            setattr(group, sequence, [item])
            group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, height]
        data.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    for sequence, keyword, values in (
        ("FrameContentSequence", "TemporalPositionIndex", [1, 2, 1, 2]),
        ("MRDiffusionSequence", "DiffusionBValue", [0.0, 1000.0, 0.0, 1000.0]),
        ("MREchoSequence", "EffectiveEchoTime", [10.0, 90.0, 10.0, 90.0]),
        ("CTReconstructionSequence", "ConvolutionKernel", ["B30f", "B70f", "B30f", "B70f"]),
    ):
        path = mark(sequence, keyword, values, f"{keyword}.dcm")
        with pytest.raises(
            ScanError, match=rf"2 of 4 slices lie where another.*\(frame 1\).*They differ in {keyword} \("
        ):
            read_volume(path)
    stacks = mark("FrameContentSequence", "StackID", ["1", "1", "2", "2"], "stacks.dcm")
    with pytest.raises(ScanError, match=r"differ in StackID: 1 in stacks.dcm \(frame 1\), 2 in stacks.dcm \(frame 3\)"):
        read_volume(stacks)


def test_the_other_images_of_a_series_are_passed_over(tmp_path: Path, make_series: Maker) -> None:
    folder = make_series(tmp_path / "series")
    capture = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "ImagePositionPatient": None}
    make_series(folder, 1, prefix="sc", series="1.2.11", **capture)
    make_series(folder, 1, prefix="save", ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"])
    make_series(folder, 2, prefix="mip", ImageType=["DERIVED", "PRIMARY", "MIP"])
    make_series(folder, 1, prefix="sec", ImageType=["DERIVED", "SECONDARY", "OTHER"])
    make_series(folder, 1, prefix="dose", series="1.2.12", SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2")
    make_series(folder, 1, prefix="scout", series="1.2.13", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    said = (
        r"7 of 11 DICOM files are no slices of the scan and were passed over: 1 RT Dose \(dose99\.dcm\), 1 localizer"
        r".*, 2 screenshot.*\(save99\.dcm, sc99\.dcm\), 2 reformat.*, 1 derived image.* \(sec99\.dcm\)"
    )
    with pytest.warns(UserWarning, match=said) as caught:
        volume = read_volume(folder)
    assert len(caught) == 1
    assert volume.space == (5, 4, 4)
    assert all(Path(file).name.startswith("s9") for file in volume.source["files"])


def test_a_whole_series_of_reformats_is_a_scan(tmp_path: Path, make_series: Maker) -> None:
    for kind in (
        ["DERIVED", "SECONDARY", "MPR"],
        ["DERIVED", "SECONDARY", "AXIAL"],
        ["ORIGINAL", "SECONDARY", "OTHER"],
    ):
        assert read_volume(make_series(tmp_path / kind[2], ImageType=kind)).space == (5, 4, 4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, "RT Dose"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "Segmentation"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.30"}, "Parametric Map"),
        ({"Modality": "RTDOSE"}, "RT Dose"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "Siemens mosaic"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "PixelSpacing": None}, "a secondary capture with no usable"),
    ],
)
def test_what_is_no_scan_is_named(tmp_path: Path, make_series: Maker, changes: dict[str, Any], reason: str) -> None:
    folder = make_series(tmp_path / "other", 2, **changes)
    for path in (folder, folder / "s99.dcm"):
        with pytest.raises(ScanError, match=reason):
            read_volume(path)


@pytest.mark.shared_data
def test_real_ct_kernels_share_their_grid(shared_data: Path) -> None:
    volumes = []
    for name in ("ct-standard-kernel", "ct-bone-kernel"):
        folder = shared_data / "dicom" / name
        volume = read_volume(folder)
        assert volume.unit == "HU"
        assert volume.space == (512, 512, 24)
        agrees(volume, folder)
        volumes.append(volume)
    assert np.array_equal(volumes[0].affine, volumes[1].affine)


@pytest.mark.shared_data
def test_real_mr(shared_data: Path, tmp_path: Path) -> None:
    # Both MR series lack a slice: between instances 34 and 36 here, which halves make a scan each.
    with pytest.raises(ScanError, match=r"1 missing slice.*5\.000 mm between 033\.dcm and 034\.dcm"):
        read_volume(shared_data / "dicom" / "mr-t2")
    for name, numbers in (("lower", range(34)), ("upper", range(34, 55))):
        (tmp_path / name).mkdir()
        for number in numbers:
            (tmp_path / name / f"{number:03d}").symlink_to(shared_data / "dicom" / "mr-t2" / f"{number:03d}.dcm")
        volume = read_volume(tmp_path / name)
        assert volume.spacing == pytest.approx((0.4296875, 0.4296875, 2.5), abs=1e-4)
        agrees(volume, tmp_path / name)
    with pytest.raises(ScanError, match=r"1 missing slice.*2\.000 mm between 113\.dcm and 114\.dcm"):
        read_volume(shared_data / "dicom" / "mr-t1-missing-slices")
