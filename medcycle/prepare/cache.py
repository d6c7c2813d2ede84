"""The cache: every prepared scan as an uncompressed memory-mapped array, made once, in parallel, and found again.

An entry is two files named by its key: KEY.npy, the array, and after it KEY.json, what is known of it. The key is made
of the scan's content, the preparation and the slicing axis, so a changed file or setting makes a new entry and touches
no other. Both are written beside themselves and renamed: an entry with a KEY.json is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medcycle.errors import MedcycleError, ScanError
from medcycle.io.files import staged, unwritable
from medcycle.prepare.audit import swap_warning
from medcycle.prepare.identity import Identities
from medcycle.prepare.preparation import Preparation
from medcycle.prepare.state import PreparedState

VERSION = 1  # of the entries; raised when the same preparation would now give other values
POINTS = 1024
STALE_SECONDS = 3600.0  # a temporary file this old belongs to a process that was killed
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """One prepared scan, read from disk page by page.

    Attributes:
        path: the scan's file or folder.
        name: the scan's file name without endings.
        array: float32 in [-1, 1], memory-mapped, shape (plane, channel, h, w): planes across the slicing axis first, so
            that one plane is contiguous on disk; h and w are the other two space axes in their order.
        foreground: float32 (plane,): share of each plane that is body.
        points: int (at most 1024, 3): random voxels (i, j, k) of the body, the same at every run.
        state: for :meth:`Preparation.restore`.
        scale: (low, high) of this scan, for :meth:`Preparation.fitted`.
        axis: the slicing axis: 0, 1 or 2 for i, j or k.
        warning: what :func:`swap_warning` said of the scan.
    """

    path: Path
    name: str
    array: npt.NDArray[np.float32]
    foreground: npt.NDArray[np.float32]
    points: npt.NDArray[np.int64]
    state: PreparedState
    scale: tuple[float, float]
    axis: int = 2
    warning: str | None = None

    def volume(self) -> npt.NDArray[np.float32]:
        """The whole scan as a view (channel, i, j, k) of the memory map; nothing is read yet."""
        return np.moveaxis(self.array, 0, 1 + self.axis)


@dataclass(frozen=True)
class Cohort:
    """The scans of a domain that could be prepared, in the order asked, and those that could not, with the reason."""

    scans: list[PreparedScan]
    failures: list[tuple[Path, str]] = field(default_factory=list)


class _CacheError(ScanError):
    """The cache folder itself cannot be written: there is no sense in trying the other scans."""


@dataclass(frozen=True)
class _Job:
    """What a worker is told; small and picklable."""

    path: Path
    key: str
    preparation: Preparation
    cache: Path
    axis: int
    series: str | None
    resample_gaps: bool


def prepare_cohort(
    paths: Sequence[Path],
    preparation: Preparation,
    cache: Path,
    *,
    workers: int = 1,
    axis: int = 2,
    series: str | None = None,
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
        series: which DICOM series of a folder (see :func:`medcycle.io.read_volume`).
        resample_gaps: accept DICOM series with missing or uneven slices (likewise).
        progress: called with (number done, number of scans, name of the last one).
        strict: raise if any scan fails; else list them in the cohort. All others are prepared in either case.

    Raises:
        ScanError: if there is no scan, a scan fails (strict), every scan fails, or the cache cannot be written.
    """
    paths = [Path(path) for path in paths]
    if not paths:
        raise ScanError("no scans to prepare: the list of paths is empty")
    _open_folder(cache)
    identities = Identities(cache / "identities.json")
    entries: dict[Path, str] = {}
    failures: dict[Path, str] = {}
    jobs: list[_Job] = []
    planned: set[str] = set()
    done = 0

    def tell(path: Path) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(set(paths)), path.name)

    for path in dict.fromkeys(paths):
        try:
            key = _entry_key(identities.of(path), preparation, axis, series, resample_gaps)
        except ScanError as error:
            failures[path] = str(error)
            tell(path)
            continue
        entries[path] = key
        if key in planned:  # the same content twice: one entry serves both
            tell(path)
        elif _load(path, key, cache, axis) is not None:
            planned.add(key)
            tell(path)
        else:
            planned.add(key)
            jobs.append(_Job(path, key, preparation, cache, axis, series, resample_gaps))
    identities.save()

    broken: dict[str, str] = {}
    with contextlib.closing(_run(jobs, workers)) as results:
        for job, message in results:
            if message is not None:
                broken[job.key] = message
            tell(job.path)
    scans = []
    for path in paths:
        if path in failures:
            continue
        if entries[path] in broken:
            failures[path] = broken[entries[path]]
            continue
        scan = _load(path, entries[path], cache, axis)
        if scan is None:
            raise _CacheError(f"{cache}: an entry vanished while it was in use. Is another program clearing the cache?")
        scans.append(scan)
    return _checked(
        Cohort(scans, [(path, failures[path]) for path in dict.fromkeys(paths) if path in failures]), strict
    )


