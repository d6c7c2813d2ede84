"""What can be said of a translation without a reference: its structure agreement, its cycle error, a line and a row."""

from __future__ import annotations

import csv
import fcntl
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from medcycle.agreement import BODY, FIGURES, Agreement, agreement, deviations
from medcycle.errors import ScanError
from medcycle.io.files import unreadable, unwritable

Array = npt.NDArray[np.float32]

PLANES, PATCHES = 12, 6  # measured of a scan: a share of what the network takes
COLUMNS = (
    *("scan", "output", "model", "judgement"),
    *("mind", "mind_p5", "mind_p95"),
    *("mutual_information", "mutual_information_p5", "mutual_information_p95"),
    *("cycle_error", "residual"),
)


@dataclass(frozen=True)
class Quality:
    """What can be said of one translated scan.

    Attributes:
        agreement: its structure agreement with the scan; None for pictures, or where hardly any body is.
        usual: the range of each figure in training, as the model's file tells it; None if it does not.
        cycle_error: the mean of |F(G(x)) - x| over the body in the networks' unit (2 is the whole range), where the
            residual was asked for.
    """

    agreement: Agreement | None = None
    usual: dict[str, tuple[float, float]] | None = None
    cycle_error: float | None = None

    @property
    def outside(self) -> list[str]:
        """The figures outside the training's range, as ["MIND above"]."""
        return deviations(self.agreement, self.usual) if self.agreement and self.usual else []

    @property
    def judgement(self) -> str:
        """ "ok" (inside the training's range), "outside", or "unknown" (nothing measured, or no range to compare)."""
        if self.agreement is None or self.usual is None:
            return "unknown"
        return "outside" if self.outside else "ok"

    def line(self, name: str) -> str:
        """One line for a person: "head1.nii.gz: structure agreement MIND 0.221 (training 0.209 to 0.243), ...: ok"."""
        if self.agreement is None:
            return f"{name}: structure agreement not measured (hardly any body)"
        parts = []
        for figure, title in FIGURES.items():
            low, high = self.usual[figure] if self.usual else (math.nan, math.nan)
            usual = f" (training {low:.3f} to {high:.3f})" if self.usual else ""
            parts.append(f"{title} {getattr(self.agreement, figure):.3f}{usual}")
        if self.cycle_error is not None:
            parts.append(f"cycle error {self.cycle_error:.3f}")
        verdict = {"ok": "ok", "unknown": "no training range to compare with"}.get(
            self.judgement, f"outside the training range ({', '.join(self.outside)}): look at it"
        )
        return f"{name}: structure agreement {', '.join(parts)}: {verdict}"

    def row(self, scan: str, output: str, model: str, residual: str) -> dict[str, str]:
        """The row of a quality file; what is not known is empty."""
        row = {"scan": scan, "output": output, "model": model, "judgement": self.judgement, "residual": residual}
        for figure in FIGURES if self.agreement else ():
            row[figure] = f"{getattr(self.agreement, figure):.5f}"
        for figure, (low, high) in (self.usual or {}).items():
            row |= {f"{figure}_p5": f"{low:.5f}", f"{figure}_p95": f"{high:.5f}"}
        return row | ({} if self.cycle_error is None else {"cycle_error": f"{self.cycle_error:.5f}"})


def scan_agreement(given: Array, made: Array, axis: int | None, size: Sequence[int]) -> Agreement | None:
    """The agreement of a prepared scan and its translation, over a few planes or patches in the body.

    Args:
        given: (channel, i, j, k) in [-1, 1].
        made: (channels, i, j, k).
        axis: that planes are stacked along; None measures patches.
        size: of the patches, as in training.

    Returns:
        None if there is hardly any body.
    """
    body = given.mean(0) > BODY
    if axis is None:
        windows: list[tuple[slice | int, ...]] = [tuple(map(slice, *ends)) for ends in _patches(body, size)]
    else:
        windows = [(*[slice(None)] * axis, plane) for plane in _planes(body, axis)]
    parts = [agreement(torch.from_numpy(given[:, *window]), torch.from_numpy(made[:, *window])) for window in windows]
    return Agreement.mean([part for part in parts if part is not None])


def _planes(body: npt.NDArray[np.bool_], axis: int) -> list[int]:
    """Planes that have the same amount of body between them."""
    voxels = np.cumsum(body.sum(axis=tuple(n for n in range(3) if n != axis)))
    wanted = (np.arange(PLANES) + 0.5) / PLANES * voxels[-1]
    return sorted(set(np.searchsorted(voxels, wanted).tolist())) if voxels[-1] else []


def _patches(body: npt.NDArray[np.bool_], size: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Starts and stops of patches round voxels spread over the body; they stay inside the scan."""
    voxels = np.flatnonzero(body)
    if not len(voxels):
        return []
    # Multiples of the golden ratio never bunch, nor beat with the scan's rows and planes.
    chosen = ((np.arange(PATCHES) + 0.5) * 0.6180339887 % 1 * len(voxels)).astype(np.int64)
    found = []
    for centre in zip(*np.unravel_index(voxels[chosen], body.shape), strict=True):
        starts = [max(0, min(int(c) - s // 2, n - s)) for c, s, n in zip(centre, size, body.shape, strict=True)]
        found.append((starts, [start + s for start, s in zip(starts, size, strict=True)]))
    return found


# --- The quality file -------------------------------------------------------------------------------------------------


def check_quality_file(path: Path) -> None:
    """Refuse a path where rows could not be added.

    Raises:
        ScanError: it is a folder, cannot be read, or holds something else.
    """
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline().rstrip("\r\n")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, "a quality file", error) from error
    if first and first != ",".join(COLUMNS):
        raise ScanError(
            f"{path}: its first line is {first[:80]!r}, not that of a quality file ({','.join(COLUMNS)}). Nothing was "
            "changed; name another file."
        )


def append_quality(path: Path, row: dict[str, str]) -> None:
    """Add one row, with the header where the file is new: whole or not at all, also beside other processes.

    Raises:
        ScanError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = os.fstat(file).st_size
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
            if not before:
                writer.writeheader()
            writer.writerow(row)
            content = text.getvalue().encode("utf-8", "backslashreplace")
            if os.write(file, content) < len(content):
                os.ftruncate(file, before)
                raise OSError(28, os.strerror(28))  # ENOSPC: the only reason to write less of a file
        finally:
            os.close(file)
    except OSError as error:
        raise unwritable(path, error) from error
