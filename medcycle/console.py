"""What the commands show on a terminal: tables of audits and of evaluations."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    from medcycle.evaluation.result import Result
    from medcycle.prepare import Audit, DomainAudit, ScanAudit

SHOWN = 40  # scans of a domain listed one by one
LISTED = 8  # sizes in one line
TITLE_WIDTH = 8  # titles of figures are wrapped to that, or to their longest number
NAME_WIDTH = 16  # characters that a scan's name has at least, before it goes on in the next line


@contextmanager
def scan_progress(what: str, console: Console | None = None) -> Iterator[Callable[[int, int, str], None]]:
    """A function to call with (scans done, scans in all, name), shown as a bar on a terminal."""
    with _bars(console) as bars:
        yield _scan_bar(bars, what)


@contextmanager
def scan_and_step_progress(
    what: str, console: Console | None = None
) -> Iterator[tuple[Callable[[int, int, str], None], Callable[[int, int], None]]]:
    """The function of `scan_progress`, and one to call with (steps done, steps in all) within a scan: two bars."""
    with _bars(console) as bars:
        scans, task = _scan_bar(bars, what), bars.add_task("this scan", total=None)

        def step(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield scans, step


@contextmanager
def byte_progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A function to call with (bytes done, bytes in all or None), shown as a bar with speed and time left."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        task = bars.add_task(what, total=None)

        def show(done: int, total: int | None) -> None:
            bars.update(task, completed=done, total=total)

        yield show


def _bars(console: Console | None) -> Progress:
    console = console or Console(stderr=True)
    # What a command prints goes above the bars, but into a file if standard output is one.
    aside = sys.stdout.isatty()
    return Progress(console=console, transient=True, disable=not console.is_terminal, redirect_stdout=aside)


def _scan_bar(bars: Progress, what: str) -> Callable[[int, int, str], None]:
    task = bars.add_task(what, total=None)

    def show(done: int, total: int, name: str) -> None:
        bars.update(task, completed=done, total=total, description=escape(f"{what}: {name}"))

    return show


def print_result(result: Result) -> None:
    """An evaluation as a table, or as several with some of the figures each where one is too wide; its notes below."""
    console = Console(markup=False)  # a case may be called anything, [this] too
    console.print(f"{result.metrics}, {len(result.cases)} case(s)", style="italic", highlight=False)
    names, *columns = zip(result.header(), *result.rows(), strict=True)
    while columns:
        shown = len(columns)
        while shown > 1 and _width(console, _figures([names, *columns[:shown]])) > console.width:
            shown -= 1
        console.print(_figures([names, *columns[:shown]]))
        columns = columns[shown:]
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)


def _figures(columns: Sequence[Sequence[str]]) -> Table:
    """A table of columns, each with its title first; the rows of means are bold."""
    table = Table()
    for title, *cells in columns:
        lines = textwrap.wrap(title, max([TITLE_WIDTH, *map(len, cells)]), break_long_words=False)
        table.add_column("\n".join(lines), justify="right" if table.columns else "left", overflow="fold")
    for row in list(zip(*columns, strict=True))[1:]:
        table.add_row(*row, style="bold" if row[0].startswith("mean") else None)
    return table


def _width(console: Console, table: Table) -> int:
    """What it would take, uncut."""
    return console.measure(table, options=console.options.update(max_width=10**4)).maximum


def print_audit(audit: Audit) -> None:
    """Each domain's scans, its summary, and the warnings."""
    console = Console(markup=False)  # a scan may be called anything, [this] too
    for domain in audit.domains:
        title, table = _domain_table(domain)
        console.print(title, style="italic", highlight=False, soft_wrap=True)
        console.print(table)
        for key, value in domain.summary().items():
            text = (
                ", ".join(f"{name} ({n})" for name, n in value.items()) if isinstance(value, dict) else _listed(value)
            )
            console.print(f"  {key}: {text}", highlight=False, soft_wrap=True)
    for scan in (scan for domain in audit.domains for scan in domain.scans if scan.refused):
        console.print(f"refused: {scan.refused}", style="red", highlight=False, soft_wrap=True)
    for warning in audit.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True)


def _listed(value: object) -> str:
    if not isinstance(value, list):
        return f"{value:.5g}" if isinstance(value, float) else str(value)
    more = f" and {len(value) - LISTED} more" if len(value) > LISTED else ""
    return "; ".join("x".join(f"{number:.4g}" for number in one) for one in value[:LISTED]) + more


COLUMNS: dict[str, Callable[[ScanAudit], str]] = {
    "voxels": lambda scan: "x".join(map(str, scan.space)),
    "mm": lambda scan: "x".join(f"{s:.3g}" for s in scan.spacing),
    "axes": lambda scan: scan.orientation,
    "unit": lambda scan: scan.unit,
    "1 %": lambda scan: _number(scan.p1),
    "median": lambda scan: _number(scan.median),
    "99 %": lambda scan: _number(scan.p99),
    "body": lambda scan: f"{scan.foreground:.0%}",
}


def _domain_table(domain: DomainAudit) -> tuple[str, Table]:
    """A title, and the scans one by one. Geometry and unit that all share go into the title: names keep their width."""
    shown = domain.scans[:SHOWN]
    cells = {name: [tell(scan) for scan in shown if not scan.refused] for name, tell in COLUMNS.items()}
    same = [name for name in ("voxels", "mm", "axes", "unit") if len(set(cells[name])) == 1]
    title = f"{domain.name}{f' ({domain.modality})' if domain.modality else ''}: {len(domain.scans)} scan(s)"
    if same:
        facts = [f"{cells[name][0]}{f' {name}' if name in ('voxels', 'mm') else ''}" for name in same]
        title += f"; {'all' if len(domain.usable) > 1 else 'it'}: {', '.join(facts)}"
    table = Table(box=SIMPLE_HEAD)
    table.add_column("scan", overflow="fold", min_width=NAME_WIDTH)
    columns = {name: tell for name, tell in COLUMNS.items() if name not in same}
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for scan in shown:
        if scan.refused:
            table.add_row(scan.name, "refused", style="red")
        else:
            table.add_row(scan.name, *(tell(scan) for tell in columns.values()))
    if len(domain.scans) > SHOWN:
        table.add_row(f"... and {len(domain.scans) - SHOWN} more")
    return title, table


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "n/a"
