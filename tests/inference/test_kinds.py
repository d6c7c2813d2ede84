from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from medcycle.errors import ModelError, ScanError
from medcycle.inference.kinds import open_image
from medcycle.volume import Volume

Make = Callable[..., Any]
AFFINE = np.array([[-0.9, 0.3, 0.0, 10], [0.3, 0.9, 0.0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])


def data(*shape: int) -> Any:
    return np.random.default_rng(3).uniform(-900, 900, shape).astype(np.float32)


def plus_one(volume: Volume) -> Volume:
    return volume.replace(array=volume.array + 1)


# -- nibabel ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 1), (5, 6), (5, 6, 1)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_nibabel_comes_back_in_kind_shape_and_place(kind: Any, shape: tuple[int, ...]) -> None:
    image = kind(data(*shape), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(AFFINE, code="scanner")
    image.set_qform(AFFINE, code="mni")
    image.header["cal_max"] = 300
    volume, back = open_image(image, "ct")
    assert volume.unit == "HU"
    assert volume.space == shape[:3]
    result = back(plus_one(volume))
    assert type(result) is kind
    assert result.shape == shape
    np.testing.assert_array_equal(result.affine, image.affine)
    np.testing.assert_allclose(result.get_fdata(), image.get_fdata() + 1, rtol=1e-6)
    assert result.header.get_xyzt_units() == ("mm", "sec")
    assert (int(result.header["sform_code"]), int(result.header["qform_code"])) == (1, 4)
    assert result.header["cal_max"] == 0
    assert image.header["cal_max"] == 300


def test_nibabel_saved_and_read_again_with_scaling(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), AFFINE)
    image.header.set_slope_inter(2.0, -1000.0)
    nib.save(image, tmp_path / "x.nii.gz")
    volume, back = open_image(nib.load(tmp_path / "x.nii.gz"), "ct")
    assert volume.array[0, 0, 0, 1] == -998
    nib.save(back(volume), tmp_path / "y.nii.gz")
    np.testing.assert_array_equal(nib.load(tmp_path / "y.nii.gz").get_fdata(), volume.array[0])


@pytest.mark.filterwarnings("ignore:.*which side is left is a guess:UserWarning")
def test_nibabel_without_place_gets_the_one_that_was_used(tmp_path: Path) -> None:
    bare = nib.Nifti1Image(data(3, 4, 5), None)
    bare.header.set_zooms((1.0, 2.0, 3.0))
    with pytest.raises(ScanError, match="no affine"):
        open_image(bare, "mr")
    nib.save(bare, tmp_path / "x.nii")
    image = nib.load(tmp_path / "x.nii")
    assert (image.header["sform_code"], image.header["qform_code"]) == (0, 0)
    volume, back = open_image(image, "mr")
    assert volume.spacing == (1, 2, 3)
    result = back(volume)
    np.testing.assert_array_equal(result.affine, image.affine)
    assert (result.header["sform_code"], result.header["qform_code"]) == (2, 2)


def test_nibabel_of_another_format_and_channels() -> None:
    volume, back = open_image(nib.MGHImage(data(3, 4, 5), AFFINE), "mr")
    assert type(back(volume)) is nib.MGHImage
    volume, back = open_image(nib.Nifti1Image(data(3, 4, 5, 1, 2), AFFINE), "mr")
    assert volume.channels == 2
    np.testing.assert_array_equal(np.moveaxis(back(volume).get_fdata()[:, :, :, 0], -1, 0), volume.array)
    assert back(volume.replace(array=volume.array[:1])).shape == (3, 4, 5)
    with pytest.raises(ScanError, match=r"\(3, 4, 5, 9\)"):
        open_image(nib.Nifti1Image(data(3, 4, 5, 9), AFFINE), "mr")


def test_nibabel_of_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.nii"
    nib.save(nib.Nifti1Image(data(9, 9, 9), AFFINE), path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ScanError, match=r"cut\.nii"):
        open_image(nib.load(path), "mr")


# -- SimpleITK -------------------------------------------------------------------------------------------------------


def test_sitk_comes_back_in_place() -> None:
    image = sitk.GetImageFromArray(data(7, 6, 5))
    image.SetSpacing((0.5, 1.5, 3.0))
    image.SetOrigin((1.0, 2.0, 3.0))
    image.SetDirection((0.6, 0.8, 0.0, -0.8, 0.6, 0.0, 0.0, 0.0, 1.0))
    volume, back = open_image(image, "mr")
    assert volume.space == (5, 6, 7)
    point = image.TransformIndexToPhysicalPoint((4, 3, 2))
    np.testing.assert_allclose((volume.affine @ [4, 3, 2, 1])[:3], np.multiply(point, (-1, -1, 1)), atol=1e-9)
    assert image[4, 3, 2] == volume.array[0, 4, 3, 2]
    result = back(plus_one(volume))
    assert result.GetPixelID() == sitk.sitkFloat32
    for get in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
        assert getattr(result, get)() == getattr(image, get)()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result), sitk.GetArrayFromImage(image) + 1)


