"""Warnings as the user of the command line reads them: one line each, and no flood of them from odd DICOM headers."""

from __future__ import annotations

import os
import re
import sys
import warnings
from pathlib import Path
from typing import TextIO

# What pydicom quotes from a header: a different text for each slice, and it may be a patient's name.
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")


def is_first_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def show_warnings() -> None:
    """Print every warning as "warning: ..." from now on; pydicom's once a kind, without the values it quotes.

    Of the processes that torchrun started, which all warn of the same, only the first prints.
    """
    shown: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not is_first_process():
            return
        text = str(message)
        if "pydicom" in Path(filename).parts:
            text = "DICOM: " + " ".join(_QUOTED.sub("'...'", text).split())
            kind = re.sub(r"\d+", "", text)
            if kind in shown:
                return
            shown.add(kind)
            text += " (said once; other files may be like it)"
        print(f"warning: {text}", file=file or sys.stderr)

    warnings.showwarning = show
