"""Pictures out of a zip that nobody vouches for: all of its names are judged first, then only what is wanted is read.

What is written: picture files (by their ending) that lie directly in trainA, trainB, testA or testB of the one place
in the archive that holds these folders. What is passed over, and never written: everything outside these folders,
other files in them (readme.txt, Thumbs.db), hidden files, and __MACOSX. What makes the whole archive be refused is in
:func:`unpack`.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medcycle.data.disk import check_space, in_words
from medcycle.errors import DownloadError

FOLDERS = ("trainA", "trainB", "testA", "testB")
"""The layout that the original program reads."""

PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")

MOST_MEMBERS = 200_000
MOST_BYTES = 20 * 10**9
MOST_RATIO = 200
"""Unpacked to packed size of one member; pictures are compressed already, so theirs is near 1."""
FREE_RATIO = 10**6
"""Bytes below which a member may have any ratio: an even picture packs well."""

_COLON = "_" if os.name == "nt" else ":"
"""The photographs of several sets are named by the time of day (12:30:59.jpg), which Windows cannot write."""

_BLOCK = 1 << 20
_LOCAL_HEADER = 30
"""Bytes before each member's name and content."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError)
"""What zipfile raises on bytes that are no zip, or not quite (RuntimeError includes NotImplementedError)."""

_Place = tuple[str, ...]


class ArchiveError(DownloadError):
    """The archive itself is wrong: damaged, hostile, or of another layout. The caller adds which archive it is."""


def unpack(archive: Path, folder: Path, required: Sequence[str] = FOLDERS) -> str:
    """Write the pictures of a zip into the new folder `folder`, as trainA/NAME and so on.

    The archive may hold the folders at its top, in one folder of any name, or in a folder in that. Each picture's
    size and CRC are checked.

    Args:
        archive: the zip.
        folder: must not exist; its parent must. If anything is raised, the caller has to remove what is there.
        required: the folders that must hold a picture each; the others of :data:`FOLDERS` are taken if they are there.

    Returns:
        The name of the folder that held them, "" at the top.

    Raises:
        ArchiveError: no zip, or damaged; the folders are missing or in several places; a name that is absolute, leads
            upwards, starts with a drive letter, has a backslash, a control character or a part of over 255 bytes, or
            comes twice (also in other case); a link or another special file; an encrypted member or an unknown
            compression; members that overlap; more than MOST_MEMBERS members, more than MOST_BYTES bytes, or a member
            of more than MOST_RATIO times its packed size; a picture in a folder inside trainA (and so on).
        DownloadError: the disk is too small.
        OSError: the disk cannot be written.
    """
    with _opened(archive) as opened:
        members = opened.infolist()
        _judge(members)
        place, pictures = _pictures(members, required)
        check_space(folder.parent, sum(info.file_size for info in pictures.values()), "unpacking")
        folder.mkdir()
        for part in sorted({Path(path).parent for path in pictures}):
            (folder / part).mkdir()
        for path, info in pictures.items():
            _extract(opened, info, folder / path)
    return place[-1] if place else ""


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        opened = zipfile.ZipFile(archive)
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that one is a seek to before the beginning
            raise
        with archive.open("rb") as file:
            head = file.read(60)
        if head.startswith(b"PK"):
            raise ArchiveError(f"a damaged or incomplete zip ({error}).") from error
        raise ArchiveError(
            f"is no zip. It begins with {head!r}: what some servers and proxies send in place of a file. "
            "Look at the address in a browser."
        ) from error
    with opened:
        yield opened


# --- Judging ----------------------------------------------------------------------------------------------------------


