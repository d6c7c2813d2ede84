from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medcycle.errors import ScanError
from medcycle.io import open_recording, read_volume, write_recording
from medcycle.io.recording import Recording
from medcycle.volume import Volume

AFFINE = np.array([[-0.9, 0.3, 0.0, 10], [0.3, 0.9, 0.0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])


def values(*shape: int, dtype: str = "int16") -> Any:
    return np.random.default_rng(3).integers(0, 200, shape).astype(dtype)


def nifti(path: Path, data: Any, kind: Any = nib.Nifti1Image) -> Path:
    image = kind(data, AFFINE)
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4] = 735.0
    image.header["toffset"] = 12.5
    image.header["slice_duration"] = 61.25
    image.header["aux_file"] = image.header["intent_name"] = b"Secretname"
    image.set_sform(AFFINE, code="scanner")
    image.set_qform(AFFINE, code="mni")
    nib.save(image, path)
    return path


def itk(path: Path, data: Any, compress: bool = False) -> Path:
    """`data`: (t, k, j, i)."""
    image = sitk.GetImageFromArray(data, isVector=False)
    image.SetSpacing((0.5, 0.75, 2.0, 0.04))
    image.SetOrigin((10.0, 20.0, 30.0, 0.2))
    image.SetDirection((0.6, 0.8, 0, 0, -0.8, 0.6, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path), useCompression=compress)
    return path


def opened(path: Path, unit: str | None = None) -> Recording:
    recording = open_recording(path, unit=unit)
    assert recording is not None
    return recording


def plus_one(recording: Recording) -> Iterator[Volume]:
    return (frame.replace(array=frame.array + 1) for frame in recording.frames())


# -- NIfTI -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("shape", [(5, 4, 3, 6), (5, 4, 1, 6), (5, 4, 3, 2, 1)])
def test_nifti_frames_are_those_of_separate_files(tmp_path: Path, ending: str, shape: tuple[int, ...]) -> None:
    data = values(*shape)
    recording = opened(nifti(tmp_path / f"a.{ending}", data), "HU")
    assert (recording.count, recording.space) == (shape[3], shape[:3])
    assert recording.step == pytest.approx(0.735)
    assert recording.start == pytest.approx(0.0125)
    for _ in range(2):  # anew at each call
        frames = list(recording.frames())
        assert len(frames) == shape[3]
        for index, frame in enumerate(frames):
            alone = read_volume(nifti(tmp_path / "one.nii", data[:, :, :, index].reshape(shape[:3])), unit="HU")
            np.testing.assert_array_equal(frame.array, alone.array)
            np.testing.assert_array_equal(frame.affine, alone.affine)
            assert frame.unit == "HU"
            assert frame.source["path"] == f"{tmp_path / 'a'}.{ending}, frame {index + 1}"


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_nifti_comes_back_with_its_header(tmp_path: Path, ending: str, kind: Any) -> None:
    data = values(5, 4, 3, 6)
    source = nifti(tmp_path / f"a.{ending}", data, kind)
    target = write_recording(plus_one(opened(source, "HU")), tmp_path / f"b.{ending}", opened(source))
    old, new = nib.load(source), nib.load(target)
    assert type(new) is kind
    assert new.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asanyarray(new.dataobj), data + 1)
    np.testing.assert_array_equal(new.affine, old.affine)
    assert new.header.get_zooms() == old.header.get_zooms()
    changed = {name for name in old.header if not np.array_equal(old.header[name], new.header[name])}
    texts = {"data_type", "db_name", "aux_file", "intent_name"}
    assert changed <= {"descrip", "vox_offset", "scl_slope", "scl_inter", "cal_min", "cal_max"} | texts
    assert b"synthetic" in bytes(new.header["descrip"])
    assert b"Secretname" in source.read_bytes() or ending == "nii.gz"
    assert not any(bytes(new.header[name]).strip(b"\0") for name in texts & set(new.header))


