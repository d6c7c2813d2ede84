"""What makes a scan the same scan: a hash of its bytes, remembered while its files' sizes and times stay."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path

from medcycle.errors import ScanError
from medcycle.io.files import staged

HEADERS = (".mhd", ".nhdr")  # text headers whose voxels are in another file
DATA_FILE = re.compile(r"^(?:ElementDataFile\s*=|data ?file\s*:)\s*(\S.*?)\s*$", re.IGNORECASE | re.MULTILINE)

NUMBERED = re.compile(r"(.*)%0?\d*d(\S*)\s+-?\d+\s+-?\d+\b")
LONGEST_HEADER = 2**20  # bytes


def scan_files(path: Path) -> list[Path]:
    """The files a scan is made of: itself, a header with its data file, or the files of a (DICOM) folder.

    Raises:
        ScanError: if the scan is missing or cannot be listed.
    """
    try:
        if path.is_dir():
            return sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        if not path.exists():
            raise ScanError(f"{path}: no such file or folder")
        if not path.is_file():
            raise ScanError(f"{path}: is neither a file nor a folder, but a pipe, socket or device")
        if path.suffix.lower() in HEADERS:
            with path.open("rb") as file:
                header = file.read(LONGEST_HEADER).decode("latin-1")
            return [path, *_data_files(path.parent, header)]
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror or error})") from None
    return [path]


def _data_files(folder: Path, header: str) -> list[Path]:
    """The files a header names: one; a LIST, one a line; or numbered ones, as in ``slice%03d.raw 1 20 1``."""
    named = DATA_FILE.search(header)
    if named is None:
        return []
    if named[1].split()[0].upper() == "LIST":
        found = [folder / line.strip() for line in header[named.end() :].splitlines() if line.strip()]
    elif numbered := NUMBERED.match(named[1]):
        below, start = os.path.split(numbered[1])
        name = re.compile(rf"{re.escape(start)}\d+{re.escape(numbered[2])}")
        found = sorted(file for file in (folder / below).iterdir() if name.fullmatch(file.name))
    else:
        found = [folder / named[1]]
    return [file for file in found if file.is_file()]


class Identities:
    """Content hashes of scans, with a memo file so that unchanged files are not read again.

    The memo may be lost or damaged without harm: hashes are then computed anew.
    """

    def __init__(self, memo: Path | None = None) -> None:
        """`memo`: a JSON file that need not exist; None remembers only in this object."""
        self._memo = memo
        self._known: dict[str, str] = {}
        self._new = False
        if memo is not None:
            with contextlib.suppress(OSError, ValueError):
                known = json.loads(memo.read_bytes())
                self._known = known if isinstance(known, dict) else {}

    def of(self, path: Path) -> str:
        """The scan's content hash: equal for equal bytes, wherever they lie.

        Raises:
            ScanError: if a file cannot be read.
        """
        files = scan_files(path)
        try:
            stats = [(str(f.resolve()), s.st_size, s.st_mtime_ns) for f in files for s in [f.stat()]]
            seen = hashlib.blake2b(json.dumps(stats).encode(), digest_size=16).hexdigest()
            if seen not in self._known:
                self._known[seen] = _content(files)
                self._new = True
        except OSError as error:
            raise ScanError(f"{path}: cannot be read ({error.strerror or error})") from None
        return self._known[seen]

    def save(self) -> None:
        """Write the memo, whole or not at all; a memo that cannot be written only costs time later."""
        if self._memo is None or not self._new:
            return
        with contextlib.suppress(ScanError), staged(self._memo) as file:
            file.write_text(json.dumps(self._known), encoding="utf-8")


def _content(files: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        with path.open("rb") as file:
            one = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        digest.update(one.digest())
    return digest.hexdigest()
