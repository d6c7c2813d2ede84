from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from torch import nn

from medcycle.errors import ModelError, ScanError
from medcycle.inference import translate_paths
from medcycle.inference.frames import batches
from medcycle.io import open_recording, read_volume
from medcycle.prepare import Preparation
from medcycle.volume import Volume

Make = Callable[..., Any]
AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])


class Invert(nn.Module):
    """Bright becomes dark; counts the planes it is given at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        return -x


def beating(make_ball: Make, count: int, space: tuple[int, ...] = (12, 13, 11), unit: str = "HU") -> Any:
    """(i, j, k, t): a ball whose inside changes from frame to frame."""
    ball = make_ball(space, AFFINE, unit).array[0]
    return np.stack([np.where(ball > 30, ball + 40 * np.sin(n), ball) for n in range(count)], axis=-1).astype("f4")


def save(path: Path, data: Any, affine: Any = AFFINE) -> Path:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 0.035
    nib.save(image, path)
    return path


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("size", [(8, 8), (8, 8, 8)])
def test_each_ct_frame_is_what_it_is_alone(
    translator: Make, make_ball: Make, tmp_path: Path, ending: str, size: tuple[int, ...]
) -> None:
    made = translator(network=Invert(), size=size)
    data = beating(make_ball, 5)
    source = save(tmp_path / f"a.{ending}", data)
    steps: list[tuple[int, int]] = []
    written = translate_paths(made, source, tmp_path / f"b.{ending}", steps=lambda *at: steps.append(at))
    assert written == [tmp_path / f"b.{ending}"]
    assert steps == [(n, 5) for n in range(1, 6)]
    old, new = nib.load(source), nib.load(written[0])
    assert new.shape == old.shape
    assert new.header.get_zooms() == old.header.get_zooms()
    assert new.header.get_xyzt_units() == old.header.get_xyzt_units()
    np.testing.assert_array_equal(new.affine, old.affine)
    assert new.get_data_dtype() == np.int16
    for index in range(5):
        alone = made.translate(read_volume(save(tmp_path / "one.nii", data[..., index]), unit="HU"))
        np.testing.assert_array_equal(np.asanyarray(new.dataobj)[..., index], np.rint(alone.array[0]))
    assert np.ptp(new.get_fdata(), axis=3).max() > 20


def test_itk_recordings_and_many_at_once(translator: Make, make_ball: Make, tmp_path: Path) -> None:
    data = beating(make_ball, 4)
    save(tmp_path / "in.nii.gz", data)
    (tmp_path / "in").mkdir()
    image = sitk.GetImageFromArray(data.T, isVector=False)
    image.SetSpacing((2, 2, 3, 0.035))
    sitk.WriteImage(image, str(tmp_path / "in" / "beat.mha"))
    save(tmp_path / "in" / "still.nii.gz", data[..., 0])
    written = translate_paths(translator(), tmp_path / "in", tmp_path / "out")
    assert [path.name for path in written] == ["beat.mha", "still.nii.gz"]
    new = sitk.ReadImage(str(written[0]))
    assert new.GetSpacing() == image.GetSpacing()
    assert new.GetSize() == image.GetSize()
    body = data.T > 0
    np.testing.assert_allclose(sitk.GetArrayFromImage(new)[body], data.T[body], atol=1)
    assert translate_paths(translator(), tmp_path / "in.nii.gz", tmp_path / "c.nrrd") == [tmp_path / "c.nrrd"]
    assert sitk.ReadImage(str(tmp_path / "c.nrrd")).GetSize() == (12, 13, 11, 4)
    with pytest.raises(ScanError, match="a recording of 4 volumes"):
        translate_paths(translator(), tmp_path / "in.nii.gz", tmp_path / "dicom")
    assert not (tmp_path / "dicom").exists()


def test_a_tissue_that_does_not_change_does_not_flicker(translator: Make, make_ball: Make, tmp_path: Path) -> None:
    """One scale for all frames of an MR, though a bright vessel comes and goes and moves each frame's percentiles."""
    data = np.repeat(make_ball((20, 20, 11), AFFINE, "a.u.").array[0][..., None], 7, axis=3)
    for frame in (2, 3):
        data[6:13, 6:13, 3:8, frame] = 3000
    made = translator("mr", "ct", preparations={"mr": Preparation(modality="mr", foreground=True)})
    translate_paths(made, save(tmp_path / "a.nii", data), tmp_path / "b.nii")
    new = nib.load(tmp_path / "b.nii").get_fdata()
    still = (slice(10, 12), slice(14, 16), 5)
    assert data[still].min() > 100
    np.testing.assert_array_equal(np.ptp(new[still], axis=-1), 0)
    alone = [made.translate(Volume(data[None, ..., n], AFFINE, "a.u.")).array[0][still].mean() for n in (0, 2)]
    assert abs(alone[1] - alone[0]) > 100  # what it would be without
    # The scale is that of most frames: they are as they are alone.
    assert abs(new[..., 0][still].mean() - alone[0]) < 1


@pytest.mark.parametrize("kind", ["mr", "ct"])
def test_the_translator_itself_is_left_as_it_was(translator: Make, make_ball: Make, tmp_path: Path, kind: str) -> None:
    made = translator(kind, "ct")
    before = made.model.source
    unit = "a.u." if kind == "mr" else "HU"
    translate_paths(made, save(tmp_path / "a.nii", beating(make_ball, 3, unit=unit)), tmp_path / "b.nii")
    assert made.model.source is before


# -- single slices ---------------------------------------------------------------------------------------------------


