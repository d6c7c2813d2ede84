"""The cache: right arrays, made once, in parallel; safe against damage, crashes and full disks."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medcycle.errors import ScanError
from medcycle.prepare import Preparation, cache, prepare_cohort, workers
from medcycle.prepare.identity import Identities, scan_files

MR = Preparation(modality="mr", orientation=None)


def write(path: Path, seed: int = 0, space=(12, 10, 8), offset: float = 0.0) -> Path:
    """A small MR: a bright noisy block in air."""
    rng = np.random.default_rng(seed)
    array = np.abs(rng.normal(0, 5, space)).astype(np.float32)
    array[3:-3, 3:-3, 2:-2] += rng.uniform(300, 900, array[3:-3, 3:-3, 2:-2].shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array + np.float32(offset), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path


@pytest.fixture
def scans(tmp_path):
    return [write(tmp_path / "mr" / f"scan{i}.nii.gz", seed=i) for i in range(3)]


@pytest.fixture
def counted(monkeypatch):
    """The paths that are really prepared (in this process)."""
    made = []
    original = cache._make

    def make(job):
        made.append(job.path)
        return original(job)

    monkeypatch.setattr(cache, "_make", make)
    return made


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_entries_hold_what_the_preparation_gives(scans, tmp_path, axis):
    from medcycle.io import read_volume

    told = []
    cohort = prepare_cohort(scans, MR, tmp_path / "cache", axis=axis, progress=lambda *said: told.append(said))
    assert [scan.path for scan in cohort.scans] == scans
    assert [scan.name for scan in cohort.scans] == ["scan0", "scan1", "scan2"]
    assert told == [(i + 1, 3, f"scan{i}.nii.gz") for i in range(3)]
    for path, scan in zip(scans, cohort.scans, strict=True):
        expected = MR(read_volume(path))
        assert isinstance(scan.array, np.memmap)
        assert scan.array[3].flags.c_contiguous  # a plane is one stretch of the file
        np.testing.assert_array_equal(scan.volume(), expected.array)
        np.testing.assert_array_equal(scan.array[3], np.take(expected.array, 3, axis=1 + axis))
        shares = [np.take(expected.foreground, n, axis=axis).mean() for n in range(expected.foreground.shape[axis])]
        np.testing.assert_allclose(scan.foreground, shares, rtol=1e-6)
        assert scan.points.shape == (min(1024, expected.foreground.sum()), 3)
        assert expected.foreground[tuple(scan.points.T)].all()
        assert len(np.unique(scan.points, axis=0)) == len(scan.points)
        assert scan.scale == expected.state.scale
        restored = MR.restore(scan.volume(), scan.state, own_scale=True)
        np.testing.assert_allclose(restored.affine, read_volume(path).affine)


def test_a_second_run_makes_nothing_and_gives_the_same(scans, tmp_path, counted):
    first = prepare_cohort(scans, MR, tmp_path / "cache")
    second = prepare_cohort(scans, MR, tmp_path / "cache")
    assert len(counted) == 3
    for one, two in zip(first.scans, second.scans, strict=True):
        np.testing.assert_array_equal(one.points, two.points)
        np.testing.assert_array_equal(one.array, two.array)


def test_only_what_changed_is_made_again(scans, tmp_path, counted):
    folder = tmp_path / "cache"
    before = prepare_cohort(scans, MR, folder).scans
    write(scans[1], seed=77)
    os.utime(scans[1], ns=(1, 1))
    changed = prepare_cohort(scans, MR, folder).scans
    assert counted[3:] == [scans[1]]
    assert not np.array_equal(changed[1].array, before[1].array)
    for path in scans:  # a touched file with the same content is found again
        os.utime(path, ns=(5, 5))
    prepare_cohort(scans, MR, folder)
    assert len(counted) == 4
    prepare_cohort(scans, Preparation(modality="mr", percentiles=(1, 99)), folder)
    assert len(counted) == 7
    prepare_cohort(scans, MR, folder)
    assert len(counted) == 7


def damage_array(folder, key):
    path = folder / f"{key}.npy"
    path.write_bytes(path.read_bytes()[:-100])


def damage_meta(folder, key):
    (folder / f"{key}.json").write_text('{"version": 1, "sha')


def foreign_meta(folder, key):
    (folder / f"{key}.json").write_text("[]")


def lose_key(folder, key):
    meta = json.loads((folder / f"{key}.json").read_text())
    del meta["state"]["low"]
    (folder / f"{key}.json").write_text(json.dumps(meta))


def lose_array(folder, key):
    (folder / f"{key}.npy").unlink()


def empty_array(folder, key):
    (folder / f"{key}.npy").write_bytes(b"")


def other_array(folder, key):
    np.save(folder / f"{key}.npy", np.zeros((2, 2), np.float32))


@pytest.mark.parametrize(
    "damage", [damage_array, damage_meta, foreign_meta, lose_key, lose_array, empty_array, other_array]
)
def test_damaged_entries_are_made_again(scans, tmp_path, counted, damage):
    folder = tmp_path / "cache"
    before = prepare_cohort(scans, MR, folder).scans
    expected = np.array(before[0].array)
    key = before[0].key
    assert Path(before[0].array.filename).name == f"{key}.npy"
    del before
    damage(folder, key)
    (folder / "identities.json").write_text("not json")
    again = prepare_cohort(scans, MR, folder).scans
    assert counted[3:] == [scans[0]]
    np.testing.assert_array_equal(again[0].array, expected)


def test_an_interrupted_run_keeps_what_is_done(scans, tmp_path, counted):
    def stop(done, total, name):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_cohort(scans, MR, tmp_path / "cache", progress=stop)
    assert len(prepare_cohort(scans, MR, tmp_path / "cache").scans) == 3
    assert counted == scans


def test_a_crash_while_writing_leaves_no_entry(scans, tmp_path, monkeypatch):
    folder = tmp_path / "cache"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    with pytest.raises(ScanError, match=r"No space left on device.*stay in the cache"):
        prepare_cohort(scans, MR, folder, strict=False)
    assert [p.name for p in folder.iterdir()] == ["identities.json"]
    monkeypatch.undo()
    assert len(prepare_cohort(scans, MR, folder).scans) == 3


def test_leftovers_of_killed_processes_are_cleared(scans, tmp_path):
    old, new = tmp_path / "cache" / ".a.npy.x.tmp", tmp_path / "cache" / ".b.npy.y.tmp"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "half.npy").write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    prepare_cohort(scans[:1], MR, tmp_path / "cache")
    assert not old.exists()
    assert new.exists()  # may be in use


def test_bad_scans_are_listed_together_and_the_good_ones_stay(scans, tmp_path, counted):
    folder = tmp_path / "cache"
    (tmp_path / "mr" / "torn.nii.gz").write_bytes(scans[0].read_bytes()[:200])
    flat = tmp_path / "mr" / "flat.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.float32), np.eye(4)), flat)
    paths = [scans[0], tmp_path / "mr" / "torn.nii.gz", scans[1], flat, tmp_path / "mr" / "gone.nii.gz"]
    with pytest.raises(ScanError) as caught:
        prepare_cohort(paths, MR, folder)
    message = str(caught.value)
    assert "3 of 5 scans" in message
    assert all(name in message for name in ("torn.nii.gz", "flat.nii.gz", "gone.nii.gz"))
    counted.clear()
    cohort = prepare_cohort(paths, MR, folder, strict=False)
    assert [scan.path for scan in cohort.scans] == [scans[0], scans[1]]
    assert [path.name for path, _ in cohort.failures] == ["torn.nii.gz", "flat.nii.gz", "gone.nii.gz"]
    assert scans[0] not in counted
    with pytest.raises(ScanError, match="1 of 1 scans"):
        prepare_cohort([flat], MR, folder, strict=False)


def test_many_failures_are_cut_short(tmp_path):
    missing = [tmp_path / f"no{i:02}.nii" for i in range(25)]
    with pytest.raises(ScanError, match=r"no19\.nii(.|\n)*and 5 more"):
        prepare_cohort(missing, MR, tmp_path / "cache")
    with pytest.raises(ScanError, match="no scans"):
        prepare_cohort([], MR, tmp_path / "cache")


def test_a_cache_that_cannot_be_made_is_an_error_of_the_cache(scans, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ScanError, match=r"file.*cannot be written"):
        prepare_cohort(scans, MR, tmp_path / "file" / "cache")


def test_the_same_content_twice_is_one_entry(scans, tmp_path, counted):
    twin = tmp_path / "mr" / "twin.nii.gz"
    twin.write_bytes(scans[0].read_bytes())
    cohort = prepare_cohort([scans[0], twin], MR, tmp_path / "cache")
    assert counted == [scans[0]]
    assert [scan.name for scan in cohort.scans] == ["scan0", "twin"]
    assert cohort.scans[0].key == cohort.scans[1].key


def test_two_processes_give_what_one_gives(scans, tmp_path):
    broken = tmp_path / "mr" / "torn.nii.gz"
    broken.write_bytes(b"nothing")
    told = []
    parallel = prepare_cohort(
        [*scans, broken], MR, tmp_path / "two", workers=2, strict=False, progress=lambda *said: told.append(said)
    )
    serial = prepare_cohort(scans, MR, tmp_path / "one")
    assert [said[:2] for said in told] == [(i + 1, 4) for i in range(4)]
    assert [path for path, _ in parallel.failures] == [broken]
    for one, two in zip(serial.scans, parallel.scans, strict=True):
        assert one.key == two.key
        np.testing.assert_array_equal(one.array, two.array)
        np.testing.assert_array_equal(one.points, two.points)


def test_warnings_of_other_processes_are_shown_by_this_one(tmp_path, capfd):
    from medcycle.io import read_volume, write_volume

    folders = []
    for i in range(2):
        folder = write_volume(read_volume(write(tmp_path / f"{i}.nii", seed=i)), tmp_path / f"series{i}")
        (folder / "0004.dcm").unlink()
        folders.append(folder)
    with pytest.warns(UserWarning, match="1 of 8 slices") as said:
        cohort = prepare_cohort(folders, MR, tmp_path / "cache", workers=2, resample_gaps=True)
    assert len(cohort.scans) == 2
    gaps = sorted(str(one.message) for one in said if "1 of 8 slices" in str(one.message))
    assert [text.split(":")[0] for text in gaps] == [str(folder) for folder in folders]
    assert "slices" not in capfd.readouterr().err


def test_a_dead_worker_is_explained(scans, tmp_path, monkeypatch):
    class Dying(ThreadPoolExecutor):
        def __init__(self, workers, **_):
            super().__init__(workers)

        def submit(self, *_):
            return super().submit(self._die)

        def _die(self):
            raise BrokenProcessPool("killed")

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Dying)
    with pytest.raises(ScanError, match=r"process died.*fewer workers.*__main__"):
        prepare_cohort(scans, MR, tmp_path / "cache", workers=2)
    monkeypatch.undo()
    assert len(prepare_cohort(scans, MR, tmp_path / "cache").scans) == 3


def test_a_killed_run_goes_on_where_it_was(scans, tmp_path):
    folder = tmp_path / "cache"
    script = f"""
