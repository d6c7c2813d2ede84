"""What a DICOM header tells of how a scan was made: scanner and sequence, and nothing of the patient."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medcycle.volume import Volume

LONGEST = 48  # characters of one attribute


def acquisition(volume: Volume) -> tuple[str, str]:
    """The scanner ("SIEMENS Skyra, 3 T", "GE LightSpeed, kernel BONE") and the sequence ("SE/IR *tir2d1, TE 87 ms").

    Args:
        volume: as :func:`medcycle.io.read_volume` gives it.

    Returns:
        Two lines of plain printable text, "" for what is not DICOM or not told.
    """
    files = volume.source.get("files") or []
    if volume.source.get("format") != "dicom" or not files:
        return "", ""
    from medcycle.errors import MedcycleError
    from medcycle.io.dicom_series import read_header

    try:
        data = read_header(Path(files[0])).data
    except MedcycleError:  # gone since it was read
        return "", ""
    model = " ".join(part for part in (_text(data, "Manufacturer"), _text(data, "ManufacturerModelName")) if part)
    scanner = [model, _amount(data, "MagneticFieldStrength", "{:.3g} T")]
    scanner.append(_text(data, "ConvolutionKernel", "kernel {}"))
    sequence = [" ".join(part for part in (_text(data, "ScanningSequence"), _text(data, "SequenceName")) if part)]
    sequence.append(_amount(data, "EchoTime", "TE {:.0f} ms"))
    sequence.append(_amount(data, "RepetitionTime", "TR {:.0f} ms"))
    return ", ".join(filter(None, scanner)), ", ".join(filter(None, sequence))


def _value(data: Any, keyword: str, convert: Callable[[Any], Any]) -> Any:
    from medcycle.io.dicom_file import quiet

    try:
        with quiet():
            value = data.get(keyword)
            return None if value is None or value == "" else convert(value)
    except Exception:  # pydicom converts values late, and damaged ones raise many kinds
        return None


def _text(data: Any, keyword: str, pattern: str = "{}") -> str:
    def plain(value: Any) -> str:
        several = isinstance(value, Sequence) and not isinstance(value, str)
        return "/".join(map(str, value)) if several else str(value)

    # a damaged length makes a value run on into the patient's name; the number of the element between holds a zero byte
    text = re.split(r"\x00|\\x00", _value(data, keyword, plain) or "", maxsplit=1)[0]
    text = "".join(c if c.isprintable() else " " for c in text)
    text = " ".join(text.split())[:LONGEST]
    return pattern.format(text) if text else ""


def _amount(data: Any, keyword: str, pattern: str) -> str:
    number = _value(data, keyword, float)
    return "" if number is None else pattern.format(number)
