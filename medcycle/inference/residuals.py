"""Where the residual maps of many scans go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from medcycle.errors import ConfigError
from medcycle.inference.translator import Translator
from medcycle.io.find import ITK, NIFTI, PICTURES, VIDEOS, suffix_of
from medcycle.io.video import is_video

Pair = tuple[Path, str]
ENDINGS = (*NIFTI, *ITK, ".png", ".tif")
OTHERWISE = ".nii.gz"  # for DICOM series too: a map of errors written as a CT series could be taken for a CT


def plan_residuals(
    translator: Translator, pairs: Sequence[Pair], output: str | Path, residual: str | Path
) -> dict[Pair, str]:
    """The path of each scan's residual map.

    Args:
        translator: whose opposite is loaded now, so that a missing one is told before anything is translated.
        pairs: scans and where their translations go.
        output: what was asked for as the outputs' file or folder.
        residual: a file for one scan; a folder; or, beginning with "_", what is added to the outputs' names.

    Raises:
        ConfigError: for videos; for a name that tells no format, or one file for many scans.
        ModelError: there is no opposite model.
    """
    text = str(residual)
    moving = next((scan for scan, out in pairs if is_video(scan) or suffix_of(Path(out)) in VIDEOS), None)
    if moving is not None:
        raise ConfigError(f"--residual: {moving}: residual maps are made of scans and pictures, not of videos")
    _ = translator.opposite
    pictures = translator.model.source.preparation.modality == "image"
    if text.startswith("_"):
        if os.sep in text or "." in text:
            raise ConfigError(
                f"--residual {text}: what begins with _ is put between the outputs' names and their endings, such as "
                f"_residual. For a folder or file of that name: ./{text}"
            )
        return {(scan, out): str(_named(Path(out), text, pictures)) for scan, out in pairs}
    path = Path(residual)
    folder = text.endswith(os.sep) or path.is_dir() or not path.suffix
    if not folder and suffix_of(path) not in ENDINGS:
        raise ConfigError(f"--residual {text}: residual maps are written as {', '.join(ENDINGS)}, or into a folder")
    if not folder and len(pairs) > 1:
        raise ConfigError(
            f"--residual {text}: one file's name for {len(pairs)} scans. Name a folder, or what to add to the outputs' "
            "names, such as _residual."
        )
    if not folder:
        return {pairs[0]: text}
    found = {}
    for scan, out in pairs:
        below = Path(out).relative_to(output) if Path(out) != Path(output) else Path(Path(out).name)
        found[scan, out] = str(path / _named(below, "", pictures))
    return found


def _named(out: Path, word: str, pictures: bool) -> Path:
    """The name of an output with a word before its ending, which is kept where it can hold the residual."""
    ending = suffix_of(out)
    stem = out.name[: len(out.name) - len(ending)]
    kept = ending in ENDINGS and (pictures or ending not in PICTURES)
    return out.with_name(f"{stem}{word}{ending if kept else OTHERWISE}")
