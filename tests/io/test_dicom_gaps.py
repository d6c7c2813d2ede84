"""Series with missing or unevenly spaced slices: refused unless accepted, interpolated then, written as acquired."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medcycle.errors import ScanError
from medcycle.io import read_volume, write_volume
from medcycle.volume import Volume

Maker = Callable[..., Path]
OPTION = r"--resample-gaps / resample_gaps: true"

# Every series written here has the gap of its source; that it is said is tested once.
pytestmark = pytest.mark.filterwarnings("ignore:.*which are not evenly spaced:UserWarning")


def positions(folder: Path) -> list[list[str]]:
    """Image Position (Patient) of each file as its very text, in the order of the positions."""
    data = [pydicom.dcmread(file, stop_before_pixels=True) for file in folder.iterdir()]
    found = [[getattr(v, "original_string", str(v)) for v in one.ImagePositionPatient] for one in data]
    normal = np.cross(*np.array(data[0].ImageOrientationPatient, dtype=float).reshape(2, 3))
    return sorted(found, key=lambda at: float(np.array(at, dtype=float) @ normal))


def at_heights(heights: list[float]) -> Callable[[int], dict[str, Any]]:
    """For make_series: slices at these heights in mm, whose values grow with the height by 40 / mm."""

    def change(k: int) -> dict[str, Any]:
        rows, columns = np.mgrid[:4, :5]
        pixels = (40 * heights[k] + 10 * rows + columns).round().astype("<u2").tobytes()
        return {"ImagePositionPatient": [-10, -20, heights[k]], "PixelData": pixels}

    return change


def accept(folder: Path, said: str) -> Volume:
    with pytest.warns(UserWarning, match=said):
        return read_volume(folder, resample_gaps=True)


def test_missing_slices_are_interpolated(tmp_path: Path, make_series: Maker) -> None:
    folder = make_series(tmp_path / "gap", [0, 1, 2, 4, 5, 8])
    with pytest.raises(ScanError, match=rf"3 missing slice.*{OPTION}"):
        read_volume(folder)
    said = (
        r"3 of 9 slices, every 2\.500 mm, are interpolated: 1 between s97\.dcm and s95\.dcm \(5\.000 mm apart\), "
        r"2 between s94\.dcm and s91\.dcm \(7\.500"
    )
    volume = accept(folder, said)
    whole = read_volume(make_series(tmp_path / "whole", 9))  # its values are linear in k, so interpolation is exact
    assert np.allclose(volume.affine, whole.affine, atol=1e-9)
    assert np.allclose(volume.array, whole.array, atol=1e-3)
    assert np.array_equal(volume.array[..., [0, 1, 2, 4, 5, 8]], whole.array[..., [0, 1, 2, 4, 5, 8]])
    assert volume.source["places"] == [0, 1, 2, 4, 5, 8]
    assert [Path(file).name for file in volume.source["files"]] == [f"s{99 - k}.dcm" for k in (0, 1, 2, 4, 5, 8)]


def test_one_step_and_one_gap(tmp_path: Path, make_series: Maker) -> None:
    assert accept(make_series(tmp_path / "gap", [0, 1, 3]), "1 of 4 slices, every 2.500 mm").space == (5, 4, 4)


def test_the_interpolation_is_linear(tmp_path: Path, make_series: Maker) -> None:
    def change(k: int) -> dict[str, Any]:
        return {"PixelData": np.full(20, {0: 10, 1: 50, 4: 350, 5: 7}[k], "<u2").tobytes()}

    volume = accept(make_series(tmp_path / "gap", [0, 1, 4, 5], change=change), "2 of 6")
    assert volume.array[0, 2, 1].tolist() == pytest.approx([10, 50, 150, 250, 350, 7])


def test_rounded_positions_with_a_gap_stay_exact(tmp_path: Path, make_series: Maker) -> None:
    heights = [round(0.625 * k, 1) for k in (0, 1, 2, 3, 4, 5, 9, 10, 11, 12)]
    folder = make_series(tmp_path / "gap", 10, change=at_heights(heights))
    volume = accept(folder, "3 of 13 slices, every 0.625 mm")
    assert volume.source["places"] == [0, 1, 2, 3, 4, 5, 9, 10, 11, 12]
    assert volume.array[0, 0, 0, 9] == round(40 * heights[6])
    assert positions(write_volume(volume, tmp_path / "out", like=volume)) == positions(folder)


def test_even_series_are_read_the_same(tmp_path: Path, make_series: Maker) -> None:
    for folder in (
        make_series(tmp_path / "even"),
        make_series(tmp_path / "one", 1),
        make_series(tmp_path / "rounded", 5, change=at_heights([0, 0.6, 1.3, 1.9, 2.5])),
    ):
        plain = read_volume(folder)
        with warnings.catch_warnings(action="error"):
            accepting = read_volume(folder, resample_gaps=True)
        assert np.array_equal(plain.array, accepting.array)
        assert np.array_equal(plain.affine, accepting.affine)
        assert plain.source == accepting.source
        assert plain.source["places"] == list(range(plain.space[2]))


def test_uneven_slices(tmp_path: Path, make_series: Maker) -> None:
    heights = [0, 2.5, 5, 7.5, 11.25, 13.75, 16.3]  # half a step off from the fifth on
    folder = make_series(tmp_path / "uneven", 7, change=at_heights(heights))
    with pytest.raises(ScanError, match=rf"not evenly spaced.*{OPTION}"):
        read_volume(folder)
    volume = accept(folder, r"4 of 8 slices, every 2\.500 mm")
    assert volume.source["places"] == pytest.approx([0, 1, 2, 3, 4.5, 5.5, 6.52])
    expected = [40 * 2.5 * k for k in range(7)] + [40 * 16.3]  # the last plane is beyond the last slice
    assert volume.array[0, 0, 0].tolist() == pytest.approx(expected, abs=0.5)
    written = write_volume(volume, tmp_path / "out", like=volume)
    assert positions(written) == positions(folder)
    again = accept(written, "4 of 8")
    assert np.allclose(again.array[..., :4], volume.array[..., :4], atol=0.5)
    data = [pydicom.dcmread(written / f"{n:04d}.dcm") for n in range(1, 7)]  # the last was clamped, above
    acquired = [float(one.pixel_array[0, 0] * one.RescaleSlope + one.RescaleIntercept) for one in data]
    assert acquired == pytest.approx([40 * height for height in heights[:6]], abs=0.5)


def test_close_neighbours_share_no_plane(tmp_path: Path, make_series: Maker) -> None:
    folder = make_series(tmp_path / "close", 6, change=at_heights([0, 2.5, 2.6, 5, 7.5, 10]))
    volume = accept(folder, "0 of 5 slices.*are interpolated; 1 of 6 acquired slices lie off this even grid")
    assert volume.source["places"] == pytest.approx([0, 1, 1.04, 2, 3, 4])
    assert volume.array[0, 0, 0].tolist() == pytest.approx([0, 100, 200, 300, 400], abs=1e-3)


def test_mostly_missing_is_refused(tmp_path: Path, make_series: Maker) -> None:
    folder = make_series(tmp_path / "gap", [0, 1, 2, 40])
    with pytest.raises(ScanError, match="more than half of the scan would be interpolated"):
        read_volume(folder, resample_gaps=True)


def test_other_faults_stay_refused(tmp_path: Path, make_series: Maker) -> None:
    moved = make_series(
        tmp_path / "moved", [0, 1, 3, 4], change=lambda k: {"ImagePositionPatient": [-10, -20 + (k == 3), 2.5 * k]}
    )
    with pytest.raises(ScanError, match="shifted sideways unevenly"):
        read_volume(moved, resample_gaps=True)
    twice = make_series(make_series(tmp_path / "twice", [0, 1, 3]), 1, prefix="t")
    with pytest.raises(ScanError, match="where another one lies"):
        read_volume(twice, resample_gaps=True)


def test_dicom_output_has_the_acquired_slices_only(tmp_path: Path, make_series: Maker) -> None:
    def place(k: int) -> dict[str, Any]:  # more digits than a recomputed position would have, a little off its place
        return {"ImagePositionPatient": ["-10.0000000001", "-20.0000000002", f"{30 + 2.5 * k + 0.01 * (k % 2):.10f}"]}

    folder = make_series(tmp_path / "gap", [0, 1, 2, 4, 5], change=place)
    volume = accept(folder, "1 of 6")
    ct = volume.replace(unit="HU", source={})
    with pytest.warns(UserWarning, match="the 5 acquired positions, which are not evenly spaced"):
        written = write_volume(ct, tmp_path / "sct", like=volume)
    assert positions(written) == positions(folder)
    data = [pydicom.dcmread(written / f"{n:04d}.dcm") for n in range(1, 6)]
    originals = [pydicom.dcmread(file) for file in volume.source["files"]]
    for n, (one, original, k) in enumerate(zip(data, originals, (0, 1, 2, 4, 5), strict=True)):
        assert one.SourceImageSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID
        assert one.FrameOfReferenceUID == original.FrameOfReferenceUID
        assert one.ImageOrientationPatient == original.ImageOrientationPatient
        assert float(one.SliceLocation) == pytest.approx(float(original.ImagePositionPatient[2]))
        assert one.InstanceNumber == n + 1
        assert "SpacingBetweenSlices" not in one
        assert np.array_equal(one.pixel_array.T, volume.array[0, :, :, k])
    other = volume.replace(array=volume.array[..., :4])  # another grid has no gap
    assert len(list(write_volume(other, tmp_path / "other", like=volume).iterdir())) == 4


def test_an_enhanced_image_with_a_gap(tmp_path: Path, make_enhanced: Callable[..., Any]) -> None:
    data = make_enhanced(4)
    groups = data.PerFrameFunctionalGroupsSequence
    groups[3].PlanePositionSequence[0].ImagePositionPatient = [-10.0, -20.0, 20.0]
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    volume = accept(tmp_path / "a.dcm", "1 of 5")
    assert volume.source["places"] == [0, 2, 3, 4]
    written = write_volume(volume, tmp_path / "out", like=volume)
    assert [float(at[2]) for at in positions(written)] == [20, 25, 27.5, 30]


def test_other_formats_get_the_whole_grid_and_ignore_the_option(tmp_path: Path, make_series: Maker) -> None:
    volume = accept(make_series(tmp_path / "gap", [0, 1, 2, 4, 5]), "1 of 6")
    again = read_volume(write_volume(volume, tmp_path / "a.nii.gz", like=volume), resample_gaps=True)
    assert np.array_equal(again.array, volume.array)
    assert np.allclose(again.affine, volume.affine, atol=1e-5)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "acquired", "said"),
    [
        ("mr-t2", 55, r"1 of 56 slices, every 2\.500 mm, .* between 033\.dcm and 034\.dcm \(5\.000 mm apart\)"),
        ("mr-t1-missing-slices", 175, r"1 of 176 slices, every 1\.000 mm, .* between 113\.dcm and 114\.dcm \(2\.000"),
    ],
)
def test_real_series(shared_data: Path, tmp_path: Path, name: str, acquired: int, said: str) -> None:
    source = shared_data / "dicom" / name
    with pytest.raises(ScanError, match=rf"1 missing slice.*{OPTION}"):
        read_volume(source)
    volume = accept(source, said)
    assert volume.space[2] == acquired + 1
    written = write_volume(volume, tmp_path / "out", like=volume)
    assert positions(written) == positions(source)
    for file, number in zip(volume.source["files"], range(1, acquired + 1), strict=True):
        one, original = pydicom.dcmread(written / f"{number:04d}.dcm"), pydicom.dcmread(file)
        assert np.array_equal(one.pixel_array, original.pixel_array)
        assert one.ImagePositionPatient == original.ImagePositionPatient
        assert one.ImageOrientationPatient == original.ImageOrientationPatient
        assert one.FrameOfReferenceUID == original.FrameOfReferenceUID
    if shutil.which("dciodvfy"):
        done = subprocess.run(
            ["dciodvfy", "-new", str(written / "0034.dcm")], capture_output=True, text=True, check=False
        )
        assert "Error" not in done.stdout + done.stderr