def _checked(cohort: Cohort, strict: bool) -> Cohort:
    if cohort.failures and (strict or not cohort.scans):
        total = len(cohort.failures) + len(cohort.scans)
        listed = [f"  {message}" for _, message in cohort.failures[:20]]
        if len(cohort.failures) > 20:
            listed.append(f"  ... and {len(cohort.failures) - 20} more")
        raise ScanError(
            f"{len(cohort.failures)} of {total} scans cannot be prepared (the others are, and stay cached). Mend or "
            "remove:\n" + "\n".join(listed)
        )
    return cohort


# -- making entries ----------------------------------------------------------------------------------------------------


def _run(jobs: Sequence[_Job], workers: int) -> Generator[tuple[_Job, str | None], None, None]:
    """Do the jobs, in this process or in a pool; yields each with its error message, as they end."""
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, _make(job)
        return
    # spawn: a forked child of a process with torch's threads can hang
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        running: dict[Future[str | None], _Job] = {pool.submit(_make, job): job for job in jobs}
        for future in as_completed(running):
            yield running[future], future.result()
    except BrokenProcessPool:
        raise ScanError(
            "a preparation process died. Either memory ran out: use fewer workers; or a script started several workers "
            'without `if __name__ == "__main__":` round its code: add it, or use one worker.'
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """One thread each (torch and ITK read this when first imported, later); Ctrl-C is left to the parent, which lets
    running scans end and starts no more.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"


def _make(job: _Job) -> str | None:
    """Prepare one scan into the cache; the message of what is wrong with it, or None."""
    from medcycle.io import read_volume

    try:
        unit = "HU" if job.preparation.modality == "ct" else None
        volume = read_volume(job.path, unit=unit, series=job.series, resample_gaps=job.resample_gaps)
        prepared = job.preparation(volume)
        warning = swap_warning(volume, job.preparation.modality)
    except MemoryError:
        return f"{job.path}: not enough memory to prepare it. Use fewer workers or a coarser prepare.spacing."
    except MedcycleError as error:
        return str(error) if str(job.path) in str(error) else f"{job.path}: {error}"
    planes = np.ascontiguousarray(np.moveaxis(prepared.array, 1 + job.axis, 0))
    across = tuple(a for a in range(3) if a != job.axis)
    meta = {
        "version": VERSION,
        "shape": planes.shape,
        "foreground": prepared.foreground.mean(axis=across).tolist(),
        "points": _random_points(prepared.foreground, job.key).tolist(),
        "state": prepared.state.to_dict(),
        "warning": warning,
    }
    try:
        with staged(job.cache / f"{job.key}.npy") as file:
            np.save(file, planes)
            _flush(file)
        with staged(job.cache / f"{job.key}.json") as file:
            file.write_text(json.dumps(meta), encoding="utf-8")
            _flush(file)
    except ScanError as error:
        raise _CacheError(f"{error} Scans that are prepared already stay in the cache.") from None
    return None


def _random_points(foreground: npt.NDArray[np.bool_], key: str) -> npt.NDArray[np.int64]:
    """Up to 1024 body voxels (n, 3), drawn without replacement by a generator seeded with the key."""
    inside = np.flatnonzero(foreground)
    rng = np.random.default_rng(int(key[:16], 16))
    chosen = rng.choice(inside, min(POINTS, inside.size), replace=False) if inside.size else inside
    return np.stack(np.unravel_index(chosen, foreground.shape), axis=-1)


def _entry_key(identity: str, preparation: Preparation, axis: int, series: str | None, resample_gaps: bool) -> str:
    more = ["resample_gaps"] if resample_gaps else []
    said = json.dumps([VERSION, identity, preparation.to_dict(), axis, series, *more], sort_keys=True)
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


# -- files -------------------------------------------------------------------------------------------------------------


def _open_folder(cache: Path) -> None:
    """Make the folder and clear away what killed processes left in it."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for left in cache.glob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
    except OSError as error:
        raise _CacheError(str(unwritable(cache, error))) from None


def _flush(path: Path) -> None:
    """Have the system write a file down, so that not even a power failure can leave a whole name on half a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _load(path: Path, key: str, cache: Path, axis: int) -> PreparedScan | None:
    """The entry under a key, or None where it is missing or damaged (it is then made again)."""
    from medcycle.io import scan_name

    _allow_open_files()
    try:
        meta = json.loads((cache / f"{key}.json").read_bytes())
        array = np.load(cache / f"{key}.npy", mmap_mode="r")  # raises if the file is shorter than its header says
        if meta["version"] != VERSION or list(array.shape) != meta["shape"] or array.dtype != np.float32:
            return None
        state = PreparedState.from_dict(meta["state"])
        return PreparedScan(
            path=path,
            name=scan_name(path),
            array=array,
            foreground=np.array(meta["foreground"], dtype=np.float32),
            points=np.array(meta["points"], dtype=np.int64).reshape(-1, 3),
            state=state,
            scale=state.scale,
            axis=axis,
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
