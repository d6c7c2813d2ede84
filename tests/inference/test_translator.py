from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medcycle.errors import ConfigError, ModelError, ScanError
from medcycle.inference import Translator
from medcycle.io import read_volume, write_volume
from medcycle.model import DomainInfo, Model, save_model
from medcycle.networks import build_generator
from medcycle.prepare import Preparation
from medcycle.volume import Volume

Make = Callable[..., Any]
COSINES = np.linalg.qr(np.array([[1.0, 0.1, 0.2], [-0.15, 1.0, 0.05], [0.1, -0.2, 1.0]]))[0]


def oblique(spacing: tuple[float, float, float], flips: tuple[int, int, int], order: list[int]) -> Any:
    affine = np.eye(4)
    affine[:3, :3] = (COSINES * spacing * flips)[:, order]
    affine[:3, 3] = (-31.5, 12.25, 80)
    return affine


AFFINES = [
    np.diag([2.0, 2.0, 3.0, 1.0]),
    oblique((1.0, 1.0, 4.0), (-1, 1, -1), [0, 1, 2]),
    oblique((2.1, 6.0, 3.3), (1, -1, 1), [2, 0, 1]),
]


def hu_inside(result: Volume, volume: Volume) -> None:
    body = volume.array > -500
    assert abs(result.array - volume.array)[body].max() < 0.5
    np.testing.assert_allclose(result.array[~body], -1000, atol=0.5)


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("axes", ["axial", "coronal", "sagittal"])
def test_planes_return_to_the_scans_own_grid(translator: Make, make_ball: Make, affine: Any, axes: str) -> None:
    volume = make_ball((18, 20, 22), affine)
    result = translator(axes=axes, batch_size=5)(volume)
    assert result.space == volume.space
    np.testing.assert_allclose(result.affine, affine, atol=1e-4)
    assert result.unit == "HU"
    hu_inside(result, volume)


@pytest.mark.parametrize("affine", AFFINES)
def test_patches_return_to_the_scans_own_grid(translator: Make, make_ball: Make, affine: Any) -> None:
    volume = make_ball((14, 15, 16), affine)
    result = translator(size=(8, 8, 8), batch_size=4)(volume)
    np.testing.assert_allclose(result.affine, affine, atol=1e-4)
    hu_inside(result, volume)


