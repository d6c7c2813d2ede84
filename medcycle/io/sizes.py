"""What a header claims against what there is: asked before memory is taken, or a decoder is handed the file."""

from __future__ import annotations

import io
import os
from pathlib import Path

from medcycle.errors import ScanError

RATIO = 1100
"""No compression of these formats makes more bytes out of one (deflate: 1032; LZW of TIFF and runs: less)."""
_SMALL = 1 << 20  # bytes that are never too many


class BoundedFile(io.BufferedReader):
    """A file to read that makes no room for more bytes than it has left, however many a damaged length asks for.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(str(path)))

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes."""
        if size is not None and size > _SMALL:
            size = min(size, max(os.fstat(self.fileno()).st_size - self.tell(), 0))
        return super().read(size)


def check_size(path: Path, claimed: int, stored: int, *, packed: bool) -> None:
    """Refuse a scan that cannot hold what its header claims.

    Args:
        path: the file, for the message.
        claimed: bytes of values by the header.
        stored: bytes on disk that can hold them.
        packed: whether they are compressed or text, so that they may be more than the stored ones.

    Raises:
        ScanError: saying both numbers.
    """
    if claimed > (max(stored * RATIO, _SMALL) if packed else stored):
        raise ScanError(
            f"{path}: its header claims {claimed:,} bytes of values, but the file holds {stored:,}"
            f"{' (compressed)' if packed else ''}. The file is damaged, truncated or of another kind."
        )


def check_memory(path: Path, values: int) -> None:
    """Refuse what this machine cannot hold at once; asked before any room is made, for a system may promise too much.

    Args:
        path: the file, for the message.
        values: bytes of them in the file, which reading holds at once.

    Raises:
        ScanError: saying both numbers.
    """
    memory = _memory()
    if values > memory:
        raise ScanError(
            f"{path}: holds {values / 2**30:,.1f} GiB of values, more than this machine's memory of "
            f"{memory / 2**30:,.1f} GiB. Crop it first, or use a larger machine."
        )


def _memory() -> int:
    """Bytes of this machine's memory; endless where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 1 << 62
