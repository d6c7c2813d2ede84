"""Bars of progress: what they say on a terminal, and that they are silent elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from medcycle.console import scan_and_step_progress


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