import os, signal
from pathlib import Path
import numpy as np
from medcycle.prepare import Preparation, prepare_cohort
save, calls = np.save, []
def half(file, array):
    calls.append(file)
    save(file, array)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
np.save = half
paths = [Path(p) for p in {[str(p) for p in scans]!r}]
prepare_cohort(paths, Preparation(modality="mr", orientation=None), Path({str(folder)!r}))
"""
    code = subprocess.run([sys.executable, "-c", script], cwd=Path(cache.__file__).parents[2], check=False).returncode
    assert code == -9
    assert len(list(folder.glob("*.npy"))) == 1
    cohort = prepare_cohort(scans, MR, folder)
    fresh = prepare_cohort(scans, MR, tmp_path / "fresh")
    for one, two in zip(cohort.scans, fresh.scans, strict=True):
        np.testing.assert_array_equal(one.array, two.array)


def test_a_swapped_domain_is_remarked(tmp_path):
    path = write(tmp_path / "a.nii.gz")
    (scan,) = prepare_cohort([path], Preparation(orientation=None), tmp_path / "cache").scans
    assert "does not look like CT" in scan.warning
    (scan,) = prepare_cohort([path], Preparation(orientation=None), tmp_path / "cache").scans
    assert "does not look like CT" in scan.warning


def test_scans_can_be_sent_to_another_process(scans, tmp_path):
    (scan,) = prepare_cohort(scans[:1], MR, tmp_path / "cache").scans
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(scan)).array, scan.array)


def test_more_scans_than_the_soft_limit_of_open_files(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    paths = [write(tmp_path / f"{i}.nii", seed=i, space=(8, 8, 6)) for i in range(40)]
    opened = Path("/proc/self/fd")
    in_use = max(int(file.name) for file in opened.iterdir()) if opened.is_dir() else 30
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 20, hard))
    try:
        assert len(prepare_cohort(paths, MR, tmp_path / "cache").scans) == 40
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_identity_is_that_of_all_bytes(tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(name.encode())
    (folder / ".hidden").write_bytes(b"x")
    before = Identities().of(folder)
    (folder / ".hidden").write_bytes(b"yy")
    assert Identities().of(folder) == before
    (folder / "b").write_bytes(b"c")
    assert Identities().of(folder) != before
    header, raw = tmp_path / "v.mhd", tmp_path / "my voxels.raw"
    header.write_text("ObjectType = Image\nElementDataFile = my voxels.raw\n")
    raw.write_bytes(b"1")
    assert scan_files(header) == [header, raw]
    before = Identities().of(header)
    raw.write_bytes(b"2")
    assert Identities().of(header) != before
    with pytest.raises(ScanError, match="no such"):
        Identities().of(tmp_path / "gone")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("v.mhd", "ObjectType = Image\nElementDataFile = LIST\nparts/s 001.raw\nparts/s 002.raw\n"),
        ("v.mhd", "ObjectType = Image\nElementDataFile = parts/s %03d.raw 1 2 1\n"),
        ("v.nhdr", "NRRD0004\ntype: short\ndata file: LIST\nparts/s 001.raw\nparts/s 002.raw\n"),
        ("v.nhdr", "NRRD0004\ntype: short\ndata file: ./parts/s %03d.raw 1 2 1 2\n"),
    ],
)
def test_identity_of_a_header_with_many_data_files(tmp_path, name, text):
    header, parts = tmp_path / name, tmp_path / "parts"
    header.write_text(text)
    parts.mkdir()
    for file in ("s 001.raw", "s 002.raw", "other.raw"):
        (parts / file).write_bytes(b"1")
    assert [file.name for file in scan_files(header)] == [name, "s 001.raw", "s 002.raw"]
    before = Identities().of(header)
    (parts / "other.raw").write_bytes(b"2")
    assert Identities().of(header) == before
    (parts / "s 002.raw").write_bytes(b"2")
    assert Identities().of(header) != before


def test_identities_are_remembered(tmp_path, monkeypatch):
    scan, memo = tmp_path / "a", tmp_path / "memo.json"
    scan.write_bytes(b"content")
    one = Identities(memo)
    said = one.of(scan)
    one.save()

    def never(_):
        raise AssertionError("read again")

    monkeypatch.setattr("medcycle.prepare.identity._content", never)
    assert Identities(memo).of(scan) == said


def test_gaps_are_accepted_if_asked_and_the_key_says_so(tmp_path, counted):
    from medcycle.io import read_volume, write_volume

    scan = read_volume(write(tmp_path / "a.nii"))
    folder = write_volume(scan, tmp_path / "series")
    whole = prepare_cohort([folder], MR, tmp_path / "cache").scans[0]
    assert (
        prepare_cohort([folder], MR, tmp_path / "cache", resample_gaps=True).scans[0].array.shape == whole.array.shape
    )
    assert len(counted) == 2  # an entry of its own: a gap accepted once is not accepted for good
    (folder / "0004.dcm").unlink()
    with pytest.warns(UserWarning, match="1 of 8 slices"):
        gapped = prepare_cohort([folder], MR, tmp_path / "cache", resample_gaps=True).scans[0]
    assert gapped.array.shape == whole.array.shape
    with pytest.raises(ScanError, match=r"1 missing slice.*resample_gaps: true"):
        prepare_cohort([folder], MR, tmp_path / "cache")


def test_memory_stays_flat(tmp_path):
    """What is held when a scan is done, and at most in between, is the same at the 4th and at the 10th."""
    from medcycle.prepare import fit_landmarks

    paths = [write(tmp_path / "mr" / f"scan{i:02d}.nii.gz", seed=i, space=(32, 32, 32)) for i in range(10)]
    array = 4 * 32**3
    held, highest = [], []

    def look(*_):
        now, most = tracemalloc.get_traced_memory()
        held.append(now)
        highest.append(most)
        tracemalloc.reset_peak()

    prepare_cohort(paths[:1], MR, tmp_path / "other")  # imports what is needed
    tracemalloc.start()
    try:
        for work in (fit_landmarks, prepare_cohort):
            held.clear()
            highest.clear()
            tracemalloc.reset_peak()
            work(paths, MR, tmp_path / "cache", progress=look)
            assert len(held) == 10
            assert held[9] - held[3] < array, work
            assert max(highest[4:]) - max(highest[:4]) < array, work
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("stored", [0, 2])
def test_a_scan_shows_its_planes_along_every_axis(scans, tmp_path, stored):
    from medcycle.io import read_volume

    (scan,) = prepare_cohort(scans[:1], MR, tmp_path / "cache", axis=stored).scans
    expected = MR(read_volume(scans[0]))
    for axis in (2, 0, 1):
        turned = scan.along(axis)
        assert turned.axis == axis
        np.testing.assert_array_equal(turned.array, np.moveaxis(expected.array, 1 + axis, 0))
        np.testing.assert_array_equal(turned.volume(), expected.array)
        shares = expected.foreground.mean(axis=tuple(a for a in range(3) if a != axis))
        np.testing.assert_allclose(turned.foreground, shares, rtol=1e-6)
        assert np.shares_memory(turned.array, scan.array)
        np.testing.assert_array_equal(turned.along(stored).array, scan.array)