def test_nifti_scaled_and_big_endian(tmp_path: Path) -> None:
    image = nib.Nifti1Image(values(3, 4, 5, 2), AFFINE, nib.Nifti1Header(endianness=">"))
    image.header.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, -1024)
    nib.save(image, tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == b"\0\0\1\x5c"
    expected = nib.load(tmp_path / "a.nii").get_fdata()
    recording = opened(tmp_path / "a.nii")
    np.testing.assert_array_equal(np.stack([f.array[0] for f in recording.frames()], -1), expected.astype(np.float32))
    write_recording(recording.frames(), tmp_path / "b.nii", recording)
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii").get_fdata(), expected)
    assert nib.load(tmp_path / "b.nii").get_data_dtype() == np.float32


@pytest.mark.filterwarnings("ignore:.*which side is left is a guess:UserWarning")
def test_nifti_of_no_place_is_given_the_assumed_one(tmp_path: Path) -> None:
    image = nib.Nifti1Image(values(3, 4, 5, 2), None)
    image.header.set_zooms((1.5, 2.5, 3.5, 0.8))
    nib.save(image, tmp_path / "a.nii")
    recording = opened(tmp_path / "a.nii")
    new = nib.load(write_recording(recording.frames(), tmp_path / "b.nii", recording))
    np.testing.assert_allclose(new.affine, nib.load(tmp_path / "a.nii").affine)
    assert (int(new.header["sform_code"]), int(new.header["qform_code"])) == (2, 2)
    np.testing.assert_allclose(new.header.get_zooms(), (1.5, 2.5, 3.5, 0.8))


def test_nifti_colour(tmp_path: Path) -> None:
    data = np.zeros((3, 4, 1, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name in "RGB":
        data[name] = values(3, 4, 1, 5, dtype="uint8") + ord(name)
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii.gz")
    recording = opened(tmp_path / "a.nii.gz")
    assert [frame.array.shape for frame in recording.frames()] == [(3, 3, 4, 1)] * 5
    write_recording(recording.frames(), tmp_path / "b.nii.gz", recording)
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "b.nii.gz").dataobj), data)
    vectors = (frame.replace(unit="a.u.") for frame in recording.frames())
    with pytest.raises(ScanError, match="3 channels of float32"):
        write_recording(vectors, tmp_path / "c.nii.gz", recording)


def test_the_same_recording_gives_the_same_bytes(tmp_path: Path) -> None:
    recording = opened(nifti(tmp_path / "a.nii", values(3, 4, 5, 2)))
    one, two = (write_recording(recording.frames(), tmp_path / name, recording) for name in ("b.nii.gz", "c.nii.gz"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "mha"])
def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path, ending: str) -> None:
    peaks = []
    for count in (5, 5, 60):  # the first also imports
        data = np.zeros((64, 64, 8, count), np.int16)
        path = tmp_path / f"a.{ending}"
        recording = opened(itk(path, data.T.copy()) if ending == "mha" else nifti(path, data), "HU")
        del data
        tracemalloc.start()
        write_recording(recording.frames(), tmp_path / f"b.{ending}", recording)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    one = 64 * 64 * 8 * 4  # float32
    assert peaks[2] < 20 * one
    assert peaks[2] < peaks[1] + one


# -- ITK -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "compress"), [("a.mha", False), ("a.mha", True), ("a.mhd", False), ("a.nrrd", False)])
@pytest.mark.parametrize("out", ["b.mha", "b.mhd", "b.nrrd", "b.nhdr"])
def test_itk_comes_back_in_place_and_time(tmp_path: Path, name: str, compress: bool, out: str) -> None:
    data = values(6, 3, 4, 5)  # (t, k, j, i)
    source = itk(tmp_path / name, data, compress)
    recording = opened(source, "HU")
    assert (recording.count, recording.space, recording.step, recording.start) == (6, (5, 4, 3), 0.04, 0.2)
    for index, frame in enumerate(recording.frames()):
        np.testing.assert_array_equal(frame.array[0], data[index].T)
        assert frame.source["path"] == f"{source}, frame {index + 1}"
    old = sitk.ReadImage(str(source))
    point = old.TransformIndexToPhysicalPoint((2, 1, 2, 0))
    np.testing.assert_allclose((frame.affine @ (2, 1, 2, 1))[:3], np.multiply(point[:3], (-1, -1, 1)), atol=1e-9)
    write_recording(plus_one(recording), tmp_path / out, recording)
    new = sitk.ReadImage(str(tmp_path / out))
    assert new.GetPixelID() == sitk.sitkInt16
    np.testing.assert_array_equal(sitk.GetArrayFromImage(new), data + 1)
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(new, get)(), getattr(old, get)(), rtol=1e-15)


@pytest.mark.parametrize("out", ["b.mha", "b.nrrd"])
def test_itk_colour(tmp_path: Path, out: str) -> None:
    colour = values(6, 1, 4, 5, 3, dtype="uint8")
    sitk.WriteImage(sitk.GetImageFromArray(colour, isVector=True), str(tmp_path / "a.mha"))
    recording = opened(tmp_path / "a.mha", "uint8")
    write_recording(recording.frames(), tmp_path / out, recording)
    new = sitk.ReadImage(str(tmp_path / out))
    assert new.GetPixelID() == sitk.sitkVectorUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(new), colour)


def test_from_one_format_to_another(tmp_path: Path) -> None:
    data = values(6, 3, 4, 5)
    one = opened(itk(tmp_path / "a.mha", data))
    image = nib.load(write_recording(one.frames(), tmp_path / "b.nii.gz", one))
    two = opened(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(image.get_fdata().T, data)
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert (two.step, two.start) == pytest.approx((0.04, 0.2))
    write_recording(two.frames(), tmp_path / "c.mha", two)
    old, new = sitk.ReadImage(str(tmp_path / "a.mha")), sitk.ReadImage(str(tmp_path / "c.mha"))
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(new, get)(), getattr(old, get)(), atol=1e-6)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(new), data)


