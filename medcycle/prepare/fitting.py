"""The first pass over a domain whose histograms are standardized: every training scan's landmarks, kept in the cache.

Only numbers are kept of each scan, so that memory stays flat and a cohort that grows is asked for its new scans alone.
The arrays are made in the second pass, :func:`medcycle.prepare.prepare_cohort`, whose keys hold the fitted standard.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medcycle.errors import MedcycleError, ScanError
from medcycle.io.files import staged
from medcycle.prepare.cache import VERSION, Progress, Series, flush, open_folder
from medcycle.prepare.identity import Identities
from medcycle.prepare.preparation import Preparation
from medcycle.prepare.workers import run_jobs


@dataclass(frozen=True)
class _Job:
    path: Path
    preparation: Preparation
    series: str | None
    resample_gaps: bool
    entry: Path


def fit_landmarks(
    paths: Sequence[Path],
    preparation: Preparation,
    cache: Path,
    *,
    workers: int = 1,
    series: Series = None,
    resample_gaps: bool = False,
    progress: Progress | None = None,
) -> Preparation:
    """The preparation with the standard histogram of these scans (see :mod:`medcycle.prepare.nyul`).

    A scan that cannot be prepared adds nothing; the second pass says what is wrong with it.

    Args:
        paths: the training scans of the domain, none that is held out.
        preparation: the domain's, of modality mr; others come back as they are.
        cache, workers, series, resample_gaps: as for :func:`medcycle.prepare.prepare_cohort`.
        progress: called with (number done, number of scans, name of the last one).

    Raises:
        ScanError: the cache cannot be written, or a worker died.
    """
    if preparation.modality != "mr":
        return preparation
    open_folder(cache)
    identities = Identities(cache / "identities.json")
    found: dict[Path, list[float] | None] = {}
    jobs = []
    for path in dict.fromkeys(paths):
        own = series.get(path) if isinstance(series, Mapping) else series
        with contextlib.suppress(ScanError):
            said = [VERSION, "landmarks", identities.of(path), preparation.to_dict(), own, resample_gaps]
            key = hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()
            job = _Job(path, preparation, own, resample_gaps, cache / f"{key}.landmarks.json")
            found[path] = _load(job.entry)
            if found[path] is None:
                jobs.append(job)
    identities.save()
    with contextlib.closing(run_jobs(_look, jobs, workers)) as results:
        for done, (job, landmarks) in enumerate(results, start=1):
            found[job.path] = landmarks
            if progress is not None:
                progress(done, len(jobs), job.path.name)
    return preparation.standardized(landmarks for landmarks in found.values() if landmarks)


def _look(job: _Job) -> list[float] | None:
    """One scan's landmarks, kept; None if it cannot be prepared."""
    from medcycle.io import read_volume

    try:
        volume = read_volume(job.path, series=job.series, resample_gaps=job.resample_gaps)
        landmarks = list(job.preparation.landmarks_of(volume))
    except (MemoryError, MedcycleError):
        return None
    with staged(job.entry) as file:
        file.write_text(json.dumps(landmarks), encoding="utf-8")
        flush(file)
    return landmarks


def _load(entry: Path) -> list[float] | None:
    try:
        landmarks = json.loads(entry.read_bytes())
        return [float(v) for v in landmarks] if len(landmarks) >= 2 else None
    except (OSError, ValueError, TypeError):
        return None
