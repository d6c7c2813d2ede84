"""Whatever the geometry, what is written is what is read: affine within 1e-4 mm, HU within 0.5."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.valuerep import format_number_as_ds

from medcycle.io import from_nibabel, from_sitk, read_volume, to_nibabel, to_sitk, write_volume
from medcycle.volume import Volume

LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
FILES = [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"]


def rotation(quaternion: tuple[float, float, float, float]) -> np.ndarray:
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Oblique, with axes permuted and reversed, anisotropic, anywhere within two metres."""
    unit = st.floats(-1, 1, width=32)
    quaternion = draw(st.tuples(unit, unit, unit, unit).filter(lambda q: np.linalg.norm(q) > 0.1))
    straight = draw(st.booleans())
    axes = (np.eye(3) if straight else rotation(quaternion))[:, draw(st.permutations([0, 1, 2]))]
    axes = axes * draw(st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3))
    affine = np.eye(4)
    affine[:3, :3] = axes * draw(st.tuples(*[st.floats(0.1, 12)] * 3))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-1000, 1000)] * 3))
    return affine


@st.composite
def volumes(draw: st.DrawFn, unit: str = "HU") -> Volume:
    space = draw(st.tuples(*[st.integers(1, 5)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    array = rng.uniform(-1024, 3071, (1, *space)).astype(np.float32)
    return Volume(array if unit == "HU" else array * draw(st.sampled_from((1e-4, 0.3, 7.0))), draw(affines()), unit)


def same(one: Volume, two: Volume, tolerance: float) -> None:
    assert two.array.shape == one.array.shape
    assert two.unit == one.unit
    assert abs(two.affine - one.affine).max() <= 1e-4
    # The far corner too: an error of direction grows with the distance.
    corner = np.array([*one.array.shape[1:], *[1] * (4 - one.array.ndim), 1.0])[:4]
    assert abs(two.affine @ corner - one.affine @ corner).max() <= 1e-3
    assert abs(two.array - one.array).max() <= tolerance


slow = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("suffix", FILES)
@pytest.mark.parametrize(("unit", "tolerance"), [("HU", 0.5), ("a.u.", 0.0)])
def test_files_keep_place_and_values(suffix: str, unit: str, tolerance: float) -> None:
    @slow
    @given(volume=volumes(unit))
    def check(volume: Volume) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = write_volume(volume, Path(folder) / f"scan{suffix}")
            same(volume, read_volume(path, unit=unit), tolerance)
            # Other libraries must see the same place.
            image = sitk.ReadImage(str(path))
            index = [length - 1 for length in volume.space]
            there = LPS @ np.array([*image.TransformIndexToPhysicalPoint(index), 1.0])
            assert abs(there - volume.affine @ np.array([*index, 1.0])).max() < 2e-3

    check()


def canonical(volume: Volume) -> Volume:
    """As a DICOM reader must give it: slices along the right-handed normal (in LPS and RAS alike)."""
    if np.linalg.det(volume.affine[:3, :3]) > 0:
        return volume
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (volume.space[2] - 1)
    affine[:3, 2] *= -1
    return volume.replace(array=volume.array[..., ::-1], affine=affine)


@pytest.mark.parametrize(("unit", "share"), [("HU", 0.0), ("a.u.", 1 / 131070)])
def test_dicom_keeps_place_and_values(unit: str, share: float) -> None:
    @slow
    @given(volume=volumes(unit))
    def check(volume: Volume) -> None:
        extent = float(np.ptp(volume.array))
        tolerance = 0.5 if unit == "HU" or extent >= 1000 else max(extent, 1e-6) * share * 1.01 + 1e-6
        with tempfile.TemporaryDirectory() as folder:
            path = write_volume(volume, Path(folder) / "series")
            same(canonical(volume), read_volume(path), tolerance)

    check()


@slow
@given(volume=volumes(), shear=st.floats(-0.4, 0.4), suffix=st.sampled_from(FILES))
def test_sheared_grids_survive_in_files(volume: Volume, shear: float, suffix: str) -> None:
    affine = volume.affine.copy()
    affine[:3, 2] += shear * affine[:3, 0]
    volume = volume.replace(affine=affine)
    with tempfile.TemporaryDirectory() as folder:
        same(volume, read_volume(write_volume(volume, Path(folder) / f"s{suffix}"), unit="HU"), 0.5)


@slow
@given(affine=affines(), suffix=st.sampled_from(FILES))
@example(affine=LPS, suffix=".mha")
def test_2d_scans_keep_their_plane(affine: np.ndarray, suffix: str) -> None:
    affine = affine.copy()
    affine[:3, 2] /= np.linalg.norm(affine[:3, 2])
    volume = Volume(np.arange(6, dtype=np.float32).reshape(1, 3, 2), affine, "HU")
    with tempfile.TemporaryDirectory() as folder:
        read = read_volume(write_volume(volume, Path(folder) / f"s{suffix}"), unit="HU")
    if read.array.ndim == 4:  # ITK's formats cannot place an oblique plane in 2D: one slice then
        assert suffix not in (".nii", ".nii.gz")
        read = read.replace(array=read.array[..., 0])
    same(volume, read, 0.0)


@pytest.mark.parametrize("suffix", FILES)
def test_channels_and_pictures_survive(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 65536, (3, 4, 5, 2)).astype(np.float32)
    volume = Volume(array, np.eye(4), "uint16")
    same(volume, read_volume(write_volume(volume, tmp_path / f"s{suffix}"), unit="uint16"), 0.0)


@slow
@given(volume=volumes("a.u."))
def test_library_images_there_and_back(volume: Volume) -> None:
    same(volume, from_nibabel(to_nibabel(volume)), 0.0)
    same(volume, from_sitk(to_sitk(volume)), 0.0)


# --- Files of other programs, in any format, written in any format ----------------------------------------------------

WHOLE = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 4095), "int16": (-2000, 4095)}
SLOPES, INTERCEPTS = (1.0, 2.0, 0.5, -1.25, 0.123456789), (0.0, -1024.0, 3.5, 100.25)


@dataclass(frozen=True)
class Foreign:
    """A scan as another program stores it: values are slope * stored + intercept."""

    stored: np.ndarray  # (i, j, k)
    affine: np.ndarray  # RAS+
    slope: float
    intercept: float
    unit: str
    order: list[int]  # of the slices on disk, where each is a file

    def volume(self) -> Volume:
        return Volume((self.stored * self.slope + self.intercept)[None], self.affine, self.unit)


@st.composite
def foreigners(draw: st.DrawFn, scaled: bool) -> Foreign:
    space = draw(st.tuples(*[st.integers(1, 5)] * 3))
    kind = draw(st.sampled_from(list(WHOLE)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Foreign(
        rng.integers(*WHOLE[kind], space, dtype=kind, endpoint=True),
        draw(affines()),
        draw(st.sampled_from(SLOPES)) if scaled else 1.0,
        draw(st.sampled_from(INTERCEPTS)) if scaled else 0.0,
        draw(st.sampled_from(("HU", "a.u."))),
        draw(st.permutations(range(space[2]))),
    )


def by_nibabel(scan: Foreign, folder: Path) -> Path:
    image: Any = nib.Nifti1Image(scan.stored, scan.affine)
    image.header.set_slope_inter(scan.slope, scan.intercept)
    nib.save(image, folder / "a.nii")
    return folder / "a.nii"


def by_itk(scan: Foreign, path: Path) -> Path:
    image = sitk.GetImageFromArray(np.ascontiguousarray(scan.stored.transpose()))
    lps = LPS @ scan.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))
    return path


def by_pydicom(scan: Foreign, folder: Path, make_slice: Callable[..., Any]) -> Path:
    """One file a slice, in the order asked for, by names and by Instance Number."""
    lps = LPS @ scan.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    signed, bits = scan.stored.dtype.kind == "i", 8 * scan.stored.dtype.itemsize
    for k in range(scan.stored.shape[2]):
        modality = "CT" if scan.unit == "HU" else "MR"
        data = make_slice(k, "1.2.3.4.5", Modality=modality, InstanceNumber=scan.order[k] + 1)
        data.Columns, data.Rows = scan.stored.shape[:2]
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits, bits - 1, int(signed)
        for keyword, values in (
            ("PixelSpacing", (spacing[1], spacing[0])),
            ("SliceThickness", spacing[2:]),
            ("ImagePositionPatient", (lps @ (0, 0, k, 1))[:3]),
            ("ImageOrientationPatient", (lps[:3, :2] / spacing[:2]).T.ravel()),
        ):
            setattr(data, keyword, [format_number_as_ds(float(value)) for value in values])
        data.RescaleSlope, data.RescaleIntercept = scan.slope, scan.intercept
        data.RescaleType = "HU" if scan.unit == "HU" else "US"
        content = np.ascontiguousarray(scan.stored[:, :, k].T).tobytes()
        data.PixelData = content + b"\0" * (len(content) % 2)
        data.save_as(folder / f"{scan.order[k]:03d}", enforce_file_format=True)
    return folder


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd", "/"])
@pytest.mark.parametrize("made", ["NIfTI", "MHA", "NRRD", "DICOM"])
def test_every_format_into_every_other(made: str, ending: str, make_slice: Callable[..., Any]) -> None:
    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(scan=foreigners(made in ("NIfTI", "DICOM")))
    def check(scan: Foreign) -> None:
        with tempfile.TemporaryDirectory() as top:
            folder = Path(top) / "in"
            folder.mkdir()
            path = {
                "NIfTI": lambda: by_nibabel(scan, folder),
                "MHA": lambda: by_itk(scan, folder / "a.mha"),
                "NRRD": lambda: by_itk(scan, folder / "a.nrrd"),
                "DICOM": lambda: by_pydicom(scan, folder, make_slice),
            }[made]()
            truth = scan.volume()
            truth = canonical(truth) if made == "DICOM" else truth
            read = read_volume(path, unit=scan.unit)
            same(truth, read, 1e-5 * max(1.0, float(abs(truth.array).max())))
            written = write_volume(read, f"{top}/out{ending}", like=read)
            again = read_volume(written, unit=scan.unit)
            extent = float(np.ptp(read.array))
            tolerance = 0.5001 if scan.unit == "HU" else 0.0
            if ending == "/":
                tolerance = 0.5001 if scan.unit == "HU" or extent >= 1000 else max(extent, 1e-6) / 131070 * 1.01 + 1e-5
            tolerance += 1e-7 * float(abs(read.array).max())  # of float32
            same(canonical(read) if ending == "/" else read, again, tolerance)

    check()


def test_libraries_agree_on_an_oblique_file(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation((0.02, 0.1, -0.2, 0.97)) * (0.7, 1.1, 3.3)  # near a half turn: weak as a quaternion
    affine[:3, 3] = (80, -120, 33)
    volume = Volume(np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5), affine, "a.u.")
    path = write_volume(volume, tmp_path / "a.nii.gz")
    image = nib.load(path)
    assert np.allclose(image.affine, affine, atol=1e-4)
    assert np.array_equal(image.get_fdata(), volume.array[0])
    assert image.header.get_xyzt_units()[0] == "mm"
    same(volume, from_sitk(sitk.ReadImage(str(path))), 0.0)
