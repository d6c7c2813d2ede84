"""The audit: what it finds, refuses and warns of."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medcycle.io import write_volume
from medcycle.io.manifest import Row
from medcycle.prepare import Preparation, audit, swap_warning
from medcycle.volume import Volume

CT, MR = Preparation(), Preparation(modality="mr")


def save(path, kind, seed=0, space=(16, 14, 12), spacing=(2.0, 2.0, 2.0), flip=False):
    rng = np.random.default_rng(seed)
    array = rng.normal(-1000, 10, space) if kind == "ct" else np.abs(rng.normal(0, 10, space))
    array[4:-4, 4:-4, 3:-3] = rng.uniform(*((0, 900) if kind == "ct" else (300, 800)), array[4:-4, 4:-4, 3:-3].shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing, 1.0])
    if flip:
        affine[0, 0] *= -1
    nib.save(nib.Nifti1Image(array.astype(np.float32), affine), path)
    return path


def test_two_good_domains(tmp_path):
    mr = [save(tmp_path / "mr" / f"{i}.nii.gz", "mr", i) for i in range(2)]
    ct = [save(tmp_path / "ct" / f"{i}.nii.gz", "ct", 10 + i, flip=bool(i)) for i in range(2)]
    told = []
    found = audit({"mr": (mr, MR), "ct": (ct, CT)}, size=(16, 16), progress=lambda *said: told.append(said))
    assert found.warnings == []
    assert told == [(1, 4, "0.nii.gz"), (2, 4, "1.nii.gz"), (3, 4, "0.nii.gz"), (4, 4, "1.nii.gz")]
    one = found.scans[2]
    array = nib.load(ct[0]).get_fdata(dtype=np.float32)
    assert (one.name, one.unit, one.orientation, one.space) == ("0", "HU", "RAS", (16, 14, 12))
    assert (one.minimum, one.maximum) == (array.min(), array.max())
    assert (one.p1, one.median, one.p99) == pytest.approx(tuple(np.percentile(array, (1, 50, 99))), rel=1e-5)
    assert 0.1 < one.foreground < 0.6
    assert one.prepared == (16, 14, 12)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["domains"][1]["summary"]["orientation"] == {"RAS": 1, "LAS": 1}
    assert plain["domains"][0]["summary"]["scans"] == 2


def test_swapped_domains_are_remarked_once_each(tmp_path):
    mr = [save(tmp_path / "mr" / f"{i}.nii.gz", "mr", i) for i in range(2)]
    ct = [save(tmp_path / "ct" / f"{i}.nii.gz", "ct", i) for i in range(3)]
    found = audit({"mr": (ct, MR), "ct": (mr, CT)})
    assert len(found.warnings) == 2
    assert "looks like CT in an MR domain" in found.warnings[0]
    assert "2 more scans of mr" in found.warnings[0]
    assert "does not look like CT" in found.warnings[1]


def test_swap_warning_on_values_alone():
    rng = np.random.default_rng(0)
    ct = Volume(rng.uniform(-1024, 1000, (1, 8, 8, 8)), np.eye(4), "HU", {"path": "x.nii"})
    mr = Volume(rng.uniform(0, 900, (1, 8, 8, 8)), np.eye(4))
    assert swap_warning(ct, "ct") is None
    assert swap_warning(mr, "mr") is None
    assert swap_warning(mr, "image") is None
    assert swap_warning(ct, "mr").startswith("x.nii: looks like CT")
    assert "Are the domains swapped" in swap_warning(mr, "ct")
    assert "rescale intercept" in swap_warning(ct.replace(array=ct.array + 1024), "ct")
    normalized = mr.replace(array=rng.normal(0, 1, (1, 8, 8, 8)))
    assert swap_warning(normalized, "mr") is None


def test_what_is_refused(tmp_path):
    good = save(tmp_path / "good.nii.gz", "mr")
    torn = tmp_path / "torn.nii.gz"
    torn.write_bytes(good.read_bytes()[:300])
    flat = tmp_path / "flat.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4)), flat)
    thin = save(tmp_path / "thin.nii.gz", "mr", 3, space=(40, 14, 12))
    domain = audit({"mr": ([good, torn, flat, thin], MR)}, size=(64, 14)).domains[0]
    reasons = [scan.refused for scan in domain.scans]
    assert "16 x 14 voxels, less than half" in reasons[0]
    assert "torn.nii.gz" in reasons[1]
    assert "every voxel has the value 1" in reasons[2]
    assert reasons[3] is None
    assert domain.summary()["refused"] == 3
    sagittal = audit({"mr": ([good], MR)}, size=(14, 12), axis=0).domains[0].scans[0]
    assert sagittal.refused is None
    every = audit({"mr": ([good], MR)}, size=(26, 14), axis=None).domains[0].scans[0]
    assert every.refused is None
    assert every.planes == 16 + 14 + 12
    too_wide = audit({"mr": ([good], MR)}, size=(32, 14), axis=None).domains[0].scans[0]
    assert "prepared to 14 x 12 voxels, less than half" in too_wide.refused
    patches = audit({"mr": ([good], MR)}, size=(16, 16, 32)).domains[0].scans[0]
    assert "16 x 14 x 12" in patches.refused


def test_duplicates_and_mixtures(tmp_path):
    one = save(tmp_path / "a" / "one.nii.gz", "mr", 1)
    twin = tmp_path / "b" / "twin.nii.gz"
    twin.parent.mkdir()
    twin.write_bytes(one.read_bytes())
    other = save(tmp_path / "a" / "other.nii.gz", "mr", 2, spacing=(2.0, 2.0, 5.0), flip=True)
    keep = Preparation(modality="mr", orientation=None)
    found = audit({"a": ([one, other], keep), "b": ([twin], keep)})
    assert any("the same scan 2 times" in w and "one.nii.gz" in w and "twin.nii.gz" in w for w in found.warnings)
    assert any("spacings along k run from 2 to 5 mm" in w for w in found.warnings)
    assert any("orientations differ (LAS, RAS)" in w for w in found.warnings)
    even = audit({"a": ([one, other], Preparation(modality="mr", spacing=(3.0, 3.0, 3.0)))})
    assert even.warnings == []


def test_files_without_a_preparation(tmp_path):
    from PIL import Image

    picture = tmp_path / "p.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(picture)
    scan = save(tmp_path / "s.nii.gz", "mr")
    found = audit({"scans": ([picture, scan], None)})
    assert found.domains[0].modality is None
    assert [s.foreground for s in found.scans] == [1.0, pytest.approx(0.4, abs=0.3)]
    assert found.scans[0].prepared is None
    assert any("unit differs" in w for w in found.warnings)
    assert any("number of dimensions differs" in w for w in found.warnings)


def test_a_scan_too_large_for_the_memory_is_refused_alone(tmp_path, monkeypatch):
    paths = [save(tmp_path / f"{i}.nii.gz", "mr", i) for i in range(2)]
    real = Preparation.__call__

    def full(self, volume):
        if "0.nii" in volume.source["path"]:
            raise MemoryError
        return real(self, volume)

    monkeypatch.setattr(Preparation, "__call__", full)
    first, second = audit({"mr": (paths, MR)}).scans
    assert first.refused.startswith(f"{paths[0]}: not enough memory")
    assert second.refused is None


def test_sites_patients_and_planes(tmp_path):
    paths = [save(tmp_path / f"{i}.nii.gz", "mr", i) for i in range(3)]
    rows = {path: Row(path, patient="Jane", site="A") for path in paths[:2]} | {paths[2]: Row(paths[2], patient="Joan")}
    found = audit({"mr": (paths, MR)}, rows={"mr": rows}, axis=0)
    summary = found.domains[0].summary()
    assert summary["patients"] == 2
    assert summary["sites"] == {"A": 2, "not told": 1}
    assert summary["planes"] == 3 * 16
    assert [scan.site for scan in found.scans] == ["A", "A", ""]
    text = json.dumps(found.to_dict())
    assert "Jane" not in text
    assert "Joan" not in text
    assert "patients" not in audit({"mr": (paths, MR)}).domains[0].summary()


def test_scanners_and_sequences_and_nobody(tmp_path, make_ball):
    folders = []
    for index, kernel in enumerate(("BONE", "BONE", "STANDARD")):
        folders.append(write_volume(make_ball(index, "ct"), tmp_path / f"head{index}"))
        for file in folders[-1].iterdir():
            data = pydicom.dcmread(file)
            data.Manufacturer, data.ManufacturerModelName, data.ConvolutionKernel = "GE", "CT 5", kernel
            data.PatientName, data.PatientID, data.PatientBirthDate = "Doe^Jane", "ID77", "19700101"
            data.save_as(file)
    found = audit({"ct": (folders, CT)})
    assert found.domains[0].summary()["scanners"] == {"GE CT 5, kernel BONE": 2, "GE CT 5, kernel STANDARD": 1}
    assert "sequences" not in found.domains[0].summary()
    text = json.dumps(found.to_dict())
    for secret in ("Doe", "ID77", "1970"):
        assert secret not in text


def test_domains_that_differ_in_size_or_number_are_remarked(tmp_path):
    def told(mr, ct, many=1, few=1, **settings):
        scans = [
            [save(tmp_path / name / f"{i}.nii.gz", name, i, **how) for i in range(count)]
            for name, how, count in (("mr", mr, many), ("ct", ct, few))
        ]
        one, two = (Preparation(modality=name, **settings) for name in ("mr", "ct"))
        return audit({"mr": (scans[0], one), "ct": (scans[1], two)}).warnings

    plain, fine = {"space": (30, 30, 30)}, {"space": (60, 60, 60), "spacing": (1.0, 1.0, 1.0)}
    assert told(plain, plain) == []
    said = told(plain, fine)
    assert len(said) == 1
    assert said[0].startswith("the voxels of the domains differ: mr 2 x 2 x 2 mm, ct 1 x 1 x 1 mm")
    assert "prepare.spacing" in said[0]
    assert told(plain, fine, spacing=(2.0, 2.0, 2.0)) == []
    wide = {"space": (60, 60, 30)}
    said = told(plain, wide)
    assert len(said) == 1
    assert "the fields of view of the domains differ: mr 60 x 60 x 60 mm, ct 120 x 120 x 60 mm" in said[0]
    assert "prepare.crop" in said[0]
    said = told(plain, plain, many=10)
    assert len(said) == 1
    assert said[0].startswith("10 scans of mr and 1 of ct")


def test_a_series_of_its_own(tmp_path, make_ball):
    folder = write_volume(make_ball(0, "mr"), tmp_path / "both")
    other = write_volume(make_ball(1, "mr", (20, 20, 12)), tmp_path / "other")
    for file in other.iterdir():
        data = pydicom.dcmread(file)
        data.SeriesNumber = 44
        data.save_as(folder / f"b{file.name}")
    rows = {folder: Row(Path(folder), series="44")}
    assert "2 DICOM series" in audit({"mr": ([folder], MR)}).scans[0].refused
    assert audit({"mr": ([folder], MR)}, rows={"mr": rows}).scans[0].space == (20, 20, 12)
    assert audit({"mr": ([folder], MR)}, rows={"mr": rows}, reading={"mr": {"series": "1"}}).scans[0].space[2] == 12


def test_converted_copies_are_found(tmp_path, make_ball):
    head = make_ball(1, "mr")
    write_volume(head, tmp_path / "a.nii.gz")
    write_volume(head, tmp_path / "b.mha")
    turned = head.replace(array=head.array[:, ::-1].copy(), affine=head.affine @ np.diag([-1.0, 1, 1, 1]))
    write_volume(turned, tmp_path / "c.nii")
    write_volume(head, tmp_path / "d")  # DICOM
    write_volume(make_ball(2, "mr"), tmp_path / "other.nii.gz")
    paths = [tmp_path / name for name in ("a.nii.gz", "b.mha", "c.nii", "d", "other.nii.gz")]
    (warning,) = [w for w in audit({"mr": (paths, None)}).warnings if "the same scan" in w]
    assert "the same scan 4 times" in warning
    assert "other" not in warning
