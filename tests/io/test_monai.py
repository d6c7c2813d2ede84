from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, LoadImage, LoadImaged, SaveImage, SaveImaged, Spacingd

from medcycle.errors import ScanError
from medcycle.io import read_volume, write_volume
from medcycle.io.monai import MedcycleReader, MedcycleWriter
from medcycle.volume import Volume

Maker = Callable[..., Path]
HU = {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU", "Modality": "CT"}


@pytest.fixture
def scans(tmp_path: Path, make_series: Maker) -> list[Path]:
    """One scan in each format: DICOM, NIfTI, MHA, a picture."""
    volume = read_volume(make_series(tmp_path / "in/ct", **HU))
    grey = np.arange(30, dtype=np.float32).reshape(1, 6, 5)
    return [
        tmp_path / "in/ct",
        write_volume(volume, tmp_path / "in/a.nii.gz"),
        write_volume(volume, tmp_path / "in/b.mha"),
        write_volume(Volume(grey, np.eye(4), "uint8"), tmp_path / "in/c.png"),
    ]


def test_load_gives_what_read_volume_gives(scans: list[Path]) -> None:
    for path in scans:
        expected = read_volume(path)
        image = LoadImage(reader=MedcycleReader, ensure_channel_first=True)(path)
        assert isinstance(image, MetaTensor)
        assert np.array_equal(image.numpy(), expected.array)
        assert np.allclose(image.affine, expected.affine, atol=1e-6)
        assert np.allclose(image.meta["original_affine"], expected.affine)
        assert str(image.meta["space"]) == "RAS"
        assert tuple(image.meta["spatial_shape"]) == expected.space
        assert image.meta["filename_or_obj"] == str(path)
        plain = LoadImage(reader=MedcycleReader())(path)
        assert tuple(plain.shape) == expected.space
        assert np.isnan(plain.meta["original_channel_dim"])
        assert MedcycleReader().verify_suffix(path)
        left = LoadImage(reader=MedcycleReader(affine_lps_to_ras=False))(path)
        assert np.allclose(left.affine, np.diag([-1, -1, 1, 1]) @ expected.affine)
        assert str(left.meta["space"]) == "LPS"


def test_agrees_with_monais_own_readers(scans: list[Path]) -> None:
    for path, reader in zip(scans[:2], ("PydicomReader", "NibabelReader"), strict=True):
        ours = LoadImage(reader=MedcycleReader(), ensure_channel_first=True)(path)
        theirs = LoadImage(reader=reader, ensure_channel_first=True)(path)
        assert np.array_equal(ours.numpy(), theirs.numpy())
        assert np.allclose(ours.affine, theirs.affine, atol=1e-5)


def test_refusals_are_not_handed_to_laxer_readers(tmp_path: Path, make_series: Maker) -> None:
    two = make_series(tmp_path / "two")
    make_series(two, 3, prefix="t", series="1.2.9.777", SeriesNumber=8)
    load = LoadImage(reader=MedcycleReader)
    with pytest.raises(ScanError, match="2 DICOM series"):
        load(two)
    with pytest.raises(ScanError, match="no such file"):
        load(tmp_path / "missing")
    with pytest.raises(RuntimeError) as caught:
        Compose([LoadImaged("image", reader=MedcycleReader)])({"image": two})
    assert isinstance(caught.value.__cause__, ScanError)
    assert load.__class__(reader=MedcycleReader, series="8")(two).shape == (5, 4, 3)
    gap = make_series(tmp_path / "gap", [0, 1, 3])
    with pytest.raises(ScanError, match="1 missing slice"):
        load(gap)
    with pytest.warns(UserWarning, match="1 of 4 slices"):
        assert LoadImage(reader=MedcycleReader(resample_gaps=True))(gap).shape == (5, 4, 4)


def test_several_files_become_channels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(2, 1, 4, 5, 6)).astype(np.float32)
    paths = [write_volume(Volume(array, np.eye(4)), tmp_path / f"{n}.nii.gz") for n, array in enumerate(arrays)]
    image = LoadImage(reader=MedcycleReader(), ensure_channel_first=True)(paths)
    assert np.array_equal(image.numpy(), arrays[:, 0])
    other = write_volume(Volume(arrays[0], np.diag([2.0, 1, 1, 1])), tmp_path / "other.nii.gz")
    with pytest.raises(ScanError, match="its grid is not that of"):
        LoadImage(reader=MedcycleReader())([paths[0], other])


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd", ""])
def test_save(tmp_path: Path, scans: list[Path], ending: str) -> None:
    chain = Compose(
        [
            LoadImaged("image", reader=MedcycleReader, ensure_channel_first=True),
            Spacingd("image", pixdim=(1.5, 1.0, 2.5), mode="bilinear"),
            SaveImaged(
                "image",
                output_dir=tmp_path / "out",
                writer=MedcycleWriter,
                output_ext=ending,
                separate_folder=False,
                print_log=False,
            ),
        ]
    )
    image = chain({"image": str(scans[0])})["image"]
    again = read_volume(tmp_path / f"out/ct_trans{ending}", unit="HU")
    assert again.spacing == pytest.approx((1.5, 1.0, 2.5))
    assert np.allclose(again.array, image.numpy(), atol=0.5)
    assert np.allclose(again.affine, image.affine, atol=1e-4)