def _judge(members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse the archive if any of its members, wanted or not, is one that no honest data set has."""
    if len(members) > MOST_MEMBERS:
        raise ArchiveError(f"refused, it has {len(members)} members (at most {MOST_MEMBERS} are read).")
    total = sum(info.file_size for info in members)
    if total > MOST_BYTES:
        raise ArchiveError(f"refused, it would unpack to {in_words(total)} (at most {in_words(MOST_BYTES)} are read).")
    seen: set[str] = set()
    for info in members:
        # File systems disagree on case and on composed letters; two names that any of them takes for one are one.
        key = unicodedata.normalize("NFC", info.filename.rstrip("/")).casefold()
        fault = _fault(info) or ("its name comes twice" if key in seen else None)
        if fault is not None:
            raise ArchiveError(f"refused because of its member {info.orig_filename!r}: {fault}.")
        seen.add(key)
    end = 0
    for info in sorted(members, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise ArchiveError(f"refused because its member {info.orig_filename!r} overlaps another one.")
        end = info.header_offset + _LOCAL_HEADER + info.compress_size


def _fault(info: zipfile.ZipInfo) -> str | None:
    """What is wrong with a member, from what the archive's directory says about it."""
    # zipfile's `filename` is cut at a NUL, and on Windows its backslashes are turned: the name as written counts.
    name = info.orig_filename
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "an absolute path"
    if ".." in parts:
        return "a path that leads upwards"
    if re.search(r"[\x00-\x1f\x7f\\]", name):
        return "a name with a backslash or a control character"
    if any(part in ("", ".") or len(part.encode("utf-8", "replace")) > 255 for part in parts):
        return "no valid name"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or another special file"
    if info.flag_bits & 0x1:
        return "encrypted"
    if info.compress_type not in _METHODS:
        return f"compressed by method {info.compress_type} (0 and 8 are read)"
    if info.file_size > FREE_RATIO and info.file_size > MOST_RATIO * info.compress_size:
        return f"{in_words(info.file_size)} packed into {in_words(info.compress_size)}"
    return None


def _pictures(members: Sequence[zipfile.ZipInfo], required: Sequence[str]) -> tuple[_Place, dict[str, zipfile.ZipInfo]]:
    """The folder that holds the wanted members, and these by where they go ("trainA/1.jpg")."""
    places: defaultdict[_Place, dict[str, zipfile.ZipInfo]] = defaultdict(dict)
    for info in members:
        *parents, name = info.filename.split("/")
        if not name.lower().endswith(PICTURES) or any(part.startswith((".", "__MACOSX")) for part in (*parents, name)):
            continue
        inside = next((index for index, part in enumerate(parents) if part in FOLDERS), None)
        if inside is None:
            continue
        if inside != len(parents) - 1:
            raise ArchiveError(
                f"refused because of {info.filename!r}: pictures must lie directly in {parents[inside]}."
            )
        places[tuple(parents[:-1])][f"{parents[-1]}/{name.replace(':', _COLON)}"] = info
    found = {place: {path.split("/")[0] for path in paths} for place, paths in places.items()}
    whole = [place for place, folders in found.items() if folders.issuperset(required) and len(place) <= 2]
    if len(whole) == 1:
        return whole[0], places[whole[0]]
    seen = ", ".join(sorted("/".join((*place, name)) for place, folders in found.items() for name in folders)[:12])
    raise ArchiveError(
        f"{'several places in it hold' if whole else 'no place in it holds'} pictures in each of "
        f"{', '.join(required)}. Pictures were found in: {seen or 'none of such folders'}."
    )


# --- Writing ----------------------------------------------------------------------------------------------------------


def _extract(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    """Write one member; zipfile ends the stream at the declared size and compares the CRC there."""
    written = 0
    with target.open("xb") as file:  # never over a file: the file system may take two names for one that we do not
        try:
            source = opened.open(info)
        except _DAMAGED as error:
            raise _damaged(info, error) from error
        with source:
            while True:
                try:
                    block = source.read(_BLOCK)
                except _DAMAGED as error:
                    raise _damaged(info, error) from error
                if not block:
                    break
                written += len(block)
                file.write(block)
    if written != info.file_size:
        raise _damaged(info, f"{written} bytes instead of {info.file_size}")


def _damaged(info: zipfile.ZipInfo, reason: object) -> ArchiveError:
    return ArchiveError(f"damaged at its member {info.filename!r} ({reason}).")
