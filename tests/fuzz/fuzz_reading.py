"""Reads damaged scans in processes of their own, so that whatever happens to one of them is counted and the rest go on.

A case is well if its scan is read, or refused with a ScanError, within the time and the memory allowed.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fuzz_cases import CANARY, CANARY_BYTE, case, seeds

SECONDS = 10.0
MEBIBYTES = 1024
"""A file of some kB may take no more than this above what the process had before, nor ask for it."""
WELL = ("read", "refused")


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        index: the case's number.
        seed: the name of the scan that was damaged.
        kind: "read" or "refused"; or what must never be: "crash", "hang", "memory", "escape" (a file from elsewhere was
            read), "leak" (a patient's name in a message), or the name of an exception.
        reason: the message's kind, without names and numbers; for what must never be, all that is known.
        seconds: it took.
        mebibytes: by which memory grew at the worst moment.
    """

    index: int
    seed: str
    kind: str
    reason: str = ""
    seconds: float = 0.0
    mebibytes: float = 0.0


def run(
    seed: int, start: int, stop: int, *, workers: int = 1, progress: Callable[[int], None] | None = None
) -> list[Outcome]:
    """Read the cases start to stop - 1; outcomes in their order."""
    with tempfile.TemporaryDirectory(prefix="medcycle-fuzz-", dir=_memory_folder()) as name:
        base = Path(name)
        found: list[Outcome] = []
        watched = [_watch(base / str(n), seed, start + n, stop, workers) for n in range(workers)]
        while watched:
            for one in list(watched):
                outcomes = next(one, None)
                if outcomes is None:
                    watched.remove(one)
                else:
                    found += outcomes
            if progress is not None:
                progress(len(found))
            time.sleep(0.05)
    return sorted(found, key=lambda outcome: outcome.index)


def _memory_folder() -> str | None:
    """Where temporary files cost no disk; None: the usual place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _watch(folder: Path, seed: int, start: int, stop: int, step: int) -> Iterator[list[Outcome]]:
    """Start a worker, and another one after whatever kills it; yields what is new whenever it is asked."""
    folder.mkdir()
    said, log = folder / "outcomes", folder / "stderr"
    while start < stop:
        said.write_bytes(b"")
        (folder / "ready").unlink(missing_ok=True)
        command = [sys.executable, __file__, *map(str, (seed, start, stop, step, folder))]
        with log.open("wb") as errors:
            process = subprocess.Popen(command, stdout=errors, stderr=errors, env=os.environ | {"OMP_NUM_THREADS": "1"})
        seen, begun = 0, start
        ended = False
        while not ended:
            ended = process.poll() is not None  # asked before the last look at what it has said
            lines = said.read_bytes().splitlines()
            complete = [json.loads(line) for line in lines if line.endswith(b"}")]
            yield [Outcome(**one) for one in complete[seen:]]
            seen = len(complete)
        begun = start + seen * step
        if process.returncode == 0:
            return
        text = log.read_text(errors="replace")
        if seen == 0 and not (folder / "ready").exists():
            raise RuntimeError(f"the reading process cannot start:\n{text[-3000:]}")
        kind = "hang" if "Timeout (" in text else "crash"
        yield [Outcome(begun, case(seed, begun).seed, kind, f"exit code {process.returncode}\n{text[-3000:]}")]
        start = begun + step


# --- In the worker ----------------------------------------------------------------------------------------------------


def work(seed: int, start: int, stop: int, step: int, folder: Path) -> None:
    """Read the cases; one line of JSON each is appended to folder/outcomes."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    (folder / CANARY).write_bytes(bytes([CANARY_BYTE]) * 4096)
    for index, one in enumerate(seeds().values()):  # so that every library is loaded before memory is measured
        place = folder / f"seed{index}"
        place.mkdir(exist_ok=True)
        attempt(one.write(place))
        shutil.rmtree(place)
    used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
    resource.setrlimit(resource.RLIMIT_AS, (used + MEBIBYTES * 2**20,) * 2)
    (folder / "ready").touch()
    with (folder / "outcomes").open("a") as out:
        for index in range(start, stop, step):
            out.write(json.dumps(asdict(one_case(seed, index, folder))) + "\n")
            out.flush()


def one_case(seed: int, index: int, folder: Path) -> Outcome:
    damaged = case(seed, index)
    place = folder / "case"
    shutil.rmtree(place, ignore_errors=True)  # of the process before, which died
    place.mkdir()
    path = damaged.write(place)
    before = _peak(reset=True)
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    began = time.perf_counter()
    kind, reason = attempt(path)
    seconds = time.perf_counter() - began
    faulthandler.cancel_dump_traceback_later()
    grown = (_peak() - before) / 1024
    if grown > MEBIBYTES:
        kind = "memory"
    shutil.rmtree(place)
    return Outcome(index, damaged.seed, kind, reason, round(seconds, 4), round(grown, 1))


def attempt(path: Path) -> tuple[str, str]:
    """Read a scan in every way that a command would: its patient, as a recording if it is one, else as a volume."""
    from medcycle.errors import ScanError
    from medcycle.io import open_recording, patient_of, read_volume

    try:
        patient_of(path)
        recording = open_recording(path)
        arrays = [frame.array for frame in recording.frames()] if recording else [read_volume(path).array]
        if any(a.min() == a.max() and a.min() in (CANARY_BYTE, CANARY_BYTE * 257) for a in arrays):
            return "escape", "a file outside of the scan's folder was read"
    except ScanError as error:
        if "Seed^Patient" in str(error):
            return "leak", str(error)
        return ("memory", str(error)) if _out_of_memory(error) else ("refused", reason_class(str(error), path))
    except BaseException as error:  # what else it may be is just the question
        import traceback

        return type(error).__name__, traceback.format_exc()[-3000:]
    return "read", ""


def _out_of_memory(error: BaseException) -> bool:
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    return any(isinstance(one, MemoryError) or "alloc" in str(one) for one in chain)


def reason_class(message: str, path: Path) -> str:
    """A message without the file's name, numbers and quoted text."""
    text = message.replace(str(path), "").replace(path.name, "")
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", " ".join(text.split()))
    return re.sub(r"\d+([.,]\d+)*", "#", text).lstrip(": ")[:70]


def _peak(*, reset: bool = False) -> int:
    """The most memory in kB this process has held since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


if __name__ == "__main__":
    work(*map(int, sys.argv[1:5]), Path(sys.argv[5]))
