"""Many scans at once: a function applied to jobs in this process or in a pool of others, results as they come."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import TypeVar

from medcycle.errors import ScanError

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Warning:
    """A warning that a worker hands back; what :func:`warnings.warn_explicit` takes."""

    message: str
    category: type[Warning]
    filename: str
    lineno: int


def run_jobs(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Generator[tuple[Job, Result], None, None]:
    """Do the jobs; yields each with its result, as they end. Close it to start no more.

    Args:
        work: a function of a module; raises nothing for what is wrong with one job.
        jobs: small and picklable.
        workers: number of processes; 1 works in this one.

    Raises:
        ScanError: a process died.
    """
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, work(job)
        return
    # spawn: a forked child of a process with torch's threads can hang
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn"), initializer=_start)
    try:
        running: dict[Future[tuple[Result, list[_Warning]]], Job] = {
            pool.submit(_quietly, work, job): job for job in jobs
        }
        for future in as_completed(running):
            result, said = future.result()
            for one in said:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
            yield running[future], result
    except BrokenProcessPool:
        raise ScanError(
            "a preparation process died. Either memory ran out: use fewer workers; or a script started several workers "
            'without `if __name__ == "__main__":` round its code: add it, or use one worker.'
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start() -> None:
    """One thread each (torch and ITK read this when first imported, later); Ctrl-C is left to the parent, which lets
    running scans end and starts no more. A parent that is killed takes its workers with it: each would wait for its
    next job for ever, as all of them hold the pipe open that jobs come through.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _quietly(work: Callable[[Job], Result], job: Job) -> tuple[Result, list[_Warning]]:
    """`work` in a worker: its warnings are handed back, for the parent to show as it shows its own."""
    with warnings.catch_warnings(record=True) as said:
        result = work(job)
    return result, list(
        dict.fromkeys(_Warning(str(one.message), one.category, one.filename, one.lineno) for one in said)
    )
