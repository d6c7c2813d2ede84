"""Processes that prepare scans end with the one that started them, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import time
from medcycle.prepare.workers import run_jobs
if __name__ == "__main__":
    for job, _ in run_jobs(time.sleep, [0.0, 0.0, 0.0, 600.0], 2):
        print("done", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 and process groups are of POSIX")
def test_workers_of_a_killed_process_end(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == [b"done\n"] * 3  # one worker sleeps, one waits for a job
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    try:
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    except ProcessLookupError:
        return
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("workers live on")
