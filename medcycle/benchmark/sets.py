"""What a benchmark runs on: a published data set, the miniature, or a folder of one's own."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from medcycle.config import load_config
from medcycle.console import scan_progress
from medcycle.data.download import DATASETS, download
from medcycle.data.textures import PARTS, write_miniature
from medcycle.errors import ConfigError, ScanError
from medcycle.io import find_scans

MINIATURE = "miniature"
OWN = "horse2zebra.yaml"  # what a folder of one's own is trained with
FEWEST = 2  # test pictures of a domain: a spread needs two


@dataclass(frozen=True)
class DataSet:
    """A folder of trainA, trainB, testA, testB, and how it is trained.

    Attributes:
        name: of the benchmark.
        folder: that holds the four.
        config: name of the shipped configuration.
        settings: overrides of it that name this folder and its domains.
    """

    name: str
    folder: Path
    config: str
    settings: tuple[str, ...]


def identity(name: str) -> str:
    """What tells a benchmark from others: its name, or the whole path of a folder of one's own."""
    return name if name == MINIATURE or name in DATASETS else str(Path(name).resolve())


def open_data_set(
    name: str, data: Path, overrides: Sequence[str], cache: Path, *, url: str | None, console: Console
) -> DataSet:
    """Find the data set of that name; download or draw it if it is not there.

    Args:
        name: one of DATASETS, "miniature", or a folder with trainA, trainB, testA and testB.
        data: folder of the data sets.
        overrides: the user's; the miniature is drawn in their `sample.size`.
        cache: for prepared pictures.
        url: of a mirror to download from.
        console: where to show progress.

    Raises:
        ConfigError: nothing has that name; `url` for what is not downloaded.
        ScanError: it cannot be downloaded, or is not laid out as said.
    """
    own = name != MINIATURE and name not in DATASETS
    if url is not None and (own or name == MINIATURE):
        raise ConfigError(f"--url: {name} is not downloaded. Leave --url out.")
    if own and not Path(name).is_dir():
        raise ConfigError(
            f"{name}: neither a folder nor a known benchmark. Known are {MINIATURE}, {', '.join(sorted(DATASETS))}. A "
            f"folder of your own needs {', '.join(PARTS)}."
        )
    settings: list[str] = []
    if own:
        folder, config = Path(name), OWN
        settings += [f"domains.{key}.name={word}" for key, word in zip("ab", _domains(folder), strict=True)]
        name = folder.resolve().name
    elif name == MINIATURE:
        config = f"{MINIATURE}.yaml"
        size = min(load_config(config, tuple(overrides)).sample.size)
        folder = data / f"{MINIATURE}-{size}"
        if not folder.exists():
            with scan_progress("drawing", console) as progress:
                write_miniature(folder, size=size, progress=progress)
    else:
        config = f"{name}.yaml"
        folder = _downloaded(name, data, url, console)
    check_layout(folder)
    # Quoted: values are read as YAML, and a folder may be called anything.
    for key, path in (("a", folder / "trainA"), ("b", folder / "trainB")):
        settings.append(f"domains.{key}.path={json.dumps(str(path))}")
    settings.append(f"prepare.cache={json.dumps(str(cache))}")
    return DataSet(name, folder, config, tuple(settings))


def check_layout(folder: Path) -> None:
    """Refuse a folder without pictures in trainA, trainB, testA and testB.

    Raises:
        ScanError: naming what is missing.
    """
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ScanError(
            f"{folder}: no folder {', '.join(missing)}. A benchmark needs {', '.join(PARTS)}, with pictures of "
            "domain A and of domain B."
        )
    for part in PARTS:
        try:
            found = len(find_scans(folder / part))
        except ScanError as error:
            raise ScanError(f"{folder / part}: no pictures ({error})") from None
        if part.startswith("test") and found < FEWEST:
            raise ScanError(f"{folder / part}: {found} picture; distances of two sets need at least {FEWEST} in each")


def _downloaded(name: str, data: Path, url: str | None, console: Console) -> Path:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    bars = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bars:
        task = bars.add_task(name, total=None)
        return download(
            name, data, url=url, progress=lambda done, total: bars.update(task, completed=done, total=total)
        )


def _domains(folder: Path) -> tuple[str, str]:
    """The names of the domains in a folder called horse2zebra; "a" and "b" where it is called anything else."""
    word = r"[A-Za-z0-9][A-Za-z0-9.+-]*?"
    found = re.fullmatch(rf"({word}[A-Za-z])2([A-Za-z][A-Za-z0-9.+-]*)", folder.resolve().name)
    return (found[1], found[2]) if found and found[1] != found[2] else ("a", "b")
