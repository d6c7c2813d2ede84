"""The natural-image data sets by name: fetched, checked, unpacked and moved into place, or nothing there at all.

The authors publish no checksums, so the first archive that unpacks is trusted: its SHA-256 is recorded beside the data
set (NAME.sha256, in the format of `sha256sum`), and from then on every archive of that name has to match it. Who
knows the sum from elsewhere gives it from the start.
"""

from __future__ import annotations

import difflib
import re
import shutil
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medcycle.data.archive import FOLDERS, PICTURES, ArchiveError, unpack
from medcycle.data.disk import alone, unwritable
from medcycle.data.fetch import Progress, discard, fetch, hash_file
from medcycle.errors import ConfigError, DownloadError
from medcycle.io.files import refused_leaves_nothing


@dataclass(frozen=True)
class Dataset:
    """One data set: where its zip is, what its two domains show, and the folders that it must have."""

    url: str
    description: str
    folders: Sequence[str] = FOLDERS


_CYCLEGAN = "http://efrosgans.eecs.berkeley.edu/cyclegan/datasets"
_CUT = "http://efrosgans.eecs.berkeley.edu/CUT/datasets"

DATASETS: dict[str, Dataset] = {
    "ae_photos": Dataset(
        f"{_CYCLEGAN}/ae_photos.zip",
        "photographs by Alexei Efros, to try the painters' models on (other folders than testA may be missing)",
        ("testA",),
    ),
    "apple2orange": Dataset(f"{_CYCLEGAN}/apple2orange.zip", "A: apples, B: navel oranges (ImageNet)"),
    "cezanne2photo": Dataset(f"{_CYCLEGAN}/cezanne2photo.zip", "A: paintings by Cézanne, B: landscape photographs"),
    "cityscapes": Dataset(f"{_CYCLEGAN}/cityscapes.zip", "A: street scenes, B: their label pictures (Cityscapes)"),
    "facades": Dataset(f"{_CYCLEGAN}/facades.zip", "A: photographs of facades, B: their label pictures (CMP)"),
    "grumpifycat": Dataset(f"{_CUT}/grumpifycat.zip", "A: Russian Blue cats, B: Grumpy Cat (from the CUT paper)"),
    "horse2zebra": Dataset(f"{_CYCLEGAN}/horse2zebra.zip", "A: wild horses, B: zebras (ImageNet)"),
    "iphone2dslr_flower": Dataset(
        f"{_CYCLEGAN}/iphone2dslr_flower.zip", "A: flowers by telephone cameras, B: by cameras of shallow focus"
    ),
    "maps": Dataset(f"{_CYCLEGAN}/maps.zip", "A: aerial photographs, B: maps of the same places"),
    "monet2photo": Dataset(f"{_CYCLEGAN}/monet2photo.zip", "A: paintings by Monet, B: landscape photographs"),
    "summer2winter_yosemite": Dataset(
        f"{_CYCLEGAN}/summer2winter_yosemite.zip", "A: Yosemite in summer, B: Yosemite in winter"
    ),
    "ukiyoe2photo": Dataset(f"{_CYCLEGAN}/ukiyoe2photo.zip", "A: ukiyo-e prints, B: landscape photographs"),
    "vangogh2photo": Dataset(f"{_CYCLEGAN}/vangogh2photo.zip", "A: paintings by Van Gogh, B: landscape photographs"),
}
"""By name: the sets of the CycleGAN paper and its authors' servers, and grumpifycat."""


