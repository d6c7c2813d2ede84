"""Copying attributes from a source's header: what cannot be read or written validly is cleaned or left out.

Headers hold anything: control characters, backslashes where one value is expected, words for codes. None of that may
get into a new file, nor stop it from being written.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any

_TEXT = ("LO", "PN", "SH")
_NUMBERS = ("DS", "IS")
_LENGTH = {"LO": 64, "SH": 16}
UID = re.compile(r"[0-9.]{1,64}")
"""What a UID may be made of; stricter rules would refuse names that real scanners gave."""
_PN_GROUPS, _PN_PARTS, _PN_LENGTH = 3, 5, 64

_ALLOWED = {
    "PatientSex": {"M", "F", "O"},
    "Laterality": {"R", "L"},
    "ScanningSequence": {"SE", "IR", "GR", "EP", "RM"},
    "SequenceVariant": {"SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "NONE"},
    "MRAcquisitionType": {"2D", "3D"},
    "VariableFlipAngleFlag": {"Y", "N"},
    "AngioFlag": {"Y", "N"},
    "InPlanePhaseEncodingDirection": {"ROW", "COL"},
    "RotationDirection": {"CW", "CC"},
}
"""Values of attributes for which the standard allows no others (PS3.3)."""


def printable(text: str) -> str:
    """Text on one line that every character set and reader can take: no control character, no backslash."""
    kept = "".join(c if c.isprintable() and c != "\ufffd" else " " for c in text.replace("\\", "/"))
    return " ".join(kept.split())


def ascii_text(text: str) -> str:
    """As `printable`, with "?" for what is not ASCII: our own words, which any source's character set must hold."""
    return printable(text.encode("ascii", "replace").decode())


def character_set(source: Any) -> Any:
    """The source's Specific Character Set if texts decoded by it can be written in it again, else UTF-8."""
    from pydicom.charset import convert_encodings

    declared = source.get("SpecificCharacterSet")
    if not declared:
        return "ISO_IR 192"  # ASCII is the same in it
    with warnings.catch_warnings(action="error"):
        try:
            convert_encodings(declared)
        except Exception:  # unknown names warn or raise
            return "ISO_IR 192"
    return declared


def copy(source: Any, target: Any, keywords: Iterable[str]) -> None:
    """Copy those attributes that the source has with a usable value; numbers and dates keep their very text.

    An enhanced image has them in its functional groups: those of all frames, or of the first.
    """
    for keyword in keywords:
        element = _usable(source, keyword)
        if element is not None:
            target[keyword] = element


def _usable(source: Any, keyword: str) -> Any:
    """The attribute as an element that can be written, or None."""
    from pydicom.datadict import dictionary_VM, dictionary_VR
    from pydicom.dataelem import DataElement
    from pydicom.multival import MultiValue

    vr, multiple = dictionary_VR(keyword), dictionary_VM(keyword) != "1"
    with warnings.catch_warnings(action="ignore"):  # pydicom's quote the values
        try:
            found = _find(source, keyword)
            if found is None or found.value is None:
                return None
            values = list(found.value) if isinstance(found.value, MultiValue) else [found.value]
            if vr in _TEXT:
                texts = [str(value) for value in values]
                cleaned = [_clean(vr, text) for text in (texts if multiple else [" ".join(texts)])]
                return DataElement(found.tag, vr, cleaned if multiple else cleaned[0])
            usable = vr == found.VR and (multiple or len(values) <= 1)
            return found if usable and all(_valid(keyword, vr, value) for value in values) else None
        except Exception:  # pydicom converts values late, and damaged ones raise many kinds
            return None


def _find(data: Any, keyword: str) -> Any:
    if keyword in data:
        return data[keyword]
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (data.get(name) or [])[:1]:
            for element in group:
                if element.VR == "SQ" and element.value and keyword in element.value[0]:
                    return element.value[0][keyword]
    return None


def _valid(keyword: str, vr: str, value: Any) -> bool:
    from pydicom import config
    from pydicom.valuerep import validate_value

    if keyword in _ALLOWED:
        return str(value) in _ALLOWED[keyword]
    if vr == "UI":
        return bool(UID.fullmatch(str(value)))
    if vr in _NUMBERS:
        value = getattr(value, "original_string", None) or str(value)
    if isinstance(value, str):
        validate_value(vr, str(value), config.RAISE)
    return True


def _clean(vr: str, text: str) -> str:
    if vr != "PN":
        return printable(text)[: _LENGTH[vr]].strip()
    groups = printable(text).split("=")[:_PN_GROUPS]
    return "=".join("^".join(group.split("^")[:_PN_PARTS])[:_PN_LENGTH] for group in groups)
