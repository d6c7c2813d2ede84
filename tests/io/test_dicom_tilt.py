"""A tilted gantry's stack is straightened: compared with a phantom known at every point of the patient."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcycle.errors import ScanError
from medcycle.io import read_volume
from medcycle.volume import Volume

Maker = Callable[..., Path]
LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
COLUMNS, ROWS, SLICES = 40, 36, 14
BETWEEN_COLUMNS, BETWEEN_ROWS, STEP = 1.5, 1.25, 3.0
STRAIGHT = np.array([[1.0, 0, 0], [0, 1, 0]])


def phantom(points: Any) -> Any:
    """HU at points (..., 3) in LPS+ mm: an ellipsoid off the middle with a soft rim, in air."""
    radius = np.linalg.norm((points - (3.0, -2.0, 20.0)) / (17.0, 13.0, 22.0), axis=-1)
    return -1000 + 1040 / (1 + np.exp((radius - 1) / 0.12))


def sampled(folder: Path, make_series: Maker, axes: np.ndarray, move: np.ndarray, **attributes: Any) -> Path:
    """CT slices of the phantom; each position is the one before plus `move`."""
    first = -axes[0] * BETWEEN_COLUMNS * (COLUMNS - 1) / 2 - axes[1] * BETWEEN_ROWS * (ROWS - 1) / 2

    def change(k: int) -> dict[str, Any]:
        corner = first + move * k
        rows, columns = np.mgrid[:ROWS, :COLUMNS]
        points = corner + columns[..., None] * axes[0] * BETWEEN_COLUMNS + rows[..., None] * axes[1] * BETWEEN_ROWS
        pixels = np.rint(phantom(points) + 1024).astype("<u2")
        return {"ImagePositionPatient": [f"{value:.6f}" for value in corner], "PixelData": pixels.tobytes()}

    return make_series(
        folder,
        SLICES,
        change=change,
        Rows=ROWS,
        Columns=COLUMNS,
        PixelSpacing=[BETWEEN_ROWS, BETWEEN_COLUMNS],
        ImageOrientationPatient=[f"{value:.12f}" for value in axes.reshape(-1)],
        Modality="CT",
        RescaleSlope=1,
        RescaleIntercept=-1024,
        **attributes,
    )


def error(volume: Volume) -> float:
    """Mean difference in HU from the phantom sampled on the volume's own grid."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in volume.space], indexing="ij"), axis=-1)
    lps = LPS @ volume.affine
    return float(abs(phantom(grid @ lps[:3, :3].T + lps[:3, 3]) - volume.array[0]).mean())


def read(folder: Path, said: str) -> Volume:
    with pytest.warns(UserWarning, match=said) as caught:
        volume = read_volume(folder)
    assert len(caught) == 1
    return volume


@pytest.mark.parametrize("degrees", [-20.0, 6.0, 25.0])
def test_a_tilted_gantry_is_straightened(tmp_path: Path, make_series: Maker, degrees: float) -> None:
    # The planes lean about the x axis, while the table moves along z.
    angle = np.radians(degrees)
    axes = np.array([[1, 0, 0], [0, np.cos(angle), np.sin(angle)]])
    folder = sampled(tmp_path / "tilt", make_series, axes, np.array([0, 0, STEP]), GantryDetectorTilt=degrees)
    way = "posterior" if degrees > 0 else "anterior"
    volume = read(folder, rf"sheared by a gantry tilt of {abs(degrees):.1f} degrees towards {way}.*interpolation")
    directions = volume.affine[:3, :3] / volume.spacing
    assert np.allclose(directions.T @ directions, np.eye(3), atol=1e-6)
    assert volume.spacing == pytest.approx((BETWEEN_COLUMNS, BETWEEN_ROWS, STEP * np.cos(angle)), abs=1e-4)
    assert volume.space[0] == COLUMNS
    assert volume.space[1] == ROWS + np.ceil(abs(STEP * np.sin(angle) * (SLICES - 1) / BETWEEN_ROWS))
    assert volume.source["tilt"] == pytest.approx(abs(degrees), abs=0.01)
    # Half a pixel's move would give 12 HU and more, the tilt ignored 40 and more.
    assert error(volume) < 4


def test_shear_along_both_axes_and_air_outside(tmp_path: Path, make_series: Maker) -> None:
    folder = sampled(tmp_path / "both", make_series, STRAIGHT, np.array([-0.7, 0.4, STEP]))
    volume = read(folder, "towards right")
    assert volume.space == (COLUMNS + 7, ROWS + 5, SLICES)
    assert error(volume) < 4
    assert volume.array[0, 0, :, 0].tolist() == [-1000] * volume.space[1]  # beside the first slice, which lies right
    mr = read_volume_as_mr(folder)
    assert mr.array.min() == mr.array[0, 0, 0, 0] == -1000


def read_volume_as_mr(folder: Path) -> Volume:
    with pytest.warns(UserWarning, match="sheared"):
        return read_volume(folder, unit="a.u.")


def test_a_straight_stack_is_left_alone(tmp_path: Path, make_series: Maker) -> None:
    folder = sampled(tmp_path / "straight", make_series, STRAIGHT, np.array([0.0, 0, STEP]), GantryDetectorTilt=0)
    with warnings.catch_warnings(action="error"):
        volume = read_volume(folder)
    assert volume.space == (COLUMNS, ROWS, SLICES)
    assert "tilt" not in volume.source
    assert error(volume) < 0.5


def test_a_gap_in_a_tilted_stack(tmp_path: Path, make_series: Maker) -> None:
    angle = np.radians(15)
    axes = np.array([[1, 0, 0], [0, np.cos(angle), np.sin(angle)]])
    folder = sampled(tmp_path / "tilt", make_series, axes, np.array([0, 0, STEP]))
    (folder / "s94.dcm").unlink()
    with pytest.warns(UserWarning, match="sheared"), pytest.warns(UserWarning, match=r"1 of 14 slices"):
        volume = read_volume(folder, resample_gaps=True)
    assert volume.space[2] == SLICES
    assert error(volume) < 8  # the missing plane is interpolated along the straightened normal


def test_other_shifts_are_refused(tmp_path: Path, make_series: Maker) -> None:
    steep = make_series(
        tmp_path / "steep",
        change=lambda k: {"ImagePositionPatient": [-10, -20 + 3 * k, 2.5 * k]},
        GantryDetectorTilt=50,
    )
    with pytest.raises(ScanError, match=r"by 50\.2 degrees \(Gantry/Detector Tilt says 50\.0\), more than the 45"):
        read_volume(steep)
    moved = make_series(tmp_path / "moved", change=lambda k: {"ImagePositionPatient": [-10 + (k == 2), -20, 2.5 * k]})
    with pytest.raises(ScanError, match=r"shifted sideways unevenly.*Tilt says nothing"):
        read_volume(moved)
