"""Two registered scans on one grid: the same place in both, whatever grids they came on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medcycle.errors import ScanError
from medcycle.prepare import Preparation, PreparedScan, prepare_cohort, prepare_pair

WINDOW = (-1000.0, 1000.0)
HU = Preparation(modality="ct", window=WINDOW)  # linear, whole frames
RAMP = np.array([1.5, -2.0, 2.5])  # HU a mm: a linear image, which trilinear interpolation gives exactly


def grid(spacing: tuple[float, float, float], origin: tuple[float, float, float], turn: float = 0.0) -> np.ndarray:
    """An affine, turned about z by so many degrees."""
    angle = np.deg2rad(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * spacing, origin
    return affine


def write(path: Path, affine: np.ndarray, shape: tuple[int, int, int]) -> Path:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    nib.save(nib.Nifti1Image((places @ RAMP).astype(np.float32), affine), path)
    return path


def prepared(path: Path, how: Preparation = HU, axis: int = 2) -> PreparedScan:
    return prepare_cohort([path], how, path.parent / "cache", axis=axis).scans[0]


A = grid((2, 2, 3), (-20, -20, -20)), (20, 22, 14)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("affine", "shape"),
    [
        (A[0], A[1]),  # the same
        (grid((2, 2, 3), (-16, -22, -14)), (15, 20, 12)),  # whole voxels away, smaller
        (grid((3, 1, 2), (-25, -21, -23)), (18, 50, 25)),  # other spacing, larger
        (grid((-2, 2, 3), (18, -20, -20)), (20, 22, 14)),  # left and right swapped in the file
    ],
)
def test_both_show_the_same_place(tmp_path: Path, affine: np.ndarray, shape: Any, axis: int) -> None:
    a = prepared(write(tmp_path / "a.nii", *A), axis=axis)
    b = prepared(write(tmp_path / "b.nii", affine, shape), axis=axis)
    pair = prepare_pair(a, b, tmp_path / "cache")
    assert pair.split == 1
    assert pair.array.dtype == np.float32
    of_a, of_b = (np.moveaxis(pair.array[:, n], 0, axis) for n in (0, 1))  # (i, j, k)
    if affine is not A[0]:
        inside = (slice(1, -1),) * 3  # the outer voxels may lie half a voxel past B's last centres
        of_a, of_b = of_a[inside], of_b[inside]
    assert of_a.size > 1000
    np.testing.assert_allclose(of_a, of_b, atol=2e-3 if affine is A[0] or axis < 0 else 5e-3)
    # A's values are its own, untouched.
    assert np.isin(of_a, a.array).all()
    assert len(pair.foreground) == len(pair.array)
    assert (pair.points >= 0).all()
    assert (pair.points < np.moveaxis(pair.array[:, 0], 0, axis).shape).all()


def test_of_a_turned_scan_what_neither_frame_shows_is_air_in_both(tmp_path: Path) -> None:
    a = prepared(write(tmp_path / "a.nii", *A))
    b = prepared(write(tmp_path / "b.nii", grid((2, 2, 3), (-5, -25, -20), turn=30), (20, 22, 14)))
    pair = prepare_pair(a, b, tmp_path / "cache")
    of_a, of_b = pair.array[:, 0], pair.array[:, 1]
    air = of_a == -1
    assert 0.1 < air.mean() < 0.9
    assert (of_b[air] == -1).all()
    seen = ~air & (np.abs(of_a - of_b) > 0.02)  # the outermost half voxel is B's edge value
    assert seen.mean() < 0.05


def test_a_finer_scan_is_smoothed_before_it_is_thinned(tmp_path: Path) -> None:
    a = prepared(write(tmp_path / "a.nii", *A))
    affine, shape = grid((0.5, 0.5, 3), (-20, -20, -20)), (80, 88, 14)
    noise = np.random.default_rng(0).normal(0, 100, shape).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, affine), tmp_path / "b.nii")
    pair = prepare_pair(a, prepared(tmp_path / "b.nii"), tmp_path / "cache")
    assert pair.array[:, 1].std() < 0.4 * noise.std() / 1000


def test_points_and_shares_are_of_the_body(tmp_path: Path) -> None:
    index = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"))
    body = np.linalg.norm(index - 11.5, axis=0) < 8
    how = Preparation(modality="ct", foreground=True)  # -1000 is a little above -1
    for name in "ab":
        image = np.where(body, 40, -1000).astype(np.int16)
        nib.save(nib.Nifti1Image(image[4:] if name == "b" else image, grid((2, 2, 2), (8.0 * (name == "b"), 0, 0))),
                 tmp_path / f"{name}.nii")  # fmt: skip
    pair = prepare_pair(*(prepared(tmp_path / f"{name}.nii", how) for name in "ab"), tmp_path / "cache")
    assert pair.array.shape == (24, 2, 20, 24)
    assert pair.overlap == pytest.approx(1, abs=0.01)
    i, j, k = pair.points.T
    assert (pair.array[k, 0, i, j] > -1).all()
    with_margin = np.linalg.norm(index - 11.5, axis=0) < 8 + 1  # the edge of the skin, one voxel, is body too
    assert with_margin[i + 4, j, k].all()
    assert body[i + 4, j, k].mean() > 0.7
    assert (pair.foreground > 0).tolist() == with_margin.any(axis=(0, 1)).tolist()
    sideways = pair.along(0)
    np.testing.assert_array_equal(sideways.array[:, 0], np.moveaxis(pair.array[:, 0], 0, 2))
    assert (sideways.foreground > 0).tolist() == with_margin[4:].any(axis=(1, 2)).tolist()
    assert pair.along(2) is pair


def test_found_again_and_made_again_where_damaged(tmp_path: Path) -> None:
    scans = prepared(write(tmp_path / "a.nii", *A)), prepared(write(tmp_path / "b.nii", *A))
    first = prepare_pair(*scans, tmp_path / "cache")
    file = tmp_path / "cache" / f"{first.key}.npy"
    before = file.stat().st_mtime_ns
    again = prepare_pair(*scans, tmp_path / "cache")
    assert file.stat().st_mtime_ns == before
    np.testing.assert_array_equal(first.array, again.array)
    meta = file.with_suffix(".json")
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"version": 0}))
    assert prepare_pair(*scans, tmp_path / "cache").key == first.key
    assert file.stat().st_mtime_ns > before
    other = prepare_pair(scans[0], prepared(write(tmp_path / "c.nii", grid((2, 2, 2), (-20, -20, -20)), A[1])),
                         tmp_path / "cache")  # fmt: skip
    assert other.key != first.key


@pytest.mark.parametrize("origin", [(500.0, 0.0, 0.0), (-20.0, -20.0, 23.0)])
def test_scans_of_different_places_are_no_pair(tmp_path: Path, origin: tuple[float, float, float]) -> None:
    a = prepared(write(tmp_path / "a.nii", *A))
    b = prepared(write(tmp_path / "b.nii", grid((2, 2, 3), origin), A[1]))
    with pytest.raises(
        ScanError, match=r"a\.nii and .*b\.nii: the fields of view have no body in common \(they reach"
    ) as error:
        prepare_pair(a, b, tmp_path / "cache")
    assert "x -21 to 19, y -21 to 23, z -22 to 20 mm" in str(error.value)
    assert "register the second to the first" in str(error.value)


def test_a_plane_and_a_volume_are_no_pair(tmp_path: Path) -> None:
    a = prepared(write(tmp_path / "a.nii", *A))
    flat = nib.Nifti1Image(np.arange(400, dtype=np.float32).reshape(20, 20), np.eye(4))
    nib.save(flat, tmp_path / "b.nii")
    with pytest.raises(ScanError, match="single plane"):
        prepare_pair(a, prepared(tmp_path / "b.nii"), tmp_path / "cache")
