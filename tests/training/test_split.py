"""The split: by patient, the same in both domains; what a manifest says comes first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from medcycle.config import Config, parse_config
from medcycle.errors import ConfigError
from medcycle.io.manifest import Row
from medcycle.training.split import patients_of, rows_in, rows_of, split


def config(validation: float = 0.4, patient: str | None = None, path: str = "mr") -> Config:
    domains: dict[str, Any] = {"a": {"name": "mr", "path": path, "modality": "mr"}}
    domains["b"] = {"name": "ct", "path": "ct", "modality": "ct"}
    for domain in domains.values():
        domain["patient"] = patient
    return parse_config({"domains": domains, "train": {"validation": validation}})


def rows(*found: Row | str) -> dict[Path, Row]:
    listed = [row if isinstance(row, Row) else Row(Path(row)) for row in found]
    return {row.path: row for row in listed}


def told(name: str, patient: str, side: str | None = None, where: str = "") -> Row:
    return Row(Path(name), patient=patient, split=side, where=where)


def on(side: str, sides: dict[Path, str]) -> set[Path]:
    return {path for path, found in sides.items() if found == side}


def test_the_same_patients_are_held_out_in_both_domains() -> None:
    found = {
        "a": rows(*(f"mr/p{n}_s{s}.png" for n in range(5) for s in range(3))),
        "b": rows(*(f"ct/p{n}.png" for n in range(5))),
    }
    sides = split(found, config(patient=r"(p\d+)"))
    names = {path.name[:2] for path in on("val", sides["a"])}
    assert len(names) == 2
    assert len(on("val", sides["a"])) == 6
    assert {path.name[:2] for path in on("val", sides["b"])} == names
    assert set(sides["a"].values()) == {"train", "val"}
    assert split(found, config(patient=r"(p\d+)")) == sides


def test_one_file_name_in_many_folders_means_the_folder_is_the_patient(tmp_path: Path) -> None:
    paths: dict[str, list[Path]] = {}
    for domain, name in (("a", "T1.nii.gz"), ("b", "FLAIR.nii.gz")):
        paths[domain] = [tmp_path / f"p{n}" / name for n in range(4)]
        for path in paths[domain]:
            path.parent.mkdir(exist_ok=True)
            path.touch()
    sides = split({key: rows(*map(str, found)) for key, found in paths.items()}, config(0.5))
    assert len(on("val", sides["a"])) == 2
    assert {path.parent for path in on("val", sides["a"])} == {path.parent for path in on("val", sides["b"])}


def test_the_column_of_patients_comes_before_the_pattern() -> None:
    found = rows(told("x1.nii", "Ada"), told("x2.nii", "Ada"), "p7_x3.nii")
    assert list(patients_of(found, r"(p\d+)").values()) == ["Ada", "Ada", "p7"]
    domains = {"a": rows(*(told(f"mr/{n}.nii", f"P{n // 2}") for n in range(8))), "b": rows("ct/P1.nii", "ct/P2.nii")}
    sides = split(domains, config(0.5))
    for n in range(0, 8, 2):  # both scans of a patient
        assert sides["a"][Path(f"mr/{n}.nii")] == sides["a"][Path(f"mr/{n + 1}.nii")]
    for n in (1, 2):
        assert sides["b"][Path(f"ct/P{n}.nii")] == sides["a"][Path(f"mr/{2 * n}.nii")]


def test_a_manifest_decides_and_the_other_domain_follows() -> None:
    sides_of = {"P0": "train", "P1": "val", "P2": "test", "P3": None}
    domains = {
        "a": rows(*(told(f"mr/{who}.nii", who, side) for who, side in sides_of.items())),
        "b": rows(*(f"ct/{who}.nii" for who in sides_of)),
    }
    for validation in (0.0, 0.9):  # somebody is named for "val": nobody else is drawn
        sides = split(domains, config(validation))
        assert list(sides["a"].values()) == list(sides["b"].values()) == ["train", "val", "test", "train"]


def test_a_share_of_those_whom_nothing_is_said_of() -> None:
    def found(sides: Iterable[str | None]) -> dict[Path, Row]:
        return rows(*(told(f"{n}.nii", f"P{n}", side) for n, side in enumerate(sides)))

    sides = split({"a": found(["train"] * 4 + [None] * 4), "b": rows("ct/x.nii")}, config(0.5))["a"]
    assert list(sides.values())[:4] == ["train"] * 4
    assert len(on("val", sides)) == 2
    sides = split({"a": found(["test"] * 4 + [None] * 4), "b": rows("ct/x.nii")}, config(0.5))["a"]
    assert list(sides.values())[:4] == ["test"] * 4
    assert (len(on("val", sides)), len(on("train", sides))) == (2, 2)


def test_one_patient_on_two_sides_is_refused_without_the_name() -> None:
    domains = {
        "a": rows(told("mr/1.nii", "Jane Doe", "train", "mr.csv:2")),
        "b": rows(told("ct/1.nii", "Jane Doe", "test", "ct.csv:7"), told("ct/2.nii", "x")),
    }
    with pytest.raises(
        ConfigError, match=r"ct\.csv:7: split test, but mr\.csv:2 puts the same patient into train"
    ) as no:
        split(domains, config())
    assert "Jane" not in str(no.value)


def test_nothing_left_to_train_on_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^domains\.a\.path: no scan is left to train on"):
        split({"a": rows(told("1.nii", "P1", "val")), "b": rows("ct/1.nii")}, config())
    large = rows(*(f"mr/p{n}.nii" for n in range(8)))
    drawn = [path.name for path in on("val", split({"a": large, "b": large}, config(0.5))["a"])]
    assert len(drawn) == 4
    with pytest.raises(ConfigError, match=r"^train\.validation: holding out 50% .* domain b without any"):
        split({"a": large, "b": rows(*(f"ct/{name}" for name in drawn[:2]))}, config(0.5))


def test_rows_of_a_folder_a_list_and_a_manifest(tmp_path: Path) -> None:
    for name in ("a/1.nii", "a/2.nii", "b/3.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    table = tmp_path / "cohort.csv"
    table.write_text("path,site\na/2.nii,Delft\nb/3.nii,\n")
    assert [(row.path, row.site) for row in rows_in(str(table))] == [
        (tmp_path / "a" / "2.nii", "Delft"),
        (tmp_path / "b" / "3.nii", None),
    ]
    assert [row.path.name for row in rows_in(str(tmp_path / "a"))] == ["1.nii", "2.nii"]
    assert list(rows_of(config(path=str(tmp_path)).domains.a, "a")) == rows_paths(tmp_path)
    both = config().domains.a.model_copy(update={"path": (str(table), str(tmp_path / "a"))})
    merged = rows_of(both, "a")
    assert [path.name for path in merged] == ["2.nii", "3.nii", "1.nii"]
    assert merged[tmp_path / "a" / "2.nii"].site == "Delft"  # what was said first is kept
    table.write_text("path\nnowhere.nii\n")
    with pytest.raises(ConfigError, match=r"^domains\.a\.path: .*cohort\.csv:2: no such file or folder: .*nowhere"):
        rows_of(both, "a")


def rows_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.nii"))
