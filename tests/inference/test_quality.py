from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medcycle.agreement import Agreement, agreement
from medcycle.errors import ScanError
from medcycle.inference.quality import COLUMNS, Quality, append_quality, check_quality_file, scan_agreement

USUAL = {"mind": (0.15, 0.25), "mutual_information": (0.3, 0.4)}


def scan(space: tuple[int, int, int] = (20, 22, 24)) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(0)
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in space], indexing="ij")
    body = sum(g**2 for g in grid) < 0.6
    given = np.where(body, rng.uniform(-0.5, 0.5, space), -1)[None].astype(np.float32)
    return given, (given**2 + rng.uniform(-0.1, 0.1, given.shape)).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_of_the_models_axis_are_measured(axis: int) -> None:
    given, made = scan()
    every = [
        agreement(torch.from_numpy(np.take(given, n, 1 + axis)), torch.from_numpy(np.take(made, n, 1 + axis)))
        for n in range(given.shape[1 + axis])
    ]
    all_of_them = Agreement.mean([one for one in every if one is not None])
    found = scan_agreement(given, made, axis, (8, 8))
    assert found is not None
    assert all_of_them is not None
    assert found.voxels > 0.5 * all_of_them.voxels
    assert found.mind == pytest.approx(all_of_them.mind, rel=0.05)
    assert found.mutual_information == pytest.approx(all_of_them.mutual_information, rel=0.1)
    made = made.copy()
    np.moveaxis(made, 1 + axis, 0)[::2] = 0.1  # half of the planes hold nothing
    worse = scan_agreement(given, made, axis, (8, 8))
    assert worse is not None
    assert worse.mutual_information < 0.8 * found.mutual_information


@pytest.mark.parametrize("size", [(8, 8, 8), (64, 8, 64)])
def test_patches_lie_in_the_body(size: tuple[int, int, int]) -> None:
    given, made = scan()
    found = scan_agreement(given, made, None, size)
    assert found is not None
    assert found.voxels > 0.2 * 6 * np.prod(np.minimum(size, given.shape[1:]))
    far = np.full((1, 60, 60, 60), -1, np.float32)
    far[:, 50:58, 2:10, 30:38] = np.random.default_rng(0).uniform(-0.5, 0.5, (8, 8, 8))
    found = scan_agreement(far, far, None, (8, 8, 8))
    assert found is not None
    assert found.mind == 0


def test_a_single_plane_and_air_alone() -> None:
    given, made = (image[..., 11:12] for image in scan())
    assert scan_agreement(given, made, 2, (8, 8)) is not None
    air = np.full((1, 9, 9, 9), -1, np.float32)
    assert scan_agreement(air, air, 1, (8, 8)) is None
    assert scan_agreement(air, air, None, (8, 8, 8)) is None


# -- words -----------------------------------------------------------------------------------------------------------


def test_lines() -> None:
    good = Quality(Agreement(0.2134, 0.35, 900), USUAL)
    assert good.line("head1.nii.gz") == (
        "head1.nii.gz: structure agreement MIND 0.213 (training 0.150 to 0.250), MI 0.350 (training 0.300 to 0.400): ok"
    )
    bad = Quality(Agreement(0.3, 0.2, 900), USUAL, 0.0421)
    assert bad.line("a").endswith(", cycle error 0.042: outside the training range (MIND above, MI below): look at it")
    assert (good.judgement, bad.judgement) == ("ok", "outside")
    old = Quality(Agreement(0.2, 0.3, 900))
    assert old.line("a") == "a: structure agreement MIND 0.200, MI 0.300: no training range to compare with"
    assert Quality().line("a") == "a: structure agreement not measured (hardly any body)"
    assert old.judgement == Quality().judgement == Quality(None, USUAL).judgement == "unknown"


def test_rows(tmp_path: Path) -> None:
    file = tmp_path / "new" / "quality.csv"
    check_quality_file(file)
    append_quality(file, Quality(Agreement(0.2, 0.35, 900), USUAL, 0.04).row("in, 1", "out", "mr_to_ct", "res"))
    check_quality_file(file)
    append_quality(file, Quality().row('in"2', "out\udcff", "mr_to_ct", ""))
    with file.open(newline="", encoding="utf-8") as lines:
        first, second = csv.DictReader(lines)
    assert list(first) == list(COLUMNS)
    assert first == {
        "scan": "in, 1",
        "output": "out",
        "model": "mr_to_ct",
        "judgement": "ok",
        "mind": "0.20000",
        "mind_p5": "0.15000",
        "mind_p95": "0.25000",
        "mutual_information": "0.35000",
        "mutual_information_p5": "0.30000",
        "mutual_information_p95": "0.40000",
        "cycle_error": "0.04000",
        "residual": "res",
    }
    assert second["scan"] == 'in"2'
    assert (second["judgement"], second["mind"], second["cycle_error"]) == ("unknown", "", "")


def test_processes_share_a_file(tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    code = (
        "import sys; from pathlib import Path; from medcycle.inference.quality import append_quality\n"
        "for n in range(40): append_quality(Path(sys.argv[1]), {'scan': sys.argv[2] * 200, 'output': str(n)})"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(file), name]) for name in "ab"]
    assert [process.wait() for process in running] == [0, 0]
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 80
    for name in "ab":
        assert [row["output"] for row in rows if row["scan"] == name * 200] == [str(n) for n in range(40)]


def test_another_files_content_stays(tmp_path: Path) -> None:
    other = tmp_path / "metrics.csv"
    other.write_text("case,mae\n1,2\n")
    with pytest.raises(ScanError, match=r"metrics\.csv: its first line is 'case,mae', not that of a quality file"):
        check_quality_file(other)
    other.write_bytes(b"\xff\xfe\x00")
    for path in (other, tmp_path):
        with pytest.raises(ScanError, match="cannot be read as a quality file"):
            check_quality_file(path)
    (tmp_path / "empty.csv").touch()
    check_quality_file(tmp_path / "empty.csv")
    with pytest.raises(ScanError, match=r"because .*metrics\.csv is a file"):
        append_quality(other / "q.csv", {})


def test_a_row_that_does_not_fit_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "q.csv"
    append_quality(file, {"scan": "a"})
    before = file.read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda where, content: write(where, content[:5]))
    with pytest.raises(ScanError, match=r"q\.csv: cannot be written \(No space left"):
        append_quality(file, {"scan": "b"})
    assert file.read_bytes() == before
