from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medcycle.errors import ScanError
from medcycle.io import from_nibabel, read_volume
from medcycle.io.nifti import write_nifti
from medcycle.volume import Volume

AFFINE = np.array([[2.0, 0, 0, -10], [0, 3, 0, 5], [0, 0, 4, 7], [0, 0, 0, 1]])


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), AFFINE), path)
    return path


def test_reads_values_place_and_unit(good: Path) -> None:
    volume = read_volume(good, unit="HU")
    assert volume.array.shape == (1, 3, 4, 5)
    assert volume.array[0, 1, 2, 3] == 1 * 20 + 2 * 5 + 3
    assert np.array_equal(volume.affine, AFFINE)
    assert volume.unit == "HU"
    assert volume.source == {"path": str(good), "format": "nifti"}
    assert read_volume(good).unit == "a.u."


def test_applies_slope_and_intercept(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.full((2, 2, 2), 100, np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, -1024)
    nib.save(image, tmp_path / "a.nii")
    assert np.all(read_volume(tmp_path / "a.nii").array == nib.load(tmp_path / "a.nii").get_fdata())
    assert read_volume(tmp_path / "a.nii").array[0, 0, 0, 0] == pytest.approx(-974)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("micron", 0.001), ("mm", 1.0), ("unknown", 1.0)])
def test_heeds_the_length_unit(tmp_path: Path, unit: str, factor: float) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.diag((0.5, 0.5, 0.5, 1)))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").spacing == pytest.approx((0.5 * factor,) * 3)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 4), (1, 3, 4)),
        ((3, 4, 5), (1, 3, 4, 5)),
        ((3, 4, 1), (1, 3, 4, 1)),
        ((3, 4, 5, 1), (1, 3, 4, 5)),
        ((3, 4, 5, 1, 1), (1, 3, 4, 5)),
        ((3, 4, 5, 1, 2), (2, 3, 4, 5)),
    ],
)
def test_shapes(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    volume = from_nibabel(nib.Nifti1Image(data, AFFINE))
    assert volume.array.shape == expected
    plain = data.reshape((*shape[:3], -1) if len(shape) > 2 else (*shape, 1))
    assert np.array_equal(volume.array, np.moveaxis(plain, -1, 0))


def test_rgb(tmp_path: Path) -> None:
    data = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    data["G"] = 200
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    assert volume.array.shape == (3, 3, 4, 5)
    assert volume.unit == "uint8"
    assert volume.array[1].min() == 200


def test_nifti2_and_mislabelled_compression(tmp_path: Path) -> None:
    data = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    nib.save(nib.Nifti2Image(data, AFFINE), tmp_path / "two.nii")
    assert np.array_equal(read_volume(tmp_path / "two.nii").array[0], data)
    (tmp_path / "zipped.nii").write_bytes(gzip.compress((tmp_path / "two.nii").read_bytes()))
    assert np.array_equal(read_volume(tmp_path / "zipped.nii").array[0], data)


def test_neither_sform_nor_qform_takes_pixdim(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.int16), None)
    image.header.set_zooms((1.5, 2.5, 3.5))
    nib.save(image, tmp_path / "a.nii")
    header = nib.load(tmp_path / "a.nii").header
    assert (header["sform_code"], header["qform_code"]) == (0, 0)
    with pytest.warns(UserWarning, match="which side is left is a guess"):
        assert read_volume(tmp_path / "a.nii").spacing == (1.5, 2.5, 3.5)


@pytest.mark.parametrize("keep", [0, 3, 20, 60, -9, -1])
def test_truncated_gz(good: Path, keep: int) -> None:
    good.write_bytes(good.read_bytes()[:keep])
    with pytest.raises(ScanError, match=r"good\.nii\.gz.*(damaged|truncated)"):
        read_volume(good)


@pytest.mark.parametrize("keep", [100, 348, 400])
def test_truncated_plain(good: Path, keep: int) -> None:
    plain = good.with_name("a.nii")
    plain.write_bytes(gzip.decompress(good.read_bytes())[:keep])
    with pytest.raises(ScanError, match="damaged, truncated"):
        read_volume(plain)


def test_a_flipped_byte_in_a_gz_is_noticed(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), np.eye(4))
    content = bytearray(gzip.compress(image.to_bytes(), compresslevel=0))  # stored: a flip stays decodable
    content[800] ^= 0xFF
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(ScanError, match="CRC"):
        read_volume(tmp_path / "a.nii.gz")


