"""The manifest: what its columns say, and which line is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcycle.errors import ScanError
from medcycle.io.manifest import PairRow, Row, read_manifest, read_pairs


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name in ("a.nii", "b.nii", "c.nii"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "series").mkdir()
    return tmp_path / "cohort.csv"


def test_every_column(table: Path) -> None:
    table.write_text(
        "site, split ,path,patient,series\n"
        "Delft,Train,a.nii,007,\n"
        "  Leiden ,validation,b.nii,7,\n"
        "\n"
        ",,,,\n"
        ",TEST,series,Doe^Jane,4\n"
        f",,{table.parent / 'c.nii'}\n",
        encoding="utf-8",
    )
    folder = table.parent
    assert read_manifest(table) == [
        Row(folder / "a.nii", "007", "Delft", "train", None, f"{table}:2"),
        Row(folder / "b.nii", "7", "Leiden", "val", None, f"{table}:3"),
        Row(folder / "series", "Doe^Jane", None, "test", "4", f"{table}:6"),
        Row(folder / "c.nii", where=f"{table}:7"),
    ]


def test_columns_that_mean_nothing_are_named_once(table: Path) -> None:
    table.write_text("path;age;sex\na.nii;40;F\nb.nii;41;M\n")
    with pytest.warns(UserWarning, match=r"cohort\.csv: columns ignored: age, sex \(known are path, patient") as said:
        assert len(read_manifest(table)) == 2
    assert len(said) == 1


def test_a_line_twice_is_one_scan_unless_it_says_something_else(table: Path) -> None:
    table.write_text("path,patient\na.nii,1\nb.nii,2\na.nii,1\n")
    assert [row.path.name for row in read_manifest(table)] == ["a.nii", "b.nii"]
    table.write_text("path,patient\na.nii,Jane\nb.nii,2\na.nii,Joan\n")
    with pytest.raises(ScanError, match=r"cohort\.csv:4: the scan of line 2 again, with another patient") as caught:
        read_manifest(table)
    assert "Jane" not in str(caught.value)
    assert "Joan" not in str(caught.value)
    table.write_text("path,series\nseries,1\nseries,2\n")
    with pytest.raises(ScanError, match=r"cohort\.csv:3: .* another series\..*folders of their own"):
        read_manifest(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,split\na.nii,train\nb.nii,holdout\n", r"cohort\.csv:3: split 'holdout'; allowed are train, val, test"),
        ("path\na.nii\nd.nii\n", r"cohort\.csv:3: no such file or folder: .*d\.nii"),
        ("path\n" + "x" * 5000 + "\n", r"cohort\.csv:2: no such file or folder"),
        ("path,path\na.nii,b.nii\n", "two columns of one name"),
        ("patient,site\n1,2\n", r"no column 'path' \(its first line names \['patient', 'site'\]\)"),
        ("path,site\n,Delft\n", "no scans listed in its column 'path'"),
        ("", "no column 'path'"),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(table: Path, text: str, message: str) -> None:
    table.write_text(text)
    with pytest.raises(ScanError, match=message):
        read_manifest(table)


def test_a_site_is_plain_and_short(table: Path) -> None:
    table.write_text("path,site\na.nii," + "\x1b[31m" + "x" * 100 + "\n")
    site = read_manifest(table)[0].site
    assert site is not None
    assert site.startswith("[31mxx")
    assert len(site) == 64


def test_more_cells_than_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "c.csv").write_text("path,patient\na.nii.gz,P1,more\n")
    with pytest.raises(ScanError, match=r"c\.csv:2: more cells than the first line has columns"):
        read_manifest(tmp_path / "c.csv")


def test_pairs_by_the_domains_names_or_by_a_and_b(table: Path) -> None:
    a, b, c = (table.parent / f"{name}.nii" for name in "abc")
    table.write_text(f"ct;patient;mr\nb.nii;007;a.nii\n;;\n{c};;series\n")
    found = read_pairs(table, ("mr", "ct"))
    assert found == [PairRow(a, b, "007", f"{table}:2"), PairRow(table.parent / "series", c, None, f"{table}:4")]
    table.write_text("a,b\na.nii,b.nii\n")
    assert read_pairs(table, ("mr", "ct")) == [PairRow(a, b, None, f"{table}:2")]
    assert read_pairs(table, ("b", "a")) == [PairRow(b, a, None, f"{table}:2")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mr,b,a\na.nii,b.nii,c.nii\n", "two columns of one name"),
        ("mr\na.nii\n", r"no column 'b' or 'ct'"),
        ("mr,ct\n,b.nii\n", r"cohort\.csv:2: names only one scan, b\.nii"),
        ("mr,ct\na.nii,x.nii\n", r"cohort\.csv:2: no such file or folder: .*x\.nii"),
        ("mr,ct\n,\n", "no pairs listed"),
    ],
)
def test_wrong_tables_of_pairs_are_refused(table: Path, text: str, message: str) -> None:
    table.write_text(text)
    with pytest.raises(ScanError, match=message):
        read_pairs(table, ("mr", "ct"))