def test_save_resampled_to_the_original_grid(tmp_path: Path, scans: list[Path]) -> None:
    image = LoadImage(reader=MedcycleReader(), ensure_channel_first=True)(scans[0])
    coarse = Spacingd("image", pixdim=(1.5, 1.0, 2.5), mode="bilinear")({"image": image})["image"]
    SaveImage(tmp_path, writer=MedcycleWriter, resample=True, mode="bilinear", print_log=False)(coarse)
    again = read_volume(tmp_path / "ct/ct_trans.nii.gz")
    assert again.space == (5, 4, 4)
    assert np.allclose(again.affine, read_volume(scans[0]).affine, atol=1e-5)


def test_dicom_output_joins_the_study(tmp_path: Path, scans: list[Path], make_series: Maker) -> None:
    make_series(scans[0], 3, prefix="t", series="1.2.9.777", SeriesNumber=8, **HU)
    loaded = LoadImage(reader=MedcycleReader(series="7"), ensure_channel_first=True)(scans[0])
    save = SaveImage(tmp_path / "out", writer=MedcycleWriter, output_ext="", separate_folder=False, print_log=False)
    save(loaded)
    data = pydicom.dcmread(tmp_path / "out/ct_trans/0001.dcm")
    assert (data.Modality, data.StudyInstanceUID) == ("CT", "1.2.3.4")
    assert data.FrameOfReferenceUID == "1.2.3.5"
    again = read_volume(tmp_path / "out/ct_trans")
    assert np.array_equal(again.array, loaded.numpy())


def test_save_a_picture_and_a_bare_tensor(tmp_path: Path, scans: list[Path]) -> None:
    image = LoadImage(reader=MedcycleReader(), ensure_channel_first=True)(scans[3])
    options: dict[str, Any] = {"writer": MedcycleWriter, "separate_folder": False, "print_log": False}
    SaveImage(tmp_path, output_ext=".png", **options)(image)
    assert np.array_equal(read_volume(tmp_path / "c_trans.png").array, image.numpy())
    SaveImage(tmp_path, **options)(torch.ones(1, 3, 4, 5), filename=str(tmp_path / "bare"))
    assert read_volume(tmp_path / "bare.nii.gz").array.shape == (1, 3, 4, 5)
    with pytest.raises(RuntimeError, match=r"ScanError: .*leave out scale"):
        SaveImage(tmp_path, output_ext=".png", scale=255, **options)(image)
    with pytest.raises(RuntimeError, match=r"ScanError: .*no format to write"):
        SaveImage(tmp_path, output_ext=".dcm", **options)(image)


def test_batches(scans: list[Path]) -> None:
    chain = LoadImaged("image", reader=MedcycleReader, ensure_channel_first=True)
    batch = next(iter(DataLoader(Dataset([{"image": str(path)} for path in scans[:3]], chain), batch_size=3)))["image"]
    assert batch.shape == (3, 1, 5, 4, 4)
    assert batch.meta["filename_or_obj"] == [str(path) for path in scans[:3]]