def test_wrong_magic_and_foreign_content(good: Path, tmp_path: Path) -> None:
    content = bytearray(gzip.decompress(good.read_bytes()))
    content[344:348] = b"abc\0"
    (tmp_path / "magic.nii").write_bytes(content)
    (tmp_path / "text.nii.gz").write_bytes(b"hello, I am no scan")
    (tmp_path / "random.nii").write_bytes(np.random.default_rng(0).bytes(5000))
    for name in ("magic.nii", "text.nii.gz", "random.nii"):
        with pytest.raises(ScanError, match=name):
            read_volume(tmp_path / name)


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def test_bad_contents(tmp_path: Path) -> None:
    data = np.zeros((3, 4, 5), np.float32)
    data[1, 1, 1] = np.nan
    with pytest.raises(ScanError, match=r"nan\.nii.*1 of 60 values are NaN"):
        read_volume(save(tmp_path / "nan.nii", data))
    singular = AFFINE.copy()
    singular[:3, 1] = 0
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4))
    image.header["srow_y"], image.header["sform_code"], image.header["qform_code"] = 0, 1, 0
    broken = bytearray(image.to_bytes())
    (tmp_path / "singular.nii").write_bytes(broken)
    content = nib.Nifti1Header(bytes(broken[:348]), check=False)
    content["srow_x"], content["srow_y"], content["srow_z"] = singular[:3]
    content["sform_code"], content["qform_code"] = 1, 0
    (tmp_path / "singular.nii").write_bytes(content.binaryblock + bytes(broken[348:]))
    with pytest.raises(ScanError, match=r"singular\.nii.*singular"):
        read_volume(tmp_path / "singular.nii")
    with pytest.raises(ScanError, match=r"time\.nii.*\(3, 4, 5, 6\).*time"):
        read_volume(save(tmp_path / "time.nii", np.zeros((3, 4, 5, 6), np.float32)))
    with pytest.raises(ScanError, match=r"complex\.nii.*complex"):
        read_volume(save(tmp_path / "complex.nii", np.zeros((3, 4, 5), np.complex64)))


def test_asked_for_a_picture(good: Path, tmp_path: Path) -> None:
    assert read_volume(good, unit="uint8").unit == "uint8"
    with pytest.raises(ScanError, match=r"0 to 300.*uint8"):
        read_volume(save(tmp_path / "a.nii", np.array([[[0, 300]]], np.int16)), unit="uint8")


def test_number_types_written(tmp_path: Path) -> None:
    array = np.array([-1000.4, 0.6, 70.5, 3000.0], np.float32).reshape(1, 2, 2, 1)
    for unit, name in (("HU", "int16"), ("a.u.", "float32")):
        write_nifti(Volume(array, AFFINE, unit), tmp_path / "a.nii")
        assert nib.load(tmp_path / "a.nii").get_data_dtype() == name
    for wide in (array.clip(0) * 100, -array.clip(0) * 100):  # do not fit int16
        write_nifti(Volume(wide, AFFINE, "HU"), tmp_path / "wide.nii")
        assert nib.load(tmp_path / "wide.nii").get_data_dtype() == np.float32
        assert np.array_equal(read_volume(tmp_path / "wide.nii").array, wide)
    write_nifti(Volume(np.array([[[-4.0, 254.6, 300.0]]]), np.eye(4), "uint8"), tmp_path / "u8.nii")
    assert nib.load(tmp_path / "u8.nii").get_fdata().ravel().tolist() == [0, 255, 255]
    header = nib.load(tmp_path / "wide.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    sheared = AFFINE.copy()
    sheared[0, 2] = 1.0
    write_nifti(Volume(array, sheared), tmp_path / "sheared.nii")
    header = nib.load(tmp_path / "sheared.nii").header  # a quaternion cannot say it: no qform that disagrees
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)


def test_same_bytes_for_the_same_scan(tmp_path: Path) -> None:
    volume = Volume(np.ones((1, 2, 2, 2)), AFFINE)
    one, two = write_nifti(volume, tmp_path / "a.nii.gz"), write_nifti(volume, tmp_path / "b.nii.gz")
    assert one.read_bytes() == two.read_bytes()
