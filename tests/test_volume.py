"""Volume: what it says of an image, and what it refuses to be."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcycle.errors import MedcycleError, ScanError
from medcycle.volume import UNITS, Volume


def zeros(shape: tuple[int, ...]) -> Any:
    return np.zeros(shape)  # float64: a Volume makes it float32


CODES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def affine_of(codes: str, spacing: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> np.ndarray[Any, Any]:
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, code in enumerate(codes):
        row, sign = CODES[code]
        affine[row, column] = sign * spacing[column]
    affine[:3, 3] = (5, -6, 7)
    return affine


def test_what_a_volume_says() -> None:
    volume = Volume(zeros((2, 3, 4, 5)), affine_of("LPS"), "HU", {"path": "head.nii"})
    assert volume.array.dtype == np.float32
    assert volume.affine.dtype == np.float64
    assert (volume.channels, volume.space) == (2, (3, 4, 5))
    assert volume.spacing == (1.0, 2.0, 3.0)
    assert volume.orientation == "LPS"


def test_a_plane_is_a_volume_of_two_axes() -> None:
    picture = Volume(zeros((3, 7, 5)), np.diag([-1.0, -1, 1, 1]), "uint8")
    assert (picture.channels, picture.space, picture.spacing) == (3, (7, 5), (1.0, 1.0))
    assert picture.orientation == "LP"
    coronal = Volume(zeros((1, 7, 5)), affine_of("LSA"))
    assert coronal.orientation == "LS"


@given(
    st.sampled_from(["RAS", "LPS", "PIR", "ASL", "SLP", "IRA"]),
    st.tuples(*[st.floats(-0.4, 0.4)] * 3),
    st.tuples(*[st.floats(0.1, 9)] * 3),
)
def test_oblique_volumes_keep_spacing_and_nearest_axes(
    codes: str, angles: tuple[float, float, float], spacing: tuple[float, float, float]
) -> None:
    turn = np.eye(4)
    for axis, angle in enumerate(angles):
        one = np.eye(4)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        one[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = one @ turn
    affine = turn @ affine_of(codes, spacing)
    volume = Volume(zeros((1, 2, 2, 2)), affine)
    np.testing.assert_allclose(volume.spacing, spacing, rtol=1e-9)
    assert volume.orientation == "".join(nib.aff2axcodes(affine))


def test_orientation_uses_every_axis_once() -> None:
    # Both first axes lie nearest to x: the second takes the next best.
    affine = np.array([[1, 0.8, 0, 0], [0, 0.6, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    assert Volume(zeros((1, 2, 2, 2)), affine).orientation == "RAS"


def test_replace_gives_a_checked_copy() -> None:
    volume = Volume(zeros((1, 2, 2, 2)), np.eye(4), source={"path": "a"})
    other = volume.replace(unit="HU")
    assert (volume.unit, other.unit) == ("a.u.", "HU")
    assert other.source == {"path": "a"}
    with pytest.raises(ScanError, match="a: unit 'Hounsfield'; allowed are HU"):
        volume.replace(unit="Hounsfield")


def test_the_affine_is_its_own() -> None:
    given_affine = np.eye(4)
    volume = Volume(zeros((1, 2, 2)), given_affine)
    given_affine[0, 0] = 7
    assert volume.affine[0, 0] == 1


GOOD: dict[str, Any] = {"array": zeros((1, 2, 3, 4)), "affine": np.eye(4)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"array": zeros((2, 3))}, r"shape \(2, 3\); expected \(channel, i, j\)"),
        ({"array": zeros((1, 2, 3, 4, 5))}, "shape"),
        ({"array": zeros((1, 0, 3))}, "none empty"),
        ({"affine": np.eye(3)}, "not a finite 4x4 matrix"),
        ({"affine": np.diag([1, 1, 1, 2.0])}, "last row 0 0 0 1"),
        ({"affine": np.full((4, 4), np.nan)}, "not a finite 4x4 matrix"),
        ({"affine": np.diag([1, 0, 1, 1.0])}, "affine is singular"),
        ({"affine": np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])}, "affine is singular"),
        ({"affine": np.diag([1e-9, 1, 1, 1.0])}, "affine is singular"),
        ({"unit": "mT"}, "unit 'mT'; allowed are " + ", ".join(UNITS)),
        ({"array": np.array([[[0.0, np.nan], [np.inf, 1]]])}, "2 of 4 values are NaN or infinite. Replace them"),
    ],
)
def test_what_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ScanError, match=says) as caught:
        Volume(**(GOOD | change | {"source": {"path": "scans/head7.nii"}}))
    assert str(caught.value).startswith("scans/head7.nii: ")
    assert isinstance(caught.value, MedcycleError)


def test_small_voxels_are_no_mistake() -> None:
    # Microscopy: 0.5 micrometres is neither singular nor an error.
    assert Volume(zeros((1, 2, 2, 2)), np.diag([5e-4, 5e-4, 5e-4, 1.0])).spacing == (5e-4, 5e-4, 5e-4)
