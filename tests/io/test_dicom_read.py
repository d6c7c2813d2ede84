from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

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
    make_series(folder, 1, prefix="sr", series="1.2.10", Modality="SR", Rows=None, Columns=None, PixelData=None)
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
    with pytest.raises(ScanError, match=r"They differ in TriggerTime: separate them by that"):
        read_volume(folder)


def test_uneven_positions(tmp_path: Path, make_series: Maker) -> None:
    def place(heights: list[float]) -> Callable[[int], dict[str, Any]]:
        return lambda k: {"ImagePositionPatient": [-10, -20, heights[k]]}

    with pytest.raises(ScanError, match="not evenly spaced"):
        read_volume(make_series(tmp_path / "a", 4, change=place([0, 2.5, 5.9, 8.4])))
    rounded = read_volume(make_series(tmp_path / "b", 5, change=place([0, 0.6, 1.3, 1.9, 2.5])))  # 0.625, one decimal
    assert rounded.spacing[2] == pytest.approx(0.625)


def test_gantry_tilt(tmp_path: Path, make_series: Maker) -> None:
    def place(k: int) -> dict[str, Any]:
        return {"ImagePositionPatient": [-10, -20 + 0.5 * k, 30 + 2.5 * k]}

    folder = make_series(tmp_path / "tilt", change=place, GantryDetectorTilt=11.3)
    with pytest.raises(ScanError, match=r"shifted sideways.*11\.3 degrees; Gantry/Detector Tilt says 11\.3"):
        read_volume(folder)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("Rows", 2),
        ("PixelSpacing", [0.5, 0.8]),
        ("ImageOrientationPatient", [0, 1, 0, -1, 0, 0]),
        ("FrameOfReferenceUID", "1.2.3.6"),
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
        ({"Rows": None}, r"without an image \(modality MR\)"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "only localizers"),
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


def test_every_file_pydicom_ships_is_read_or_refused(pydicom_files: list[Path]) -> None:
    read, refused = [], []
    for file in pydicom_files:
        try:
            volume = read_volume(file)
        except ScanError as error:
            refused.append((file, str(error)))
            continue
        read.append(file.name)
        assert volume.source["format"] == "dicom"
    assert {"CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "693_J2KI.dcm"} <= set(read)
    assert all(str(file) in message for file, message in refused)
    # One MR slice in eight encodings must be one image.
    same = [read_volume(f).array for f in pydicom_files if f.name.startswith("MR_small") and f.name in read]
    assert len(same) >= 6
    assert all(np.array_equal(array, same[0]) for array in same)


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