def test_sitk_2d_and_colour() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    image = sitk.GetImageFromArray(pixels, isVector=True)
    volume, back = open_image(image, "image")
    assert volume.array.shape == (3, 5, 6)
    assert volume.unit == "uint8"
    result = back(volume)
    assert result.GetPixelID() == sitk.sitkVectorUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result), pixels)
    grey = back(volume.replace(array=volume.array[:1] + 0.4))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(grey), pixels[..., 0])
    with pytest.raises(ScanError, match="4"):
        open_image(sitk.Image([2, 2, 2, 2], sitk.sitkFloat32), "mr")


# -- MONAI -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 4, 5, 6), (3, 4, 5)])
def test_metatensor_comes_back_with_its_affine_and_history(shape: tuple[int, ...]) -> None:
    from monai.data.meta_tensor import MetaTensor

    history = [{"class": "Flip", "id": 1}]
    tensor = MetaTensor(
        torch.from_numpy(data(*shape)), affine=AFFINE, meta={"filename_or_obj": "a.nii"}, applied_operations=history
    )
    volume, back = open_image(tensor, "ct")
    assert volume.unit == "HU"
    np.testing.assert_allclose(volume.affine[:, [0, 1, 3]], AFFINE[:, [0, 1, 3]])
    result = back(plus_one(volume))
    assert isinstance(result, MetaTensor)
    assert result.shape == shape
    assert torch.equal(result.affine, tensor.affine)
    assert result.applied_operations == history
    assert result.meta["filename_or_obj"] == "a.nii"
    np.testing.assert_allclose(result.numpy(), tensor.numpy() + 1)


def test_metatensor_in_lps_and_batched() -> None:
    from monai.data.meta_tensor import MetaTensor

    tensor = MetaTensor(torch.from_numpy(data(1, 4, 5, 6)), affine=AFFINE, meta={"space": "LPS"})
    volume, back = open_image(tensor, "mr")
    np.testing.assert_allclose(volume.affine, np.diag([-1.0, -1, 1, 1]) @ AFFINE)
    assert torch.equal(back(volume).affine, tensor.affine)
    with pytest.raises(ScanError, match="without a batch axis"):
        open_image(MetaTensor(torch.zeros(1, 1, 4, 5, 6)), "mr")


# -- others ----------------------------------------------------------------------------------------------------------


def test_a_volume_stays_itself() -> None:
    volume = Volume(data(1, 3, 4, 5), AFFINE)
    opened, back = open_image(volume, "mr")
    assert opened is volume
    assert back(volume) is volume


@pytest.mark.parametrize("image", [np.zeros((1, 4, 4, 4)), torch.zeros(1, 4, 4, 4), None, [1, 2]])
def test_what_has_no_geometry_is_refused(image: Any) -> None:
    with pytest.raises(ModelError, match=rf"{type(image).__name__}: it has no geometry.*Volume\(array, affine, unit\)"):
        open_image(image, "mr")
