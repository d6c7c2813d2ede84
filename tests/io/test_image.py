from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from PIL import Image

from medcycle.errors import ScanError
from medcycle.io import read_volume, write_volume
from medcycle.volume import Volume

LPS = np.diag((-1.0, -1.0, 1.0, 1.0))


def pixels(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_exact_there_and_back(tmp_path: Path, suffix: str, dtype: str, channels: int) -> None:
    array = pixels((channels, 7, 5), dtype)
    volume = Volume(array, LPS, dtype)
    path = tmp_path / f"a{suffix}"
    if suffix == ".bmp" and dtype == "uint16":
        with pytest.raises(ScanError, match="8 bits"):
            write_volume(volume, path)
        return
    write_volume(volume, path)
    read = read_volume(path)
    assert read.unit == dtype
    assert np.array_equal(read.array, array)
    assert np.array_equal(read.affine, LPS)
    assert list(tmp_path.iterdir()) == [path]
    if suffix == ".bmp":  # ITK makes grey BMP colour
        return
    other = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))  # (row, column[, channel])
    assert np.array_equal(other.reshape(5, 7, channels), array.transpose(2, 1, 0))


def test_axes_are_those_of_a_picture(tmp_path: Path) -> None:
    picture = np.zeros((5, 7), np.uint8)
    picture[4, 1] = 9  # row 4, column 1
    Image.fromarray(picture).save(tmp_path / "a.png")
    volume = read_volume(tmp_path / "a.png")
    assert volume.array.shape == (1, 7, 5)
    assert volume.array[0, 1, 4] == 9


def test_modes_of_pillow(tmp_path: Path) -> None:
    grey = pixels((5, 7), "uint8")
    opaque = np.dstack([pixels((5, 7, 3), "uint8"), np.full((5, 7), 255, np.uint8)])
    Image.fromarray(grey > 100).save(tmp_path / "bilevel.png")
    Image.fromarray(grey).convert("RGB").quantize(8).save(tmp_path / "palette.png")
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    Image.fromarray(grey).convert("LA").save(tmp_path / "la.png")
    Image.fromarray(opaque[..., :3]).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert set(np.unique(read_volume(tmp_path / "bilevel.png").array)) == {0, 255}
    assert read_volume(tmp_path / "palette.png").channels == 3
    assert np.array_equal(read_volume(tmp_path / "opaque.png").array, opaque[..., :3].transpose(2, 1, 0))
    assert np.array_equal(read_volume(tmp_path / "la.png").array[0], grey.T)
    assert read_volume(tmp_path / "cmyk.jpg").channels == 3
    opaque[2, 2, 3] = 254
    Image.fromarray(opaque).save(tmp_path / "clear.png")
    with pytest.raises(ScanError, match=r"clear\.png.*transparent"):
        read_volume(tmp_path / "clear.png")


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels((4, 8), "uint8")).save(tmp_path / "a.jpg", exif=exif)
    assert read_volume(tmp_path / "a.jpg").space == (4, 8)


def test_tiff_kinds(tmp_path: Path) -> None:
    signed = np.arange(-6, 6, dtype=np.int16).reshape(3, 4)
    tifffile.imwrite(tmp_path / "signed.tif", signed)
    assert read_volume(tmp_path / "signed.tif").unit == "a.u."
    volume = read_volume(tmp_path / "signed.tif", unit="HU")
    assert volume.unit == "HU"
    assert np.array_equal(volume.array[0], signed.T)
    tifffile.imwrite(tmp_path / "white.tif", pixels((3, 4), "uint8"), photometric="miniswhite")
    assert np.array_equal(read_volume(tmp_path / "white.tif").array[0].T, 255 - pixels((3, 4), "uint8"))
    tifffile.imwrite(tmp_path / "planar.tif", pixels((3, 6, 4), "uint16"), photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_volume(tmp_path / "planar.tif").array, pixels((3, 6, 4), "uint16").transpose(0, 2, 1))
    tifffile.imwrite(tmp_path / "pages.tif", pixels((5, 6, 4), "uint8"), photometric="minisblack")
    with pytest.raises(ScanError, match=r"pages\.tif: 5 pages"):
        read_volume(tmp_path / "pages.tif")
    sitk_image = sitk.GetImageFromArray(pixels((6, 4, 3), "uint16"), isVector=True)
    sitk.WriteImage(sitk_image, str(tmp_path / "lzw.tif"), useCompression=True, imageIO="TIFFImageIO")
    assert np.array_equal(read_volume(tmp_path / "lzw.tif").array, pixels((6, 4, 3), "uint16").transpose(2, 1, 0))
    for unit, dtype in (("HU", "int16"), ("a.u.", "float32")):
        write_volume(Volume(signed[None], LPS, unit), tmp_path / "out.tif")
        assert tifffile.imread(tmp_path / "out.tif").dtype == dtype
        assert np.array_equal(read_volume(tmp_path / "out.tif", unit=unit).array[0], signed)


def test_units(tmp_path: Path) -> None:
    Image.fromarray(pixels((4, 8), "uint8")).save(tmp_path / "a.png")
    with pytest.raises(ScanError, match=r"a\.png.*no HU.*modality: image"):
        read_volume(tmp_path / "a.png", unit="HU")
    with pytest.raises(ScanError, match="uint16 was asked"):
        read_volume(tmp_path / "a.png", unit="uint16")
    assert read_volume(tmp_path / "a.png", unit="a.u.").unit == "a.u."


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_damaged(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(pixels((40, 80), "uint8")).save(tmp_path / f"good{suffix}")
    content = (tmp_path / f"good{suffix}").read_bytes()
    for name, part in (
        ("empty", b""),
        ("head", content[:30]),
        ("half", content[: len(content) // 2]),
        ("text", b"hello"),
    ):
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(part)
        with pytest.raises(ScanError, match=f"{name}{suffix}"):
            read_volume(path)


def test_not_to_be_written(tmp_path: Path) -> None:
    flat = np.zeros((1, 4, 4))
    for volume, name, reason in (
        (Volume(flat, LPS, "HU"), "a.png", "do not fit"),
        (Volume(flat, LPS, "uint8"), "a.jpg", "JPEG would change"),
        (Volume(np.zeros((1, 4, 4, 3)), LPS, "uint8"), "a.png", "this scan has 3"),
        (Volume(np.zeros((2, 4, 4)), LPS, "uint8"), "a.png", "1 or 3 channels"),
    ):
        with pytest.raises(ScanError, match=reason):
            write_volume(volume, tmp_path / name)
    assert not list(tmp_path.iterdir())
    write_volume(Volume(flat[..., None], LPS, "uint8"), tmp_path / "slice.png")
    assert read_volume(tmp_path / "slice.png").space == (4, 4)