def download(
    name: str,
    to: str | Path = "data",
    *,
    url: str | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Have the data set `name` in `to`/`name`, with its pictures in trainA, trainB, testA and testB.

    If it is there, nothing is done and no network is used. Otherwise its zip is downloaded to the hidden file
    `to`/.`name`.zip.part, which survives every interruption (the next call goes on from there), checked, unpacked
    beside its place and moved there; then the zip is removed. An archive that does not match the sum, is damaged, or
    is unsafe to unpack is removed, and no folder is made.

    Args:
        name: one of :data:`DATASETS`.
        to: the folder of data sets; made if missing.
        url: another place of the zip: http:, https: or file:, or the path of a zip on disk (which stays as it is).
        sha256: what the zip's SHA-256 has to be. With or without it, the zip has to match the record
            `to`/`name`.sha256, which the first download writes.
        progress: called with the bytes that are there and those of the whole zip (None while unknown).

    Returns:
        The folder `to`/`name`.

    Raises:
        ConfigError: no such data set; `sha256` is no SHA-256; `url` is of another kind.
        DownloadError: the zip cannot be had, does not match, or is refused; the disk is full or cannot be written;
            something else is in the folder's place; another process is downloading the same.
    """
    dataset = _named(name)
    folder = Path(to).expanduser() / name
    part = folder.with_name(f".{name}.zip.part")
    try:
        expected = _expected(folder.with_name(f"{name}.sha256"), sha256)
        if _is_there(folder, dataset, sha256) and not part.exists():
            return folder
        with refused_leaves_nothing(folder.parent), _lock(folder):
            if not _is_there(folder, dataset, sha256):
                _make(folder, part, dataset, url or dataset.url, expected, progress)
            discard(part)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Make the folder of data sets, and be the only one who downloads this one into it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder.with_name(f".{folder.name}.lock")):
        yield


_HINT = (
    "A mirror can be given with --url, and so can a zip that was downloaded by hand (--url PATH or --url file:///PATH)."
)


def _make(
    folder: Path, part: Path, dataset: Dataset, url: str, expected: dict[str, str], progress: Progress | None
) -> None:
    """Get the archive, check it, unpack it and move the result to `folder`."""
    unpacked = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(unpacked, ignore_errors=True)  # of a process that was killed
    local = _local(url)
    digest = _hash_local(local, progress) if local else fetch(url, part, hint=_HINT, progress=progress)
    try:
        _check(digest, expected)
        inside = unpack(local or part, unpacked, dataset.folders)
        if inside in DATASETS and inside != folder.name:
            warnings.warn(
                f"{local or url}: its pictures lie in a folder {inside}, and are now taken for {folder.name}. If that "
                f"is a mistake, remove {folder} and {folder.name}.sha256 beside it.",
                stacklevel=3,
            )
        # The record before the folder: whoever finds the folder finds the sum of what it came from.
        _write_record(folder, digest)
        unpacked.replace(folder)
    except ArchiveError as error:
        if local is not None:
            raise ArchiveError(f"{local}: {error}") from error
        discard(part)
        raise ArchiveError(f"{url}: {error} The download was removed. {_HINT}") from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _named(name: str) -> Dataset:
    if name in DATASETS:
        return DATASETS[name]
    near = difflib.get_close_matches(name.lower(), DATASETS, n=1, cutoff=0.5)
    raise ConfigError(
        f"{name!r} is no data set to download.{f' Did you mean {near[0]}?' if near else ''} There are: "
        f"{', '.join(DATASETS)}. Any two folders of your own need no download: name them in a configuration."
    )


def _is_there(folder: Path, dataset: Dataset, sha256: str | None) -> bool:
    """Whether the data set lies in `folder`.

    Raises:
        DownloadError: something else does, or `sha256` is asked for and nothing says that it was checked.
    """
    if not folder.exists() or (folder.is_dir() and next(folder.iterdir(), None) is None):
        return False
    missing = [part for part in dataset.folders if not _has_picture(folder / part)]
    if missing:
        raise DownloadError(
            f"{folder}: is there, but without pictures in {', '.join(missing)}. It was not made by medcycle download, "
            "or was changed since; move it away, or choose another folder with --to."
        )
    if sha256 is not None and not folder.with_name(f"{folder.name}.sha256").exists():
        raise DownloadError(
            f"{folder}: is there, but not the record {folder.name}.sha256 of the archive that it came from, so its sum "
            "cannot be checked. Move the folder away to download it again, or leave out --sha256."
        )
    return True


def _has_picture(folder: Path) -> bool:
    return folder.is_dir() and any(file.name.lower().endswith(PICTURES) for file in folder.iterdir())


# --- Checksums --------------------------------------------------------------------------------------------------------


def _expected(record: Path, sha256: str | None) -> dict[str, str]:
    """The sums that the archive has to have, by where they come from.

    Raises:
        ConfigError: `sha256` is none.
        DownloadError: the record is none, or says otherwise than `sha256`.
    """
    sums: dict[str, str] = {}
    if record.exists():
        match = re.fullmatch(r"([0-9a-fA-F]{64})[ *]+\S.*\s*", record.read_text(encoding="utf-8", errors="replace"))
        if match is None:
            raise DownloadError(
                f"{record}: no record of a checksum (one line, 'SHA-256  {record.stem}.zip'). Delete it to trust the "
                "next download, or mend it."
            )
        sums[str(record)] = match[1].lower()
    if sha256 is not None:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
            raise ConfigError(f"--sha256 {sha256!r}: no SHA-256, which has 64 hexadecimal digits.")
        if any(sha256.lower() != found for found in sums.values()):
            raise DownloadError(
                f"--sha256 {sha256.lower()} differs from {sums[str(record)]}, which {record} has recorded for this "
                f"data set. To have the other archive, move {record} and the folder {record.with_suffix('')} away."
            )
        sums["--sha256"] = sha256.lower()
    return sums


def _check(digest: str, expected: dict[str, str]) -> None:
    """Compare with the sums that are known.

    Raises:
        ArchiveError: naming both.
    """
    for origin, known in expected.items():
        if digest != known:
            remedy = "" if origin == "--sha256" else f" To trust the new one, delete {origin} first."
            raise ArchiveError(f"refused: its SHA-256 is {digest}, but {origin} says {known}.{remedy}")


def _write_record(folder: Path, digest: str) -> None:
    """Write `folder`.sha256, atomically."""
    temporary = folder.with_name(f".{folder.name}.sha256.part")
    temporary.write_text(f"{digest}  {folder.name}.zip\n", encoding="ascii")
    temporary.replace(folder.with_name(f"{folder.name}.sha256"))


# --- A zip on disk ----------------------------------------------------------------------------------------------------


def _local(url: str) -> Path | None:
    """The path that a file: URL or a plain path means; None for http and https.

    Raises:
        ConfigError: of another kind.
    """
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if scheme in ("http", "https"):
        return None
    if scheme == "file":
        host, path = re.fullmatch(r"(?://([^/]*))?(.*)", url[5:], re.DOTALL).groups()  # type: ignore[union-attr]
        if host in (None, "", "localhost"):
            return Path(urllib.request.url2pathname(path))
    elif "://" not in url:
        return Path(url).expanduser()
    raise ConfigError(f"{url}: a zip is fetched by http:, https: or file:///PATH, or is the path of a file.")


def _hash_local(archive: Path, progress: Progress | None) -> str:
    if not archive.is_file():
        raise DownloadError(f"{archive}: no such file; the zip of a data set was looked for there.")
    digest = hash_file(archive).hexdigest()
    if progress is not None:
        size = archive.stat().st_size
        progress(size, size)
    return digest
