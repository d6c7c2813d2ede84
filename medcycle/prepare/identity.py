"""What makes a scan the same scan: a hash of its bytes, remembered while its files' sizes and times stay."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from pathlib import Path

from medcycle.errors import ScanError
from medcycle.io.files import staged

HEADERS = (".mhd", ".nhdr")  # text headers whose voxels are in another file
DATA_FILE = re.compile(r"^(?:ElementDataFile\s*=|data ?file\s*:)\s*(\S.*?)\s*$", re.IGNORECASE | re.MULTILINE)


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
        if path.suffix.lower() in HEADERS:
            header = path.read_bytes()[:65536].decode("latin-1")
            named = DATA_FILE.search(header)
            if named and (path.parent / named[1]).is_file():
                return [path, path.parent / named[1]]
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror or error})") from None
    return [path]


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
