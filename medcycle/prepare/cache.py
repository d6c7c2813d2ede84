"""The cache: every prepared scan as an uncompressed memory-mapped array, made once, in parallel, and found again.

An entry is two files named by its key: KEY.npy, the array, and after it KEY.json, what is known of it. The key is made
of the scan's content, the preparation and the slicing axis, so a changed file or setting makes a new entry and touches
no other. Both are written beside themselves and renamed: an entry with a KEY.json is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medcycle.errors import MedcycleError, ScanError
from medcycle.io.files import staged, unwritable
from medcycle.prepare.identity import Identities
from medcycle.prepare.preparation import Preparation
from medcycle.prepare.remarks import swap_warning
from medcycle.prepare.state import PreparedState
from medcycle.prepare.workers import run_jobs

VERSION = 3  # of the entries; raised when the same preparation would now give other values
POINTS = 1024
STALE_SECONDS = 3600.0  # a temporary file this old belongs to a process that was killed
Progress = Callable[[int, int, str], None]
Series = str | Mapping[Path, str | None] | None


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """One prepared scan, read from disk page by page.

    Attributes:
        path: the scan's file or folder.
        name: the scan's file name without endings.
        key: of its entry in the cache; changes with the scan's content and with how it is prepared.
        array: float32 in [-1, 1], memory-mapped, shape (plane, channel, h, w): planes across the slicing axis first, so
            that one plane is contiguous on disk; h and w are the other two space axes in their order.
        foreground: float32 (plane,): share of each plane that is body.
        points: int (at most 1024, 3): random voxels (i, j, k) of the body, the same at every run.
        state: for :meth:`Preparation.restore`.
        scale: (low, high) of this scan, for :meth:`Preparation.fitted`.
        axis: the slicing axis: 0, 1 or 2 for i, j or k.
        foregrounds: `foreground` of the planes across each axis.
        warning: what :func:`swap_warning` said of the scan.
    """

    path: Path
    name: str
    key: str
    array: npt.NDArray[np.float32]
    foreground: npt.NDArray[np.float32]
    points: npt.NDArray[np.int64]
    state: PreparedState
    scale: tuple[float, float]
    foregrounds: tuple[npt.NDArray[np.float32], ...]
    axis: int = 2
    warning: str | None = None

    @property
    def channels(self) -> int:
        """Channels of the scan."""
        return int(self.array.shape[1])

    def volume(self) -> npt.NDArray[np.float32]:
        """The whole scan as a view (channel, i, j, k) of the memory map; nothing is read yet."""
        return np.moveaxis(self.array, 0, 1 + self.axis)

    def along(self, axis: int) -> PreparedScan:
        """The same scan as planes across another axis: a view, whose planes are scattered over the file."""
        if axis == self.axis:
            return self
        array = np.moveaxis(self.volume(), 1 + axis, 0)
        return replace(self, array=array, foreground=self.foregrounds[axis], axis=axis)


@dataclass(frozen=True)
class Cohort:
    """The scans of a domain that could be prepared, in the order asked, and those that could not, with the reason."""

    scans: list[PreparedScan]
    failures: list[tuple[Path, str]] = field(default_factory=list)


class CohortError(ScanError):
    """Scans of a cohort cannot be prepared; all others are, and stay cached."""


class _CacheError(ScanError):
    """The cache folder itself cannot be written: there is no sense in trying the other scans."""


@dataclass(frozen=True)
class _How:
    """How all scans of a cohort are read and prepared, and into which folder."""

    preparation: Preparation
    cache: Path
    axis: int
    series: str | None
    resample_gaps: bool

    def key(self, identity: str) -> str:
        """Of the entry of a scan with that content."""
        more = ["resample_gaps"] if self.resample_gaps else []
        said = json.dumps(
            [VERSION, identity, self.preparation.to_dict(), self.axis, self.series, *more], sort_keys=True
        )
        return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class _Job:
    """What a worker is told; small and picklable."""

    path: Path
    key: str
    how: _How


def prepare_cohort(
    paths: Sequence[Path],
    preparation: Preparation,
    cache: Path,
    *,
    workers: int = 1,
    axis: int = 2,
    series: Series = None,
    resample_gaps: bool = False,
    progress: Progress | None = None,
    strict: bool = True,
) -> Cohort:
    """Prepare all scans of a domain, or find them prepared.

    Interrupting keeps what is done; the next call goes on from there. Damaged entries are made again.

    Args:
        paths: as found by :func:`medcycle.io.find_scans`.
        preparation: the domain's.
        cache: a folder; made if missing.
        workers: number of processes; 1 works in this one. With more, a script needs the usual
            ``if __name__ == "__main__":``.
        axis: slicing axis of the prepared array (0, 1 or 2 for i, j or k).
        series: which DICOM series of a folder (see :func:`medcycle.io.read_volume`); or of each scan.
        resample_gaps: accept DICOM series with missing or uneven slices (likewise).
        progress: called with (number done, number of scans, name of the last one).
        strict: raise if any scan fails; else list them in the cohort. All others are prepared in either case.

    Raises:
        CohortError: if a scan fails (strict) or every scan does.
        ScanError: if there is no scan, or the cache cannot be written.
    """
    paths = [Path(path) for path in paths]
    if not paths:
        raise ScanError("no scans to prepare: the list of paths is empty")
    open_folder(cache)
    how = _How(preparation, cache, axis, None, resample_gaps)
    tell = _counting(progress, len(set(paths)))
    keys, jobs, failures = _look_up(paths, how, series, tell)
    broken: dict[str, str] = {}  # key -> what is wrong
    with contextlib.closing(run_jobs(_make, jobs, workers)) as results:
        for job, message in results:
            if message is not None:
                broken[job.key] = message
            tell(job.path)
    failures |= {path: broken[key] for path, key in keys.items() if key in broken}
    scans = [_found(path, keys[path], how) for path in paths if path not in failures]
    return _checked(
        Cohort(scans, [(path, failures[path]) for path in dict.fromkeys(paths) if path in failures]), strict
    )


def _counting(progress: Progress | None, total: int) -> Callable[[Path], None]:
    """To be called once for every scan that is done."""
    count = itertools.count(1)

    def tell(path: Path) -> None:
        if progress is not None:
            progress(next(count), total, path.name)

    return tell


def _look_up(
    paths: Sequence[Path], how: _How, series: Series, tell: Callable[[Path], None]
) -> tuple[dict[Path, str], list[_Job], dict[Path, str]]:
    """The key of each scan, what is still to be made, and why a scan has no key; tells of all that is done."""
    identities = Identities(how.cache / "identities.json")
    keys: dict[Path, str] = {}
    known: set[str] = set()  # entries that are there or will be made
    jobs: list[_Job] = []
    failures: dict[Path, str] = {}
    for path in dict.fromkeys(paths):
        own = replace(how, series=series.get(path) if isinstance(series, Mapping) else series)
        try:
            key = own.key(identities.of(path))
        except ScanError as error:
            failures[path] = str(error)
            tell(path)
            continue
        keys[path] = key
        if key in known or _load(path, key, how) is not None:  # in known: the same content twice
            tell(path)
        else:
            jobs.append(_Job(path, key, own))
        known.add(key)
    identities.save()
    return keys, jobs, failures


def _found(path: Path, key: str, how: _How) -> PreparedScan:
    scan = _load(path, key, how)
    if scan is None:
        raise _CacheError(f"{how.cache}: an entry vanished while it was in use. Is another program clearing the cache?")
    return scan


def _checked(cohort: Cohort, strict: bool) -> Cohort:
    if cohort.failures and (strict or not cohort.scans):
        total = len(cohort.failures) + len(cohort.scans)
        listed = [f"  {message}" for _, message in cohort.failures[:20]]
        if len(cohort.failures) > 20:
            listed.append(f"  ... and {len(cohort.failures) - 20} more")
        raise CohortError(
            f"{len(cohort.failures)} of {total} scans cannot be prepared (the others are, and stay cached). Mend or "
            "remove:\n" + "\n".join(listed)
        )
    return cohort


# -- making entries ----------------------------------------------------------------------------------------------------


def _make(job: _Job) -> str | None:
    """Prepare one scan into the cache; the message of what is wrong with it, or None."""
    from medcycle.io import read_volume

    how = job.how
    try:
        unit = "HU" if how.preparation.modality == "ct" else None
        volume = read_volume(job.path, unit=unit, series=how.series, resample_gaps=how.resample_gaps)
        prepared = how.preparation(volume)
        warning = swap_warning(volume, how.preparation.modality)
    except MemoryError:
        return f"{job.path}: not enough memory to prepare it. Use fewer workers or a coarser prepare.spacing."
    except MedcycleError as error:
        return str(error) if str(job.path) in str(error) else f"{job.path}: {error}"
    planes = np.ascontiguousarray(np.moveaxis(prepared.array, 1 + how.axis, 0))
    shares = [prepared.foreground.mean(axis=tuple({0, 1, 2} - {axis})).tolist() for axis in range(3)]
    meta = {
        "version": VERSION,
        "shape": planes.shape,
        "foregrounds": shares,
        "points": _random_points(prepared.foreground, job.key).tolist(),
        "state": prepared.state.to_dict(),
        "warning": warning,
    }
    try:
        with staged(how.cache / f"{job.key}.npy") as file:
            np.save(file, planes)
            flush(file)
        with staged(how.cache / f"{job.key}.json") as file:
            file.write_text(json.dumps(meta), encoding="utf-8")
            flush(file)
    except ScanError as error:
        raise _CacheError(f"{error} Scans that are prepared already stay in the cache.") from None
    return None


def _random_points(foreground: npt.NDArray[np.bool_], key: str) -> npt.NDArray[np.int64]:
    """Up to 1024 body voxels (n, 3), drawn without replacement by a generator seeded with the key."""
    inside = np.flatnonzero(foreground)
    rng = np.random.default_rng(int(key[:16], 16))
    chosen = rng.choice(inside, min(POINTS, inside.size), replace=False) if inside.size else inside
    return np.stack(np.unravel_index(chosen, foreground.shape), axis=-1)


# -- files -------------------------------------------------------------------------------------------------------------


def open_folder(cache: Path) -> None:
    """Make the folder and clear away what killed processes left in it."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for left in cache.glob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
    except OSError as error:
        raise _CacheError(str(unwritable(cache, error))) from None


def flush(path: Path) -> None:
    """Have the system write a file down, so that not even a power failure can leave a whole name on half a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _load(path: Path, key: str, how: _How) -> PreparedScan | None:
    """The entry under a key, or None where it is missing or damaged (it is then made again)."""
    from medcycle.io import scan_name

    _allow_open_files()
    try:
        meta = json.loads((how.cache / f"{key}.json").read_bytes())
        array = np.load(how.cache / f"{key}.npy", mmap_mode="r")  # raises if the file is shorter than its header says
        if meta["version"] != VERSION or list(array.shape) != meta["shape"] or array.dtype != np.float32:
            return None
        shares = tuple(np.array(share, dtype=np.float32) for share in meta["foregrounds"])
        state = PreparedState.from_dict(meta["state"])
        return PreparedScan(
            path=path,
            name=scan_name(path),
            key=key,
            array=array,
            foreground=shares[how.axis],
            foregrounds=shares,
            points=np.array(meta["points"], dtype=np.int64).reshape(-1, 3),
            state=state,
            scale=state.scale,
            axis=how.axis,
            warning=meta["warning"],
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _allow_open_files() -> None:
    """Raise this process's limit of open files to what the system allows: every mapped scan holds one open."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # ImportError: Windows, which has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
