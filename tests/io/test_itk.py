from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medcycle.errors import ScanError
from medcycle.io import from_sitk, read_volume, to_sitk, write_volume
from medcycle.volume import Volume


def test_place_and_values_of_an_itk_image(tmp_path: Path) -> None:
    data = np.arange(60, dtype=np.int16).reshape(5, 4, 3)  # (k, j, i)
    image = sitk.GetImageFromArray(data)
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetOrigin((10, 20, 30))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    volume = read_volume(tmp_path / "a.mha", unit="HU")
    assert volume.array[0, 2, 1, 3] == data[3, 1, 2]
    point = image.TransformIndexToPhysicalPoint((2, 1, 3))
    assert (volume.affine @ (2, 1, 3, 1))[:3] == pytest.approx((-point[0], -point[1], point[2]))
    assert volume.unit == "HU"
    assert volume.source == {"path": str(tmp_path / "a.mha"), "format": "itk"}


def test_2d_and_vectors() -> None:
    image = sitk.GetImageFromArray(np.arange(12, dtype=np.uint8).reshape(4, 3))
    image.SetSpacing((0.5, 0.25))
    volume = from_sitk(image)
    assert volume.array.shape == (1, 3, 4)
    assert volume.spacing == (0.5, 0.25)
    assert to_sitk(volume).GetDimension() == 2
    vector = sitk.GetImageFromArray(np.zeros((5, 4, 3, 2), np.float32), isVector=True)
    assert from_sitk(vector).array.shape == (2, 3, 4, 5)
    assert to_sitk(from_sitk(vector)).GetNumberOfComponentsPerPixel() == 2


def test_a_plane_out_of_the_axial_keeps_its_place() -> None:
    affine = np.array([[1.0, 0, 0, 4], [0, 0, 1, 5], [0, 2, 0, 6], [0, 0, 0, 1]])  # coronal
    image = to_sitk(Volume(np.zeros((1, 3, 4)), affine))
    assert image.GetSize() == (3, 4, 1)
    assert image.TransformIndexToPhysicalPoint((1, 1, 0)) == pytest.approx((-5, -5, 8))


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_damaged(tmp_path: Path, suffix: str) -> None:
    good = write_volume(Volume(np.zeros((1, 20, 20, 20)), np.eye(4), "HU"), tmp_path / f"good{suffix}")
    content = good.read_bytes()
    for name, part in (
        ("empty", b""),
        ("head", content[:50]),
        ("half", content[: len(content) // 2]),
        ("text", b"hello"),
    ):
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(part)
        with pytest.raises(ScanError, match=f"{name}{suffix}"):
            read_volume(path)


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="complex"):
        from_sitk(sitk.GetImageFromArray(np.zeros((2, 2, 2), np.complex64)))
    with pytest.raises(ScanError, match="4 axes"):
        from_sitk(sitk.Image([2, 2, 2, 2], sitk.sitkFloat32))
    with pytest.raises(ScanError, match="NaN"):
        from_sitk(sitk.GetImageFromArray(np.full((2, 2, 2), np.nan)))
    path = write_volume(Volume(np.zeros((1, 4, 4, 4)), np.eye(4)), tmp_path / "a.mhd")
    (tmp_path / "a.raw").unlink()
    with pytest.raises(ScanError, match=r"a\.mhd"):
        read_volume(path)