def test_a_cine_of_one_slice_fills_the_batches(translator: Make, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, (10, 9, 1, 11)).astype(np.uint8)
    network = Invert()
    made = translator(
        "photo", "photo", network=network, batch_size=4, preparations={"photo": Preparation("image", range=(0, 255))}
    )
    translate_paths(made, save(tmp_path / "a.nii.gz", data), tmp_path / "b.nii.gz")
    new = nib.load(tmp_path / "b.nii.gz")
    assert new.shape == (10, 9, 1, 11)
    assert new.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(new.dataobj), 255 - data)
    assert network.batches == [4, 4, 3]


@pytest.mark.parametrize("normal", [0, 1, 2])
def test_a_slice_is_translated_as_a_plane_however_it_lies(translator: Make, tmp_path: Path, normal: int) -> None:
    """An axial model must not be given the lines of a coronal slice."""

    class Planes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert min(x.shape[2:]) == 9
            return -x

    affine = np.eye(4)
    affine[:3, :3] = np.roll(np.diag([2.0, 2.0, 5.0]), normal + 1, axis=0)
    assert np.argmax(affine[:3, 2]) == normal
    data = np.random.default_rng(0).uniform(0, 255, (10, 9, 1, 5)).astype(np.float32)
    fixed = Preparation("image", range=(0.0, 255.0))
    made = translator("photo", "photo", network=Planes(), preparations={"photo": fixed})
    translate_paths(made, save(tmp_path / "a.nii.gz", data, affine), tmp_path / "b.nii.gz")
    new = nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(new.get_fdata(), 255 - data, atol=0.51)
    np.testing.assert_array_equal(new.affine, affine)


# -- images in Python ------------------------------------------------------------------------------------------------


def test_nibabel_and_sitk_images_of_four_axes(translator: Make, make_ball: Make, tmp_path: Path) -> None:
    data = beating(make_ball, 3)
    made = translator(network=Invert())
    path = save(tmp_path / "a.nii.gz", data)
    translate_paths(made, path, tmp_path / "b.nii")
    expected = nib.load(tmp_path / "b.nii").get_fdata()

    for image in (nib.load(path), nib.Nifti1Image(data, AFFINE, nib.load(path).header)):
        result = made(image)
        assert type(result) is nib.Nifti1Image
        np.testing.assert_allclose(result.get_fdata(), expected, atol=0.5)
        np.testing.assert_array_equal(result.affine, image.affine)
        assert result.header.get_zooms() == image.header.get_zooms()
        assert b"synthetic" in bytes(result.header["descrip"])

    image = sitk.GetImageFromArray(data.T, isVector=False)
    image.SetSpacing((2, 2, 3, 0.035))
    image.SetOrigin((1, 2, 3, 4))
    image.SetDirection(np.eye(4).ravel().tolist())
    result = made(image)
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(result, get)() == getattr(image, get)()
    np.testing.assert_allclose(sitk.GetArrayFromImage(result).T, expected, atol=0.5)


def test_images_of_four_axes_that_cannot_be(translator: Make, tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="no affine"):
        translator()(nib.Nifti1Image(np.zeros((3, 4, 5, 2), np.float32), None))
    path = save(tmp_path / "cut.nii", np.zeros((9, 9, 9, 3), np.float32))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ScanError, match=r"cut\.nii, frame"):
        translator("photo", "photo", preparations={"photo": Preparation("image", range=(0, 1))})(nib.load(path))


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_frame_that_fails_is_named_and_nothing_is_left(translator: Make, make_ball: Make, tmp_path: Path) -> None:
    data = beating(make_ball, 5)
    data[..., 3] = -1000
    path = save(tmp_path / "a.nii.gz", data)
    with pytest.raises(ScanError, match=r"a\.nii\.gz, frame 4: every voxel"):
        translate_paths(translator(), path, tmp_path / "b.nii.gz")

    class Breaks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / 0

    with pytest.raises(ModelError, match=r"a\.nii\.gz, frame 1: the network's output is not finite"):
        translate_paths(translator(network=Breaks()), path, tmp_path / "b.nii.gz")
    still = save(tmp_path / "c.nii.gz", np.random.default_rng(0).uniform(1, 9, (8, 8, 1, 7)).astype("f4"))
    fixed = {"photo": Preparation("image", range=(0, 10))}
    made = translator("photo", "photo", network=Breaks(), preparations=fixed, batch_size=3)
    with pytest.raises(ModelError, match=r"c\.nii\.gz, frame 1 to 3: the network's output is not finite"):
        translate_paths(made, still, tmp_path / "b.nii.gz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "c.nii.gz"]


def test_a_suspicion_is_said_once(translator: Make, make_ball: Make, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", beating(make_ball, 4, unit="a.u."))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        translate_paths(translator(), path, tmp_path / "b.nii.gz")
    assert [str(w.message).count("does not look like CT") for w in caught if w.category is UserWarning] == [1]


def test_few_volumes_are_held_at_a_time(translator: Make, make_ball: Make, tmp_path: Path) -> None:
    from medcycle.inference.frames import translate_recording

    recording = open_recording(save(tmp_path / "a.nii", beating(make_ball, 9)), unit="HU")
    assert recording is not None
    read = 0

    def counting() -> Any:
        nonlocal read
        read = 0
        for frame in recording.frames():
            read += 1
            yield frame

    for done, _ in enumerate(translate_recording(translator(), counting, 9), 1):
        assert read == done


def test_batches_read_no_further_than_needed() -> None:
    taken: list[int] = []

    def items() -> Any:
        for number in range(7):
            taken.append(number)
            yield number

    made = batches(items(), 3)
    assert next(made) == [0, 1, 2]
    assert taken == [0, 1, 2]
    assert list(made) == [[3, 4, 5], [6]]
