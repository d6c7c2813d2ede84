"""What a run tells while it goes: metrics.csv, TensorBoard, the console."""

from __future__ import annotations

import csv
import io
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from medcycle.errors import TrainingError
from medcycle.io.files import write_file


class Journal:
    """Rows of numbers by step, kept in metrics.csv and TensorBoard; a bar, or plain lines where there is no terminal.

    Args:
        run: the run folder.
        start: first step of this session; rows and events of later steps (of a session that was killed) are dropped.
        total: steps of the whole run.
        console: where to show progress.
    """

    def __init__(self, run: Path, start: int, total: int, console: Console) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.path = run / "metrics.csv"
        self.console = console
        self.start, self.total = start, total
        self.began = self.spoke = time.monotonic()
        self.columns: list[str] = []
        self._trim(start)
        try:
            self.board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)
        except OSError as error:
            raise _unwritable(run / "tensorboard", error) from None
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=total, completed=start, losses="")

    def __enter__(self) -> Journal:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        with suppress(OSError):  # a full disk: metrics.csv has the same numbers
            self.board.close()

    def tick(self, step: int) -> None:
        """A step is done."""
        self.bar.update(self.task, completed=step)

    def record(self, step: int, values: dict[str, float]) -> None:
        """Add a row; columns are fixed by the first row of the run, and a value missing from a row stays empty.

        Raises:
            TrainingError: metrics.csv or TensorBoard's file cannot be written.
        """
        row = {"step": str(step)} | {name: f"{value:.6g}" for name, value in values.items()}
        new = [name for name in row if name not in self.columns]
        if new:
            self._add_columns(new)
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerow(row)
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        except OSError as error:
            raise _unwritable(self.path, error) from None
        self.say(step, values)

    def say(self, step: int, values: dict[str, float]) -> None:
        """Show the main losses: in the bar, or as a line at most every ten seconds."""
        shown = {n: values[n] for n in ("generator", "discriminator_a", "discriminator_b", "cycle_a") if n in values}
        text = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
        self.bar.update(self.task, losses=text)
        now = time.monotonic()
        if not self.console.is_terminal and (now - self.spoke > 10 or step == self.total):
            self.spoke = now
            left = (now - self.began) / max(1, step - self.start) * (self.total - step)
            self.console.print(
                f"step {step} of {self.total}, {left / 60:.1f} min left: {text}", highlight=False, soft_wrap=True
            )

    def history(self) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values of every column, for the report."""
        curves: dict[str, tuple[list[int], list[float]]] = {}
        for step, row in self.rows():
            for name, value in row.items():
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
        return curves

    def rows(self) -> list[tuple[int, dict[str, float]]]:
        """Step and values of every row so far."""
        return [
            (int(row["step"]), {name: float(text) for name, text in row.items() if name != "step" and text})
            for row in self._rows()
        ]

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        # A killed session may leave half a line at the end.
        return [row for row in rows if (row.get("step") or "").isdigit() and None not in row.values()]

    def _trim(self, start: int) -> None:
        rows = self._rows() if start else []
        self.columns = [name for name in rows[0] if name] if rows else []
        self._write([row for row in rows if int(row["step"]) <= start])

    def _add_columns(self, names: list[str]) -> None:
        rows = self._rows()
        self.columns += names
        self._write(rows)

    def _write(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, extrasaction="ignore")
        if self.columns:
            writer.writeheader()
        writer.writerows(rows)
        write_file(self.path, text.getvalue())


def _unwritable(path: Path, error: OSError) -> TrainingError:
    return TrainingError(
        f"{path}: cannot be written ({error.strerror or error}). Make room or mend the permissions; the checkpoints "
        "written before are intact: go on with --resume."
    )


class SilentJournal:
    """Stands in for the journal in all processes but the first."""

    def __enter__(self) -> SilentJournal:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tick(self, step: int) -> None:
        """Nothing."""

    def record(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def rows(self) -> list[tuple[int, dict[str, float]]]:
        """None."""
        return []

    def history(self) -> dict[str, tuple[list[int], list[float]]]:
        """None."""
        return {}
