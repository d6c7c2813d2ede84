"""Every file that pydicom and nibabel install is read right, or refused for the reason in dicom_corpus.tsv."""

from __future__ import annotations

import csv
import gzip
import re
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from medcycle.errors import ScanError
from medcycle.io import find_scans, read_volume
from medcycle.volume import Volume

ROOTS = {
    "pydicom": Path(pydicom.__file__).parent / "data",
    "nibabel": Path(nibabel.__file__).parent / "nicom/tests/data",
}
PYDICOM = ROOTS["pydicom"] / "test_files"
TABLE = Path(__file__).with_name("dicom_corpus.tsv")
LPS = np.diag((-1.0, -1.0, 1.0, 1.0))


def corpus() -> dict[str, Path]:
    """Each file by its name in the table."""
    return {
        f"{name}/{file.relative_to(root).as_posix()}": file
        for name, root in ROOTS.items()
        for file in sorted(root.rglob("*"))
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }


def expected() -> dict[str, str]:
    """What the table says of each file: "read", or a pattern of the reason."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        return {row["file"]: row["outcome"] for row in csv.DictReader(lines, delimiter="\t")}


def outcome(path: Path) -> Volume | str:
    """The Volume, or the reason of the refusal; another exception, or a warning of pydicom's, fails the test."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result: Volume | str = read_volume(path)
        except ScanError as error:
            result = str(error)
    assert all(str(warning.message).startswith(str(path)) for warning in caught), [str(w.message) for w in caught]
    return result


def plain(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array (i, j, k) and LPS affine of one slice, computed from pydicom's data set and nothing else."""
    data = pydicom.dcmread(path, force=True)
    array = data.pixel_array.astype(np.float64) * float(data.get("RescaleSlope", 1)) + float(
        data.get("RescaleIntercept", 0)
    )
    along_row, along_column = np.array(data.ImageOrientationPatient, dtype=float).reshape(2, 3)
    between_rows, between_columns = (float(mm) for mm in data.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along_row * between_columns, along_column * between_rows
    normal = np.cross(along_row, along_column)
    thickness = float(data.get("SpacingBetweenSlices") or data.get("SliceThickness") or 1)
    affine[:3, 2] = normal / np.linalg.norm(normal) * abs(thickness)
    affine[:3, 3] = [float(mm) for mm in data.ImagePositionPatient]
    return array.T[:, :, None], affine


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.filterwarnings("ignore:The pixel data is 8320 bytes long")
def test_each_file_is_read_right_or_refused_for_the_known_reason() -> None:
    files, table, wrong, known = corpus(), expected(), [], 0
    for name, path in files.items():
        result = outcome(path)
        wanted = table.get(name)  # another version of the package may bring others: they must be read or refused, too
        known += wanted is not None
        if isinstance(result, str):
            assert str(path) in result
            if wanted is not None and (wanted == "read" or not re.search(wanted, result)):
                wrong.append(f"{name}: expected {wanted!r}, found {result!r}")
            continue
        if wanted not in (None, "read"):
            wrong.append(f"{name}: expected {wanted!r}, was read")
        array, affine = plain(path)
        assert np.array_equal(result.array[0], array.astype(np.float32)), name
        assert np.allclose(result.affine, LPS @ affine, rtol=0, atol=1e-4), name
        assert result.unit == ("HU" if result.source["modality"] == "CT" else "a.u."), name
    assert not wrong, "\n".join(wrong)
    assert known >= 150


def test_one_image_in_eight_encodings() -> None:
    names = ["", "_RLE", "_bigendian", "_expb", "_implicit", "_jp2klossless", "_jpeg_ls_lossless", "_padded"]
    arrays = [read_volume(PYDICOM / f"MR_small{name}.dcm").array for name in names]
    assert all(np.array_equal(array, arrays[0]) for array in arrays)


def test_a_real_enhanced_mr(tmp_path: Path) -> None:
    path = tmp_path / "philips.dcm"
    packed = ROOTS["nibabel"] / "philips_mprage.dcm.gz"
    if not packed.is_file():
        pytest.skip("this nibabel does not install its test files")
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    volume, data = read_volume(path), pydicom.dcmread(path)
    stored, lps = data.pixel_array.astype(np.float64), LPS @ volume.affine
    for number in range(0, 176, 25):
        groups = data.PerFrameFunctionalGroupsSequence[number]
        place = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        i, j, k = np.rint(np.linalg.solve(lps[:3, :3], place - lps[:3, 3])).astype(int)
        assert (i, j) == (0, 0)
        assert np.allclose(lps @ (0, 0, k, 1), (*place, 1), atol=1e-3)
        values = groups.PixelValueTransformationSequence[0]
        expected = stored[number].T * float(values.RescaleSlope) + float(values.RescaleIntercept)
        assert np.array_equal(volume.array[0, :, :, k], expected.astype(np.float32))


def test_siemens_mosaics_are_no_planes(tmp_path: Path) -> None:
    packed = ROOTS["nibabel"] / "siemens_dwi_0.dcm.gz"
    if not packed.is_file():
        pytest.skip("this nibabel does not install its test files")
    (tmp_path / "dwi").write_bytes(gzip.decompress(packed.read_bytes()))
    assert "Siemens mosaic" in str(outcome(tmp_path / "dwi"))


def test_folders_of_the_corpus() -> None:
    folders = {file.parent for file in corpus().values()}
    results = {folder: outcome(folder) for folder in sorted(folders)}
    assert all(str(folder) in result for folder, result in results.items() if isinstance(result, str))
    study = PYDICOM / "dicomdirtests"
    ct = results[study / "98892001/CT5N"]
    assert isinstance(ct, Volume)
    assert ct.space == (16, 16, 5)
    assert "161 missing slice" in str(results[study / "77654033/CT2"])
    assert "3 DICOM series" in str(results[study / "98892003/MR1"])
    assert "differ in ImageOrientationPatient" in str(results[study / "98892003/MR700"])


def test_a_dicomdir_is_its_folder() -> None:
    found = find_scans(PYDICOM / "dicomdirtests/DICOMDIR")
    assert found == find_scans(PYDICOM / "dicomdirtests")
    assert PYDICOM / "dicomdirtests/98892003/MR700" in found
    with pytest.raises(ScanError, match="1 DICOMDIR"):
        read_volume(PYDICOM / "dicomdirtests/DICOMDIR-bigEnd")
