"""The result as a table: ours, the baselines, and what was published, direction by direction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from medcycle.benchmark.published import Published

SPREAD = ", std"


@dataclass(frozen=True)
class Direction:
    """The figures of one direction.

    Attributes:
        task: its name, such as horse2zebra.
        ours: name of a figure -> value, of the trained model.
        identity: the same of the untranslated pictures, which a useful model must beat.
        halves: the distance between two halves of the real target set, for scale.
        pictures: how many real ones the distances are to.
        published: by others.
        passed: the miniature's verdict, where there is one.
    """

    task: str
    ours: dict[str, float]
    identity: dict[str, float]
    halves: dict[str, float]
    pictures: int
    published: tuple[Published, ...] = ()
    passed: bool | None = None

    def rows(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Title and figures of every row, ours first."""
        verdict = {True: ": passed", False: ": NOT passed", None: ""}[self.passed]
        yield f"medcycle{verdict}", self.ours
        yield "identity: the input itself", self.identity
        if self.halves:
            yield "halves of the real pictures", self.halves
        for row in self.published:
            figures = {"FID": row.fid} | ({} if row.inception is None else {"IS": row.inception})
            yield row.title, figures

    def to_dict(self) -> dict[str, Any]:
        """For benchmark.json."""
        return {
            "figures": self.ours,
            "identity": self.identity,
            "halves_of_the_real": self.halves,
            "real_pictures": self.pictures,
            "passed": self.passed,
            "published": [
                {"source": row.source, "setting": row.setting, "FID": row.fid, "IS": row.inception}
                for row in self.published
            ],
        }


def print_benchmark(
    name: str, called: str, network: str, directions: Sequence[Direction], notes: Sequence[str]
) -> None:
    """Every direction as a table on the standard output, the notes below.

    Args:
        name: of the data set.
        called: what the schedule must be called.
        network: whose features the distances are of.
        directions: both.
        notes: a line each.
    """
    console = Console(markup=False)  # a folder may be called anything, [this] too
    for direction in directions:
        rows = list(direction.rows())
        names = [key for key in dict.fromkeys(key for _, row in rows for key in row) if not key.endswith(SPREAD)]
        table = Table(
            title=f"{name}, {direction.task}. {called}, final epoch",
            caption=f"{direction.pictures} real pictures; features of {network}",
        )
        table.add_column("")
        for key in names:
            table.add_column(key.removesuffix(f" ({network})"), justify="right", max_width=10)
        for number, (title, row) in enumerate(rows):
            table.add_row(title, *(_text(row, key) for key in names), style=None if number else "bold")
        console.print(table)
    for note in notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)


def report_facts(directions: Sequence[Direction], called: str, notes: Sequence[str]) -> dict[str, str]:
    """The same for the report's list of facts."""
    facts = {"Schedule": f"{called}, final epoch"}
    for direction in directions:
        for title, row in direction.rows():
            told = "; ".join(f"{key} {_text(row, key)}" for key in row if not key.endswith(SPREAD))
            facts[f"{direction.task}: {title}"] = told
    return facts | {f"Note {number}": note for number, note in enumerate(notes, 1)}


def _text(row: dict[str, float], key: str) -> str:
    if key not in row:
        return ""
    spread = row.get(key + SPREAD)
    return f"{row[key]:.5g}" + ("" if spread is None else f" ± {spread:.2g}")