def test_the_planes_of_the_chosen_axis_are_sent(translator: Make, make_ball: Make) -> None:
    shapes = []

    class Look(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shapes.append(tuple(x.shape[1:]))
            return x

    volume = make_ball((18, 20, 22), np.diag([1.0, 1.0, 1.0, 1.0])[:, [2, 0, 1, 3]])  # i up, j right, k front
    for axes in ("axial", "coronal", "sagittal"):
        translator(axes=axes, network=Look(), batch_size=50)(volume)
    assert shapes == [(1, 20, 22), (1, 20, 18), (1, 22, 18)]  # RAS+: right 20, front 22, up 18


def test_spacing_is_undone(translator: Make, make_ball: Make) -> None:
    volume = make_ball((24, 24, 24), np.diag([1.0, 1.0, 1.0, 1.0]))
    result = translator(preparations={"ct": Preparation(modality="ct", spacing=(2.0, 2.0, 2.0))})(volume)
    assert result.space == volume.space
    np.testing.assert_allclose(result.affine, volume.affine, atol=1e-4)
    assert abs(result.array - volume.array)[:, 9:15, 9:15, 9:15].max() < 6


def test_mr_becomes_hu_with_air_outside_the_body(translator: Make, make_ball: Make) -> None:
    volume = make_ball((20, 20, 20), unit="a.u.")
    loud = nn.Module()
    loud.forward = lambda x: torch.full_like(x, 0.5)  # paints bone over everything, as an untrained net might
    result = translator("mr", "ct", network=loud)(volume)
    assert result.unit == "HU"
    assert (result.array[:, 0, 0] == -1000).all()
    assert result.array[0, 10, 10, 10] == pytest.approx(-1024 + 0.75 * 4095, abs=1e-2)


def test_ct_becomes_mr_on_the_cohorts_scale(translator: Make, make_ball: Make) -> None:
    volume = make_ball((20, 20, 20))
    result = translator("ct", "mr")(volume)
    assert result.unit == "a.u."
    assert result.array[0, 0, 0, 0] == 0
    expected = (volume.array[0, 10, 10, 10] + 1024) / 4095 * 800
    assert result.array[0, 10, 10, 10] == pytest.approx(expected, abs=1e-2)


def test_without_foreground_the_network_has_the_word(translator: Make, make_ball: Make) -> None:
    network = nn.Module()
    network.forward = lambda x: torch.full_like(x, 0.5)
    whole = Preparation(modality="ct")
    result = translator(network=network, preparations={"ct": whole})(make_ball((12, 12, 12)))
    assert result.array.min() > 1000


def test_a_2d_scan_is_one_plane_whatever_the_axes(translator: Make, make_ball: Make) -> None:
    volume = make_ball((20, 26), np.diag([-1.0, -1.0, 1.0, 1.0]))
    shapes = []

    class Look(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shapes.append(tuple(x.shape))
            return x

    result = translator(axes="sagittal", network=Look())(volume)
    assert shapes == [(1, 1, 20, 26)]
    assert result.space == (20, 26)
    hu_inside(result, volume)


def test_colour_pictures(translator: Make) -> None:
    array = np.random.default_rng(2).integers(0, 256, (3, 21, 13)).astype(np.float32)
    volume = Volume(array, np.diag([-1.0, -1.0, 1.0, 1.0]), "uint8")
    network = build_generator("resnet", in_channels=3, out_channels=3, ndim=2, filters=2, blocks=1)
    assert translator("photo", "photo", network=network)(volume).array.shape == (3, 21, 13)
    result = translator("photo", "photo")(volume)
    assert result.unit == "uint8"
    np.testing.assert_array_equal(result.array, array)


def picture(*shape: int) -> Volume:
    array = np.random.default_rng(2).integers(0, 256, shape).astype(np.float32)
    return Volume(array, np.diag([-1.0, -1.0, 1.0, 1.0]), "uint8")


def test_pictures_are_resized_as_the_originals_test_program_does(translator: Make) -> None:
    volume = picture(3, 21, 13)
    result = translator("photo", "photo", resize=(8, 10))(volume)
    plain = Image.fromarray(volume.array.T.astype(np.uint8)).resize((8, 10), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(result.array.T, np.asarray(plain))


def test_a_grey_picture_enters_a_colour_network_as_colour(translator: Make) -> None:
    network = build_generator("resnet", in_channels=3, out_channels=3, ndim=2, filters=2, blocks=1)
    made = translator("photo", "photo", network=network)
    grey = picture(1, 12, 12)
    colour = grey.replace(array=np.repeat(grey.array, 3, axis=0))
    np.testing.assert_array_equal(made(grey).array, made(colour).array)
    assert made(grey).channels == 3


def test_a_picture_of_another_scale_than_the_training_is_warned_of(translator: Make) -> None:
    made = translator("photo", "photo")
    made.model.sample["resize"] = [20, 20]
    with pytest.warns(UserWarning, match="training pictures were resized to 20 x 20"):
        made(picture(3, 40, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(picture(3, 24, 18))
        translator("photo", "photo", resize=(20, 20))(picture(3, 60, 60))


def test_only_pictures_are_resized(translator: Make) -> None:
    with pytest.raises(ConfigError, match="only pictures are resized"):
        translator("mr", "ct", resize=(8, 8))


@pytest.mark.parametrize("truncate", [False, True])
def test_grey_values_are_rounded_or_as_the_original_cut_off(translator: Make, truncate: bool) -> None:
    class Constant(nn.Module):
        """Gives the values it was made with."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return values.expand_as(x)

    values = torch.rand((1, 1, 32, 32), generator=torch.Generator().manual_seed(0)) * 2 - 1
    how = Preparation(modality="image", scale=(0.0, 255.0), truncate=truncate)
    result = translator("photo", "other", network=Constant(), preparations={"other": how})(picture(1, 32, 32))
    exact = (values[0].numpy() + 1) / 2 * 255
    np.testing.assert_array_equal(result.array, exact.astype(np.uint8) if truncate else np.rint(exact))
    assert abs(float((result.array - exact).mean()) - (-0.5 if truncate else 0)) < 0.1


def test_a_real_net_in_bf16(translator: Make, make_ball: Make) -> None:
    torch.manual_seed(0)
    network = build_generator("resnet", in_channels=1, out_channels=1, ndim=3, filters=2, blocks=1)
    volume = make_ball((16, 16, 16), unit="a.u.")
    how = {"network": network, "size": (8, 8, 8), "statistics": "scan"}
    plain = translator("mr", "ct", **how)(volume)
    fast = translator("mr", "ct", **how, precision="bf16")(volume)
    assert 0 < abs(plain.array - fast.array).max() < 60


def test_progress_counts_planes(translator: Make, make_ball: Make) -> None:
    seen: list[tuple[int, int]] = []
    translator(batch_size=3).translate(make_ball((12, 12, 12)), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


# -- what does not fit -----------------------------------------------------------------------------------------------


def test_a_3d_model_refuses_a_picture(translator: Make, make_ball: Make) -> None:
    with pytest.raises(ModelError, match=r"ball: a 2D image.*3D patches of \(8, 8, 8\)"):
        translator(size=(8, 8, 8))(make_ball((20, 20)))


def test_channels_that_do_not_match(translator: Make) -> None:
    network = build_generator("resnet", in_channels=1, out_channels=1, ndim=2, filters=2, blocks=1)
    volume = Volume(np.zeros((3, 8, 8), np.float32), np.eye(4), "uint8", {"path": "zebra.png"})
    with pytest.raises(ModelError, match=r"zebra\.png: 3 channel\(s\); the model from 'photo' to 'photo' takes 1"):
        translator("photo", "photo", network=network)(volume)


def test_a_preparation_without_a_scale(translator: Make, make_ball: Make) -> None:
    with pytest.raises(ModelError, match="no scale"):
        translator("ct", "mr", preparations={"mr": Preparation(modality="mr")})(make_ball((12, 12, 12)))


def test_wrong_settings(translator: Make) -> None:
    for wrong in ({"batch_size": 0}, {"overlap": 1.0}, {"precision": "fp8"}, {"device": "tpu"}):
        with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
            translator(**wrong)
    assert translator().batch_size == 8
    assert translator(size=(4, 4, 4)).batch_size == 1


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    arguments = {"kind": "resnet", "in_channels": 1, "out_channels": 1, "ndim": 2, "filters": 2, "blocks": 1}
    domains = {
        "mr": DomainInfo("mr", Preparation(modality="mr", scale=(0.0, 800.0))),
        "ct": DomainInfo("ct", Preparation(modality="ct")),
    }
    for source, target in (("mr", "ct"), ("ct", "mr")):
        network = build_generator(**arguments)
        model = Model(network, arguments, domains[source], domains[target], {"axes": "axial", "size": [16, 16]})
        save_model(tmp_path / "run" / f"{source}_to_{target}.safetensors", model)
    return tmp_path / "run"


def test_load_and_translate_a_path(run: Path, tmp_path: Path, make_ball: Make) -> None:
    path = write_volume(make_ball((16, 17, 18), unit="a.u."), tmp_path / "head.nii.gz")
    translator = Translator.load(run, to="ct", device="cpu", precision="fp32")
    result = translator(str(path))
    assert isinstance(result, Volume)
    assert result.unit == "HU"
    written = translator.file(path, tmp_path / "out" / "head.mha")
    np.testing.assert_allclose(read_volume(written, unit="HU").array, result.array, atol=0.5001)
    np.testing.assert_allclose(read_volume(written).affine, result.affine, atol=1e-4)
    from_model_file = Translator.load(run / "mr_to_ct.safetensors", device="cpu", precision="fp32")(path)
    np.testing.assert_array_equal(from_model_file.array, result.array)


def test_a_ct_nifti_is_read_as_hu(run: Path, tmp_path: Path, make_ball: Make) -> None:
    path = write_volume(make_ball((16, 17, 18)), tmp_path / "head.nii.gz")
    translator = Translator.load(run, to="mr", device="cpu", precision="fp32")
    assert translator(path).unit == "a.u."
    with pytest.raises(ScanError, match=r"no\.nii"):
        translator(tmp_path / "no.nii")


def test_dicom_in_and_out(run: Path, tmp_path: Path, make_ball: Make) -> None:
    import pydicom

    affine = oblique((1.5, 1.5, 4.0), (-1, -1, 1), [0, 1, 2])
    source = write_volume(make_ball((16, 18, 7), affine, unit="a.u."), tmp_path / "mr", description="T1")
    translator = Translator.load(run, to="ct", device="cpu", precision="fp32")
    written = translator.file(source, tmp_path / "sct")
    old = sorted((pydicom.dcmread(file) for file in source.iterdir()), key=lambda d: d.InstanceNumber)
    new = sorted((pydicom.dcmread(file) for file in written.iterdir()), key=lambda d: d.InstanceNumber)
    assert {d.Modality for d in new} == {"CT"}
    assert {d.FrameOfReferenceUID for d in new} == {old[0].FrameOfReferenceUID}
    assert {tuple(d.ImagePositionPatient) for d in new} == {tuple(d.ImagePositionPatient) for d in old}
    assert {tuple(d.ImageOrientationPatient) for d in new} == {tuple(d.ImageOrientationPatient) for d in old}
    assert new[0].SeriesInstanceUID != old[0].SeriesInstanceUID
    assert "synthetic CT from mr" in new[0].SeriesDescription
    result = translator(source)
    again = read_volume(written)
    np.testing.assert_allclose(again.affine, result.affine, atol=1e-4)
    np.testing.assert_allclose(again.array, result.array, atol=0.5001)
    # A result keeps the way to its source, so that a script can write DICOM as well.
    by_hand = write_volume(result, tmp_path / "by_hand", like=result)
    assert pydicom.dcmread(next(by_hand.iterdir())).FrameOfReferenceUID == old[0].FrameOfReferenceUID


def test_a_scan_of_the_other_domain_is_warned_of(translator: Make) -> None:
    rng = np.random.default_rng(0)
    array = np.where(rng.random((1, 16, 16, 16)) < 0.6, -1000, 40 + 10 * rng.standard_normal((1, 16, 16, 16)))
    array[:, 4:12, 4:12, 4:12] = 300 + 400 * rng.random((1, 8, 8, 8))
    with pytest.warns(UserWarning, match=r"looks like CT.*The model translates mr"):
        translator("mr", "ct")(Volume(array, np.eye(4)))