# -- what is none, or is damaged --------------------------------------------------------------------------------------


def test_other_files_are_no_recordings(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii", values(3, 4, 5))
    nifti(tmp_path / "b.nii", values(3, 4, 5, 1))
    nifti(tmp_path / "c.nii", values(3, 4, 5, 1, 2))
    nifti(tmp_path / "d.nii", values(3, 4, 5, 2, 2))
    (tmp_path / "e.nii").write_bytes(b"hello")
    (tmp_path / "f.mha").write_bytes(b"hello")
    sitk.WriteImage(sitk.GetImageFromArray(values(3, 4, 5)), str(tmp_path / "g.mha"))
    (tmp_path / "h.png").write_bytes(b"hello")
    for name in ("a.nii", "b.nii", "c.nii", "d.nii", "e.nii", "f.mha", "g.mha", "h.png", "missing.nii", ""):
        assert open_recording(tmp_path / name) is None


def test_one_volume_is_what_all_else_takes(tmp_path: Path) -> None:
    for path in (nifti(tmp_path / "a.nii", values(3, 4, 5, 2)), itk(tmp_path / "a.mha", values(2, 5, 4, 3))):
        with pytest.raises(ScanError, match=r"a\.(nii|mha).*time, which only `medcycle translate` takes"):
            read_volume(path)


def test_damage_names_the_frame(tmp_path: Path) -> None:
    data = values(8, 8, 8, 6)
    plain, zipped = nifti(tmp_path / "a.nii", data), tmp_path / "a.nii.gz"
    content = plain.read_bytes()
    plain.write_bytes(content[: 352 + 2 * 8**3 * 3 + 10])
    with pytest.raises(ScanError, match=r"a\.nii: its header claims 6,496 bytes .* holds 3,434"):
        open_recording(plain) or read_volume(plain)  # seen before the first frame is read
    squeezed = gzip.compress(content, compresslevel=0)
    zipped.write_bytes(squeezed[:3000])
    with pytest.raises(ScanError, match=r"a\.nii\.gz, frame 3"):
        list(opened(zipped).frames())
    zipped.write_bytes(squeezed[:-8] + b"\0" * 8)
    with pytest.raises(ScanError, match="CRC"):
        list(opened(zipped).frames())
    meta = itk(tmp_path / "a.mha", data.T.copy())
    meta.write_bytes(meta.read_bytes()[:-1500])
    with pytest.raises(ScanError, match=r"a\.mha: its header claims 6,144 bytes .* holds 4,644"):
        open_recording(meta) or read_volume(meta)
    bad = data.astype(np.float32)
    bad[1, 1, 1, 4] = np.nan
    with pytest.raises(ScanError, match=r"nan\.nii, frame 5: 1 of 512 values are NaN"):
        list(opened(nifti(tmp_path / "nan.nii", bad)).frames())


@pytest.mark.parametrize("out", ["b.nii", "b.nii.gz", "b.mha", "b.mhd", "b.nrrd"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ScanError])
def test_stopped_in_the_middle_nothing_is_left(tmp_path: Path, out: str, error: type[BaseException]) -> None:
    recording = opened(nifti(tmp_path / "a.nii", values(3, 4, 5, 6)))
    (tmp_path / out).write_bytes(b"precious")
    before = sorted(path.name for path in tmp_path.iterdir())

    def frames() -> Iterator[Volume]:
        for number, frame in enumerate(recording.frames()):
            if number == 3:
                raise error
            yield frame

    with pytest.raises(error):
        write_recording(frames(), tmp_path / out, recording)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / out).read_bytes() == b"precious"


@pytest.mark.parametrize("out", ["b.nii.gz", "b.mha"])
def test_frames_that_do_not_belong_together(tmp_path: Path, out: str) -> None:
    recording = opened(nifti(tmp_path / "a.nii", values(3, 4, 5, 3)), "HU")
    one, two, three = recording.frames()
    smaller = two.replace(array=two.array[:, :2])
    huge = two.replace(array=two.array * 1000)
    for frames, message in (
        ([one, smaller, three], "frame 2: .*one grid"),
        ([one, huge, three], "frame 2: .*need float32"),
        ([one, two], "2 frames, expected 3"),
        ([], "no frames"),
    ):
        with pytest.raises(ScanError, match=message):
            write_recording(frames, tmp_path / out, recording)
        assert not (tmp_path / out).exists()
    with pytest.raises(ScanError, match=r"a recording of 3 volumes .* goes into one file of \.nii"):
        write_recording([one, two, three], tmp_path / "folder", recording)
