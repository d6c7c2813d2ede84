from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from medcycle.errors import ScanError
from medcycle.io import SUFFIXES, find_scans, patient_of, scan_name


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_names() -> None:
    for name, expected in {
        "a/head11.nii.gz": "head11",
        "a/b.c.nii": "b.c",
        "x.MHA": "x",
        "n0_1.png": "n0_1",
        "IM0001": "IM0001",
        "1.2.840.5": "1.2.840.5",
        "slice.dcm": "slice",
        ".nii.gz": ".nii.gz",
    }.items():
        assert scan_name(name) == expected
    assert ".nii.gz" in SUFFIXES


def test_folder(tmp_path: Path, make_series: Callable[..., Path]) -> None:
    touch(tmp_path / "b/head10.nii.gz", tmp_path / "b/head2.nii", tmp_path / "b/notes.txt", tmp_path / "b/x.json")
    touch(tmp_path / ".hidden/a.nii", tmp_path / "b/.a.nii", tmp_path / "pic.PNG", tmp_path / "b/head.raw")
    make_series(tmp_path / "study/1.2.840.1")
    touch(tmp_path / "study/1.2.840.1/thumbnail.jpg", tmp_path / "study/1.2.840.1/deeper/a.mha")
    touch(tmp_path / "study/DICOMDIR")
    found = [path.relative_to(tmp_path).as_posix() for path in find_scans(tmp_path)]
    assert found == ["b/head2.nii", "b/head10.nii.gz", "pic.PNG", "study/1.2.840.1", "study/1.2.840.1/deeper/a.mha"]
    assert scan_name(tmp_path / "study/1.2.840.1") == "1.2.840.1"
    assert find_scans(tmp_path / "study/1.2.840.1")[0] == tmp_path / "study/1.2.840.1"


def test_dicom_without_suffix_or_preamble(tmp_path: Path, make_slice: Callable[..., object]) -> None:
    data = make_slice(0, "1.2.3")
    data.save_as(tmp_path / "plain.dcm", enforce_file_format=True)  # type: ignore[attr-defined]
    content = (tmp_path / "plain.dcm").read_bytes()
    (tmp_path / "plain.dcm").unlink()
    for folder, part in (
        ("with", content),
        ("without", content[132:]),
        ("body", content[content.index(b"\x08\0\x08\0") :]),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "IM0001").write_bytes(part)
    touch(tmp_path / "other" / "README")
    with pytest.warns(UserWarning, match=r"body, .*with, .*without: one DICOM series lies in these folders"):
        assert [path.name for path in find_scans(tmp_path)] == ["body", "with", "without"]


def test_mixed_folder_is_refused(tmp_path: Path, make_series: Callable[..., Path]) -> None:
    make_series(tmp_path / "mixed")
    touch(tmp_path / "mixed/a.nii.gz")
    with pytest.raises(ScanError, match=r"mixed: holds DICOM files and 1 other scans \(a\.nii\.gz\)"):
        find_scans(tmp_path)
    assert find_scans(str(tmp_path / "**/*.nii.gz")) == [tmp_path / "mixed/a.nii.gz"]


def test_patterns(tmp_path: Path, make_series: Callable[..., Path]) -> None:
    touch(tmp_path / "p1/T1.nii", tmp_path / "p2/T1.nii", tmp_path / "p2/T2.nii", tmp_path / "p2/T1.txt")
    make_series(tmp_path / "p3/T1")
    touch(tmp_path / "s[1].nii")

    def found(pattern: str) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in find_scans(str(tmp_path / pattern))]

    assert found("*/T1*") == ["p1/T1.nii", "p2/T1.nii", "p3/T1"]
    assert found("**/T1.nii") == ["p1/T1.nii", "p2/T1.nii"]
    assert found("p3/T1/*.dcm") == ["p3/T1"]
    assert found("p?") == ["p1/T1.nii", "p2/T1.nii", "p2/T2.nii", "p3/T1"]
    assert found("**") == ["p1/T1.nii", "p2/T1.nii", "p2/T2.nii", "p3/T1", "s[1].nii"]
    assert found("s[1].nii") == ["s[1].nii"]  # a file of that very name
    with pytest.raises(ScanError, match="matches this pattern"):
        found("q*/*.nii")


