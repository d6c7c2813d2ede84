from __future__ import annotations

import errno
import os

import pytest

from medcycle.data import disk
from medcycle.data.disk import alone, check_space, in_words, unwritable
from medcycle.errors import DownloadError


@pytest.mark.parametrize("flock", [True, False])
def test_one_at_a_time(tmp_path, monkeypatch, flock) -> None:
    monkeypatch.setattr(disk, "_FLOCK", flock)
    lock = tmp_path / ".x.lock"
    for _ in range(2):
        with alone(lock):
            assert lock.exists()
            for _ in range(2):  # being refused takes nothing from the holder
                with pytest.raises(DownloadError, match="another medcycle is downloading"), alone(lock):
                    pass
        assert not lock.exists()
    with pytest.raises(KeyboardInterrupt), alone(lock):
        raise KeyboardInterrupt
    assert not lock.exists()


def test_a_lock_file_that_nobody_holds(tmp_path, monkeypatch) -> None:
    lock = tmp_path / ".x.lock"
    lock.touch()
    with alone(lock):
        pass
    monkeypatch.setattr(disk, "_FLOCK", False)
    lock.touch()
    with pytest.raises(DownloadError, match="If none is running, delete this file"), alone(lock):
        pass
    assert lock.exists()


def test_a_lock_on_a_file_that_the_holder_has_just_removed(tmp_path, monkeypatch) -> None:
    lock = tmp_path / ".x.lock"
    closed: list[int] = []
    close = os.close
    monkeypatch.setattr("os.close", lambda descriptor: (closed.append(descriptor), close(descriptor)))
    for again in (False, True):  # removed; removed and made anew by a third process
        monkeypatch.setattr("fcntl.flock", lambda d, h, again=again: (lock.unlink(), again and lock.write_bytes(b"")))
        with pytest.raises(DownloadError, match="another medcycle"), alone(lock):
            pass
    assert len(closed) == 2


def test_a_file_system_without_locks(tmp_path, monkeypatch) -> None:
    def none(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(OSError, match="No locks available"), alone(tmp_path / ".x.lock"):
        pass
    assert not list(tmp_path.iterdir())


def test_room(tmp_path, monkeypatch) -> None:
    check_space(tmp_path, 1, "this")
    with pytest.raises(DownloadError, match=rf"{tmp_path}: this needs 1000000000 GB, and only .* free"):
        check_space(tmp_path, 10**18, "this")


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (111_500_000, "112 MB"),
        (999_900_000, "1 GB"),
        (20 * 10**9, "20 GB"),
    ],
)
def test_numbers_of_bytes(count, words) -> None:
    assert in_words(count) == words


def test_what_the_disk_said(tmp_path) -> None:
    assert "disk is full" in str(unwritable(tmp_path, OSError(errno.ENOSPC, "No space left")))
    told = str(unwritable(tmp_path, PermissionError(errno.EACCES, "Permission denied", "/x/y")))
    assert told.startswith("/x/y: cannot be read or written (Permission denied)")
