from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from medcycle.benchmark import sets
from medcycle.benchmark.sets import check_layout, identity, open_data_set
from medcycle.config import load_config
from medcycle.data.textures import write_miniature
from medcycle.errors import ConfigError, MedcycleError, ScanError
from medcycle.io import find_scans


def opened(name: str | Path, data: Path, *overrides: str, url: str | None = None) -> sets.DataSet:
    return open_data_set(str(name), data, overrides, data / "cache", url=url, console=Console(quiet=True))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write_miniature(tmp_path / "sunflower2daisy", 16, 2, 2)


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("sunflower2daisy", ("sunflower", "daisy")),
        ("a picture set", ("a", "b")),
        ("x2x", ("a", "b")),
        ("2daisy", ("a", "b")),
        ("model32float", ("a", "b")),
        ("über2daisy", ("a", "b")),
    ],
)
def test_a_folder_of_ones_own_names_its_domains(own: Path, folder: str, names: tuple[str, str]) -> None:
    chosen = opened(own.rename(own.with_name(folder)), own.parent)
    config = load_config(chosen.config, chosen.settings)
    assert (config.domains.a.name, config.domains.b.name) == names
    assert config.domains.a.path == str(own.parent / folder / "trainA")
    assert config.domains.b.path == str(own.parent / folder / "trainB")
    assert config.model == load_config("horse2zebra.yaml").model
    assert chosen.name == folder


def test_the_miniature_is_drawn_once_in_the_samples_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Path] = []

    def few(folder: Path, size: int, progress: object) -> Path:
        drawn.append(folder)
        return write_miniature(folder, size, 2, 2)

    monkeypatch.setattr(sets, "write_miniature", few)
    for _ in range(2):
        chosen = opened("miniature", tmp_path, "sample.size=[24, 32]")
    assert drawn == [chosen.folder] == [tmp_path / "miniature-24"]
    assert Image.open(find_scans(chosen.folder / "trainA")[0]).size == (24, 24)
    assert load_config(chosen.config, chosen.settings).domains.b.path == str(chosen.folder / "trainB")


def test_a_published_set_is_downloaded(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def fetched(name: str, to: Path, *, url: str | None, progress: object) -> Path:
        asked.append((name, to, url))
        return own

    monkeypatch.setattr(sets, "download", fetched)
    chosen = opened("facades", own.parent, url="http://mirror")
    assert asked == [("facades", own.parent, "http://mirror")]
    config = load_config(chosen.config, chosen.settings)
    assert (config.domains.a.name, config.domains.a.path) == ("photo", str(own / "trainA"))


def test_every_known_set_has_a_configuration() -> None:
    for name in sets.DATASETS:
        assert load_config(f"{name}.yaml").train.epochs == 100


def test_what_is_no_benchmark_is_refused(own: Path) -> None:
    with pytest.raises(ConfigError, match=r"horse2zebr: neither .* miniature, .*horse2zebra.*trainA"):
        opened("horse2zebr", own.parent)
    for name in ("miniature", own):
        with pytest.raises(ConfigError, match="--url"):
            opened(name, own.parent, url="http://mirror")


def test_a_folder_must_be_laid_out(own: Path) -> None:
    check_layout(own)
    (own / "testB" / "0001.png").unlink()
    with pytest.raises(ScanError, match="testB: 1 picture"):
        check_layout(own)
    (own / "testB" / "0000.png").unlink()
    with pytest.raises(ScanError, match="testB: no pictures"):
        check_layout(own)
    (own / "testB").rmdir()
    with pytest.raises(MedcycleError, match="no folder testB"):
        opened(own, own.parent)


def test_benchmarks_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert identity("horse2zebra") == "horse2zebra"
    assert identity("miniature") == "miniature"
    monkeypatch.chdir(tmp_path)
    assert identity("own/") == identity(str(tmp_path / "own")) == str(tmp_path / "own")