@pytest.mark.parametrize("pattern", ["", "**", "**/*.nii", "s/**/*.nii", "../data/**/*.nii"])
def test_links_that_run_in_a_circle(tmp_path: Path, pattern: str) -> None:
    data = tmp_path / "data"
    touch(data / "s/a.nii", data / "s/z/b.nii", tmp_path / "elsewhere/c.nii")
    # Two loops: without a memory of the folders there would be 2^40 paths.
    (data / "s" / "0up").symlink_to(data)
    (data / "s" / "z" / "up").symlink_to("..")
    (data / "s" / "0z").symlink_to("z")  # comes before z, whose own name is kept
    (data / "s" / "far").symlink_to(tmp_path / "elsewhere")
    found = [path.resolve().relative_to(tmp_path).as_posix() for path in find_scans(data / pattern)]
    assert sorted(found) == ["data/s/a.nii", "data/s/z/b.nii", "elsewhere/c.nii"]
    assert data / "s" / "z" / "b.nii" in [Path(os.path.normpath(path)) for path in find_scans(data / pattern)]


def test_patterns_with_stars_in_several_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(
        tmp_path / "p1/raw/x/T1.nii", tmp_path / "p2/raw/T1.nii", tmp_path / "p2/T1.nii", tmp_path / "p[3]/raw/T1.nii"
    )
    touch(tmp_path / ".p4/raw/T1.nii", tmp_path / "p5/araw/T1.nii")
    monkeypatch.chdir(tmp_path)
    for pattern in ("**/raw/**/*.nii", "*/raw/**/T?.nii", "./**/raw/**", "p*/**/raw/**/T1.nii"):
        expected = sorted(path for path in glob.glob(pattern, recursive=True) if path.endswith(".nii"))  # noqa: PTH207
        assert [Path(path) for path in expected] == sorted(find_scans(pattern))
        assert len(expected) == 3
        assert sorted(find_scans(str(tmp_path / pattern))) == [tmp_path / path for path in expected]
    assert find_scans("p1**/**") == [Path("p1/raw/x/T1.nii")]  # ** within a name is *


def test_csv(tmp_path: Path, make_series: Callable[..., Path]) -> None:
    touch(tmp_path / "z.nii", tmp_path / "a b.nii")
    make_series(tmp_path / "series")
    table = tmp_path / "list.csv"
    table.write_text("\ufeffid; path\n1;z.nii\n2;a b.nii\n3;series\n4;\n1;z.nii\n", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"list\.csv: columns ignored: id "):
        assert [path.name for path in find_scans(table)] == ["z.nii", "a b.nii", "series"]
    table.write_text("path\nz.nii\nno.nii\n")
    with pytest.raises(ScanError, match=r"list\.csv:3: no such file"):
        find_scans(table)
    for content, reason in (("file\nz.nii\n", "no column 'path'"), ("", "no column"), ("path\n", "no scans listed")):
        table.write_text(content)
        with pytest.raises(ScanError, match=reason):
            find_scans(table)
    table.write_text(f"path\n{'x' * 200_000}\n")
    with pytest.raises(ScanError, match=r"list\.csv:1: cannot be read as a CSV"):
        find_scans(table)
    table.write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(ScanError, match="UTF-8"):
        find_scans(table)


def test_a_folder_that_cannot_be_looked_through_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "p1/T1.nii", tmp_path / "p2/T1.nii")
    real = os.scandir

    def closed(path: str) -> object:  # root, as whom tests often run, may look everywhere
        if Path(path).name == "p2":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.warns(UserWarning, match=r"p2: cannot be looked through \(Permission denied\); scans in there"):
        assert find_scans(tmp_path) == [tmp_path / "p1" / "T1.nii"]


def test_nothing_found(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="no such file or folder"):
        find_scans(tmp_path / "missing")
    with pytest.raises(ScanError, match=r"no scans in this folder; looked through it for NIfTI"):
        find_scans(tmp_path)
    touch(tmp_path / "a.txt")
    with pytest.raises(ScanError, match="no scans"):
        find_scans(tmp_path)
    with pytest.raises(ScanError, match="no scan that can be read"):
        find_scans(tmp_path / "a.txt")


def test_patients(tmp_path: Path, make_series: Callable[..., Path]) -> None:
    one = make_series(tmp_path / "one")
    two = make_series(tmp_path / "two", series="9.9")
    other = make_series(tmp_path / "other", PatientID="another")
    nameless = make_series(tmp_path / "nameless", PatientID="")
    assert patient_of(one) == patient_of(two) == patient_of(one / "s99.dcm")
    assert patient_of(one) != patient_of(other)
    assert "12345" not in patient_of(one)
    assert patient_of(nameless) == "nameless"
    assert patient_of("mr/p3_12.png") == "p3_12"
    assert patient_of("mr/p3_12.png", r"mr/(p\d+)_") == "p3"
    for pattern, reason in ((r"ct/(p\d+)", "does not match"), (r"p\d", "0 groups"), ("(", "no regular expression")):
        with pytest.raises(ScanError, match=reason):
            patient_of("mr/p3_12.png", pattern)
