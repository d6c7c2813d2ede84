"""Bars of progress: what they say on a terminal, and that they are silent elsewhere; tables that fit 80 columns."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from medcycle.console import NAME_WIDTH, SHOWN, print_audit, print_result, scan_and_step_progress
from medcycle.evaluation.result import Result
from medcycle.prepare import Audit, DomainAudit, ScanAudit


def shown(terminal: bool) -> str:
    said = io.StringIO()
    console = Console(file=said, force_terminal=terminal, width=100, color_system=None)
    with scan_and_step_progress("translating", console) as (scan, step):
        step(1, 4)
        scan(1, 2, "[odd] name")
    return said.getvalue()


def test_scans_and_the_steps_of_one_are_two_bars() -> None:
    lines = shown(terminal=True).splitlines()
    assert any("translating: [odd] name" in line and "50%" in line for line in lines)
    assert any("this scan" in line and "25%" in line for line in lines)


def test_nothing_is_shown_where_nobody_looks() -> None:
    assert shown(terminal=False).strip() == ""


def scan(name: str, size: int = 240, **changes: object) -> ScanAudit:
    values = {"space": (size, 240, 180), "spacing": (0.9375, 0.9375, 1.0), "orientation": "RAS", "unit": "a.u."}
    figures = {"p1": 0.0, "median": 431.25, "p99": 1820.0, "maximum": 3000.0, "foreground": 0.41, "channels": 1}
    return ScanAudit(f"/data/{name}.nii.gz", name, **values | figures | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [(240, 240), (240, 256)])
def test_long_names_and_all_columns_in_80(
    sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"sub-{n:04d}_ses-01_acq-highres_run-0{n}_desc-[odd]_T1w" for n in range(2)]
    scans = [scan(name, size) for name, size in zip(names, sizes, strict=True)]
    torn = scan("torn", refused="/data/torn.nii.gz: cannot be read")
    print_audit(Audit([DomainAudit("mr", "mr", [*scans, torn])], ["look at " + "x" * 100]))
    lines = capsys.readouterr().out.splitlines()
    listing = [line for line in lines if not line.startswith(("mr (", "refused", "warning", "  "))]
    assert all(len(line) <= 80 for line in lines if not line.startswith(("mr (mr)", "warning")))
    text = "\n".join(lines)
    for figure in ("431.2", "1820", "41%"):  # none is cut
        assert text.count(figure) >= 2, listing
    folded = "".join(line[: NAME_WIDTH + 40].split()[0] for line in lines if line.startswith(" ") and line.split())
    assert all(name in re.sub(r"\s", "", folded) for name in names), folded
    assert "mr (mr): 3 scan(s)" in text
    assert ("all: 240x240x180 voxels" in text) == (sizes[0] == sizes[1])
    assert "warning: look at " + "x" * 100 in text
    assert "refused: /data/torn.nii.gz: cannot be read" in text


def test_many_scans_and_sizes_are_cut_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    scans = [scan(f"head{n}", 200 + n, site="A" if n else "B", planes=180) for n in range(SHOWN + 5)]
    print_audit(Audit([DomainAudit("mr", None, scans, patients=7)]))
    out = capsys.readouterr().out
    assert "... and 5 more" in out
    assert "  shape: 200x240x180; 201x240x180;" in out
    assert f"and {SHOWN + 5 - 8} more" in out
    assert f"  sites: A ({SHOWN + 4}), B (1)" in out
    assert "  patients: 7" in out
    assert f"  planes: {180 * (SHOWN + 5)}" in out


@pytest.mark.parametrize("cases", [2, 30])
def test_no_number_of_an_evaluation_is_cut(
    cases: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ("mae", "mae_air", "mae_soft", "mae_bone", "dice_bone", "dice_air", "hd95_bone", "gradient_correlation")
    found = {f"patient{n:02d}_visit": {key: 1000 + n + k / 8 for k, key in enumerate(names)} for n in range(cases)}
    result = Result("anatomy", found, dict.fromkeys(names, 1234.5), dict.fromkeys(names, 123.4))
    print_result(result)
    text = capsys.readouterr().out
    assert text.startswith(f"anatomy, {cases} case(s)")
    assert all(len(line) <= 80 for line in text.splitlines())
    for number in (number for row in result.rows() for number in row):
        assert number in text
    assert all(word in text for title in result.header() for word in title.split())
