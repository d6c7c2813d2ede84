"""One file from the web, in as many sittings as it takes: each goes on where the last one was cut, or begins again.

Beside the growing file PART lies PART.json, which says which version of which file the server was sending (RFC 9110:
ETag, Last-Modified, length). Bytes of two versions never meet: the rest is asked for with `If-Range`, and an answer
that does not continue what is there makes the download begin again.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from medcycle.data.disk import check_space, in_words, unwritable
from medcycle.errors import DownloadError

if TYPE_CHECKING:
    from hashlib import _Hash

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes of the whole file (None while unknown)."""

TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as stalled."""

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds to wait before each new attempt after a cut connection; then the sitting ends.

Only cuts that brought nothing new count on: a server that sends some MB at a time gets the file through.
"""

_BLOCK = 1 << 20


class _CutError(Exception):
    """The connection broke; what has arrived stays, and another attempt may go on from there."""


class _UnreachableError(_CutError):
    """The server gave no answer at all."""


class _OtherVersionError(Exception):
    """The answer does not continue the part: it has to be dropped."""


@dataclass(frozen=True)
class _Version:
    """Which version of which file a part belongs to."""

    url: str
    etag: str | None = None
    modified: str | None = None
    size: int | None = None

    @property
    def validator(self) -> str | None:
        """What `If-Range` may name: a weak ETag promises no equal bytes."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


def fetch(url: str, part: Path, *, hint: str = "", progress: Progress | None = None) -> str:
    """Download `url` (http or https) to `part`, going on with what an earlier call for the same `url` left there.

    A part that is complete already costs no request. A connection that is cut is taken up again up to `len(PAUSES)`
    times in a row without coming further than before. Proxies are taken from the environment.

    Args:
        url: the file.
        part: where it grows; stays when the download is interrupted in any way. :func:`discard` removes it.
        hint: a sentence that ends the message when the server does not give the file.
        progress: called as bytes arrive.

    Returns:
        The SHA-256 of the whole file, in lower-case hexadecimal digits.

    Raises:
        DownloadError: the server cannot be reached or refuses; the connection was cut too often; the disk is too
            small or cannot be written.
    """
    cuts = furthest = 0
    try:
        while True:
            try:
                return _attempt(url, part, hint, progress)
            except _OtherVersionError:  # the next request is for the whole file, so this does not come twice in a row
                discard(part)
            except _CutError as cut:
                have = part.stat().st_size if part.exists() else 0
                if have > furthest:  # the most of this sitting: a server that always begins anew goes no further
                    cuts, furthest = 0, have
                if cuts == len(PAUSES) or (cuts == 0 and isinstance(cut, _UnreachableError)):
                    raise DownloadError(_given_up(url, part, cut, cuts, hint)) from cut
                time.sleep(PAUSES[cuts])
                cuts += 1
    except OSError as error:
        raise unwritable(part, error) from error


def discard(part: Path) -> None:
    """Remove a part and what is noted beside it."""
    part.unlink(missing_ok=True)
    _beside(part).unlink(missing_ok=True)
    _beside(part).with_suffix(".tmp").unlink(missing_ok=True)


def hash_file(path: Path) -> _Hash:
    """The running SHA-256 of a file's content; an empty one if there is no such file."""
    digest = hashlib.sha256()
    if path.exists():
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest


# --- One attempt ------------------------------------------------------------------------------------------------------


def _attempt(url: str, part: Path, hint: str, progress: Progress | None) -> str:
    """One request and its body, appended to the part or in its place; the SHA-256 of all of it."""
    version = _noted(part, url)
    if version is None:
        discard(part)
        version = _Version(url)
    have = part.stat().st_size if part.exists() else 0
    digest = hash_file(part)
    if have and have == version.size:
        if progress is not None:
            progress(have, have)
        return digest.hexdigest()
    with _open(version, have, hint) as response:
        if response.status == 206:
            version = _continued(version, have, response)
        else:
            version, have, digest = _answered(url, response, hint), 0, hashlib.sha256()
            discard(part)
        if version.size is not None:
            check_space(part.parent, version.size - have, "the rest of the download" if have else "the download")
        # Another version's bytes are gone before the new one is noted, so they never stand under its name.
        with part.open("ab") as file:
            _note(part, version)
            have = _receive(response, file, digest, have, version.size, progress)
    if version.size is None:
        _note(part, _Version(url, version.etag, version.modified, have))
    return digest.hexdigest()


