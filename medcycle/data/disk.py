"""What a disk can refuse a download: room, permission, and a second writer."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medcycle.errors import DownloadError

try:
    import fcntl

    _FLOCK = True
except ImportError:  # Windows
    _FLOCK = False


def check_space(folder: Path, needed: int, purpose: str) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        DownloadError: `folder`'s disk has less than `needed` bytes free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{folder}: {purpose} needs {in_words(needed)}, and only {in_words(free)} are free on this disk. "
            "Make room, or choose a folder on another disk."
        )


def unwritable(path: Path, error: OSError) -> DownloadError:
    """The error that says why `path` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(
            f"{path}: the disk is full ({error.strerror}). What has been downloaded stays; make room, and the same "
            "command goes on from there."
        )
    in_the_way = next((place for place in (path, *path.parents) if place.is_file()), None)
    if isinstance(error, FileExistsError | NotADirectoryError) and in_the_way is not None:
        return DownloadError(f"{in_the_way}: is a file, not a folder. Choose another folder.")
    return DownloadError(
        f"{error.filename or path}: cannot be read or written ({error.strerror or error}). Check the permission, or "
        "choose another folder."
    )


def in_words(count: int) -> str:
    """A number of bytes for people, in powers of 1000."""
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB" if size < 999.5 else f"{size:.0f} GB"


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold the lock file, and remove it at the end. Where flock is, the lock ends with its process, however that ends.

    Raises:
        DownloadError: another process holds it.
        OSError: it cannot be made, or the file system has no locks.
    """
    busy = f"{lock}: another medcycle is downloading this data set here. Wait for it, or choose another folder."
    if _FLOCK:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder may have removed the file in between: a lock on a removed file keeps nobody out.
            if not os.path.samestat(os.fstat(descriptor), lock.stat()):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):
            os.close(descriptor)
            raise DownloadError(busy) from None
        except OSError:
            os.close(descriptor)
            lock.unlink(missing_ok=True)
            raise
    else:
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        except FileExistsError:
            raise DownloadError(f"{busy} If none is running, delete this file.") from None
    try:
        yield
    finally:
        if _FLOCK:  # while it is still held
            lock.unlink(missing_ok=True)
            os.close(descriptor)
        else:  # Windows removes no open file
            os.close(descriptor)
            lock.unlink(missing_ok=True)