def _open(version: _Version, have: int, hint: str) -> http.client.HTTPResponse:
    """The server's answer to a request for the file from byte `have` on."""
    headers = {"User-Agent": "medcycle", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if version.validator is not None:
            headers["If-Range"] = version.validator
    url = version.url
    try:
        quoted = urllib.parse.quote(url, safe="!#$%&'()*+,/:;=?@[]~")
        response: http.client.HTTPResponse = _opener().open(
            urllib.request.Request(quoted, headers=headers),
            timeout=TIMEOUT,
        )
    except urllib.error.HTTPError as error:
        error.close()
        if have and error.code in (412, 416):  # it has become shorter, or another
            raise _OtherVersionError from None
        raise DownloadError(f"{url}: the server answers {error.code} ({error.reason}). {hint}".rstrip()) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise DownloadError(f"{url}: is no address that can be asked for ({error}). {hint}".rstrip()) from error
    except (OSError, http.client.HTTPException) as error:
        raise _UnreachableError(_reason(error)) from error
    return response


def _opener() -> urllib.request.OpenerDirector:
    """urllib's, without ftp:, file: and data:, so that no redirect leads there either."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _answered(url: str, response: http.client.HTTPResponse, hint: str) -> _Version:
    """The version that a whole file's answer declares."""
    if response.status != 200:
        raise DownloadError(f"{url}: the server answers {response.status}, not with the file. {hint}".rstrip())
    return _Version(url, response.headers["ETag"], response.headers["Last-Modified"], response.length)


def _continued(version: _Version, have: int, response: http.client.HTTPResponse) -> _Version:
    """The version of the part, if a partial answer does continue it.

    Raises:
        _OtherVersionError: it begins elsewhere, or the length, the ETag or the date has changed.
    """
    match = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)", response.headers["Content-Range"] or "")
    if match is None or int(match[1]) != have or not have:
        raise _OtherVersionError
    size = None if match[2] == "*" else int(match[2])
    said = (response.headers["ETag"], response.headers["Last-Modified"], size)
    known = (version.etag, version.modified, version.size)
    if any(new is not None and old is not None and new != old for new, old in zip(said, known, strict=True)):
        raise _OtherVersionError
    return version if version.size is not None else _Version(version.url, version.etag, version.modified, size)


def _receive(
    response: http.client.HTTPResponse,
    file: IO[bytes],
    digest: _Hash,
    have: int,
    size: int | None,
    progress: Progress | None,
) -> int:
    """Append the body to the file and the digest; the number of bytes that are there then, `size` where that is known.

    Raises:
        _CutError: the body ended early or stalled.
    """
    if progress is not None:
        progress(have, size)
    while size is None or have < size:
        try:
            # read1 gives what has come: a stalled server must not take back what it had sent before.
            block = response.read1(_BLOCK if size is None else min(_BLOCK, size - have))
        except (OSError, http.client.HTTPException) as error:
            raise _CutError(_reason(error)) from error
        if not block:
            break
        file.write(block)
        digest.update(block)
        have += len(block)
        if progress is not None:
            progress(have, size)
    if size is not None and have < size:
        raise _CutError("the server closed it early")
    return have


# --- What is noted beside the part ------------------------------------------------------------------------------------


def _beside(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _note(part: Path, version: _Version) -> None:
    """Write down, atomically, which version the part is of."""
    temporary = _beside(part).with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(version)), encoding="utf-8")
    temporary.replace(_beside(part))


def _noted(part: Path, url: str) -> _Version | None:
    """The version that the part is of; None if it is of another URL or longer than that, or if that is not known."""
    try:
        values = json.loads(_beside(part).read_text(encoding="utf-8"))
        version = _Version(**values)
        usable = version.url == url and (version.size is None or part.stat().st_size <= version.size)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return version if usable else None


# --- Words ------------------------------------------------------------------------------------------------------------


def _reason(error: Exception) -> str:
    """Why a server could not be reached, or a connection broke."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, socket.gaierror):
        return "no server of that name is known; check the address and the network"
    if isinstance(cause, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(cause, TimeoutError):
        return f"nothing came for {TIMEOUT:g} seconds"
    if isinstance(cause, ssl.SSLError):
        return f"no trusted connection: {cause}"
    return " ".join(str(cause).split()) or type(cause).__name__


def _given_up(url: str, part: Path, cut: _CutError, cuts: int, hint: str) -> str:
    if isinstance(cut, _UnreachableError) and cuts == 0:
        text = f"{url}: cannot be reached ({cut})."
    else:
        text = f"{url}: the connection was cut {cuts + 1} times in a row (last: {cut})."
    version = _noted(part, url)
    have = part.stat().st_size if version is not None else 0
    if version is not None and have:
        whole = f" of {in_words(version.size)}" if version.size is not None else ""
        text += f" {in_words(have)}{whole} are there, and the same command goes on from there."
    return f"{text} {hint}".rstrip()
