"""Many scans in, as many files out: what goes where is settled before the first is translated."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from medcycle.errors import ConfigError, MedcycleError, ScanError
from medcycle.inference.examine import Examined
from medcycle.inference.frames import translate_recording
from medcycle.inference.kinds import unit_of
from medcycle.inference.quality import Quality, append_quality, check_quality_file
from medcycle.inference.residuals import plan_residuals
from medcycle.inference.sliding import Progress
from medcycle.inference.translator import Translator
from medcycle.inference.video import translate_video
from medcycle.io import find_scans, open_recording, scan_name, write_recording, write_volume
from medcycle.io.find import PICTURES, VIDEOS, suffix_of
from medcycle.io.recording import Recording
from medcycle.io.video import is_video
from medcycle.volume import Volume

VIDEO_FORMATS = ("mp4", "mkv", "mov", "avi")
FRAME_FORMATS = ("png", "tif")
FORMATS = ("nii.gz", "nii", "mha", "nrrd", *FRAME_FORMATS, *VIDEO_FORMATS, "dicom")

Pair = tuple[Path, str]
"""A scan and where its translation goes."""
Opened = Volume | Recording | None
"""A scan as read; None: a video, which is read picture by picture."""
Result = TypeVar("Result")

_NO_VIDEO = "it is no video. To make one video of a folder of pictures, name it: out.mp4"

# What "the same format as the input" is for endings that are not themselves in FORMATS: the lossless, single-file
# member of the family. DICOM files have any ending or none.
_FAMILY = {"mhd": "mha", "nhdr": "nrrd", "jpg": "png", "jpeg": "png", "bmp": "png", "tiff": "tif", "": "dicom"}
_FAMILY |= {"m4v": "mp4", "webm": "mp4", "gif": "mp4"}


def translate_paths(
    translator: Translator,
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    format: str | None = None,  # noqa: A002
    overwrite: bool = False,
    series: str | None = None,
    resample_gaps: bool = False,
    deidentify: bool = False,
    deterministic_uids: bool = False,
    rate: float | None = None,
    residual: str | Path | None = None,
    quality: str | Path | None = None,
    tell: Callable[[str, Quality], None] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    steps: Progress | None = None,
) -> list[Path]:
    """Translate one scan into `output`, or many into the folder `output`.

    A scan given by its own path is written to `output`, whose name tells the format (no suffix or a trailing slash:
    a DICOM series folder). Anything else (a folder of scans, a glob, a CSV, several paths) goes to
    `output`/NAME.ENDING; scans of the same name keep their folders below `output`.

    A video becomes a video, or a folder of pictures 000001.png and so on (for an `output` without an ending, or format
    png or tif); a folder of pictures becomes a video if `output` is named like one. A 4D NIfTI, MHA or NRRD file is
    translated volume by volume into one like it. Neither is ever held in memory as a whole.

    Args:
        translator: what translates.
        inputs: a file, a folder, a glob or a CSV, as :func:`medcycle.io.find_scans` takes them, or several.
        output: a file or folder.
        format: one of FORMATS for many scans; None keeps each input's (JPEG and BMP become PNG).
        overwrite: replace what is there already, instead of refusing before anything is done.
        series: which one, where a DICOM folder holds several.
        resample_gaps: accept DICOM series with missing or unevenly spaced slices (see :meth:`Translator.file`).
        deidentify: DICOM series are written without the patient; those of one study stay together, and those of one
            patient (see :meth:`Translator.file`). Names of files and folders stay as they are.
        deterministic_uids: DICOM series get UIDs and dates made from their sources', so that the same call writes the
            same bytes.
        rate: frames per second of a video made from pictures; None: 25.
        residual: where |F(G(x)) - x| goes (see :meth:`Translator.examine`): for one scan a file; a folder, where the
            maps have the outputs' names; or, beginning with "_", what is added to the outputs' names, as in
            out/head1_residual.nii.gz. That of a DICOM series is a .nii.gz file: it is no CT and must not look like one.
        quality: a CSV file that a row is added to for each scan.
        tell: called with the name and the figures of each scan that was written; not of pictures, videos and 4D files.
        progress: called with (scans done, scans in all, name of the scan just done).
        steps: called with (planes, patches or frames done, all of them) within each scan.

    Returns:
        The paths written, in the order of the scans.

    Raises:
        ConfigError: for an unknown format; if `deidentify` and `deterministic_uids` are both asked for; if `quality` is
            asked for of a model of pictures, or `residual` of a video.
        ScanError: before anything is written: if nothing is found, two scans would share an output, or an output
            exists. At the end: naming each scan that failed; all others have been written. At once: if a row cannot be
            added to the quality file.
        ModelError: if the only scan does not fit the model; or, with `residual`, there is no opposite model.
    """
    if deidentify and deterministic_uids:
        raise ConfigError(
            "--deidentify with --deterministic-uids: UIDs made from the originals' tell whoever has those what belongs "
            "to them. Ask for one of the two."
        )
    if quality is not None:
        if translator.pictures:
            raise ConfigError("--quality: pictures have no body whose structure could agree; leave it out")
        check_quality_file(Path(quality))
    pairs = plan_outputs(inputs, output, format)
    maps = {} if residual is None else plan_residuals(translator, pairs, output, residual)
    outputs = pairs + [(scan, maps[scan, out]) for scan, out in pairs if maps]
    if quality is not None and any(Path(out).resolve() == Path(quality).resolve() for _, out in outputs):
        raise ConfigError(f"--quality {quality}: a translation goes there. Name another file, such as quality.csv.")
    _refuse_clashes(outputs, overwrite)
    found: dict[Pair, Quality] = {}
    read = functools.partial(_read, translator, {"series": series, "resample_gaps": resample_gaps})
    make = functools.partial(_make, translator, format, rate, steps, found, residual is not None)
    options = {"deidentify": deidentify, "deterministic_uids": deterministic_uids}
    write = functools.partial(_write, translator, options, maps)
    report = functools.partial(_report, translator, found, maps, quality, tell)
    written: list[Path] = []
    failures: list[MedcycleError] = []
    names = Counter(scan.name for scan, _ in pairs)
    for index, outcome in enumerate(_in_turn(pairs, read, make, write)):
        scan = pairs[index][0]
        if isinstance(outcome, Path):
            written.append(outcome)
            report(pairs[index], scan.name if names[scan.name] == 1 else str(scan))
        elif len(pairs) == 1:
            raise outcome
        else:
            failures.append(outcome)
        if progress is not None:
            progress(index + 1, len(pairs), scan_name(scan))
    if failures:
        listing = "\n".join(f"  - {failure}" for failure in failures)
        raise ScanError(
            f"{output}: {len(failures)} of {len(pairs)} inputs could not be translated; {len(written)} were written.\n"
            f"{listing}"
        )
    return written


def plan_outputs(
    inputs: str | Path | Sequence[str | Path], output: str | Path, file_format: str | None = None
) -> list[tuple[Path, str]]:
    """Each scan with the path that its translation goes to ("/" at the end: a folder, of a DICOM series or of frames).

    Pictures that are to become one video are one scan, called as they were asked for.

    Raises:
        ConfigError: for an unknown format, or one that is not for this kind of scan.
        ScanError: if nothing is found, or many scans are to go into one file.
    """
    if file_format is not None and file_format not in FORMATS:
        raise ConfigError(f"format {file_format!r} is not known; allowed are {', '.join(FORMATS)}")
    asked = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    scans = [scan for item in asked for scan in find_scans(item, videos=True)]
    folder = Path(output)
    slash = str(output).endswith("/") or folder.is_dir()
    named = None if slash else suffix_of(folder)
    if folder.suffix and named == "" and len(scans) == 1:
        raise ScanError(
            f"{output}: no format is called {folder.suffix!r}; known endings are {', '.join(FORMATS[:-1])}. A "
            f"folder for a DICOM series whose name has a dot: {output}/"
        )
    if len(asked) == 1 and named in VIDEOS and all(suffix_of(scan) in PICTURES for scan in scans):
        return [(Path(asked[0]), str(output))]
    if len(asked) == 1 and scans == [Path(asked[0])] and (named or file_format is None):
        if named and is_video(scans[0]) != (named in VIDEOS):
            what = "video file, or a folder for its frames" if is_video(scans[0]) else "file that holds scans"
            raise ScanError(f"{output}: {scans[0]} goes into a {what}, and this name ends in {named}")
        if named and named.removeprefix(".") not in (*FORMATS, *_FAMILY):
            raise ScanError(
                f"{output}: {named} is read, not written; known endings are {', '.join(FORMATS[:-1])}. A DICOM series "
                f"is a folder: {output.rstrip('/') if isinstance(output, str) else output}/"
            )
        if named and file_format not in (None, _format(named)):
            raise ConfigError(f"{output}: this name asks for another format than {file_format}. Give one of them.")
        return [(scans[0], str(output))]
    if named or folder.is_file():
        raise ScanError(f"{output}: {len(scans)} inputs from {inputs} need a folder, and this is one file's name")
    names = Counter(scan_name(scan) for scan in scans)
    # T1.nii.gz in every patient's folder is common: the folders then tell the outputs apart.
    root = Path(os.path.commonpath([scan.parent.absolute() for scan in scans]))
    keep_folders = max(names.values()) > 1
    pairs = []
    for scan in scans:
        below = scan.parent.absolute().relative_to(root) if keep_folders else Path()
        kind = file_format or ("dicom" if scan.is_dir() else _format(suffix_of(scan)))
        if kind not in ((*VIDEO_FORMATS, *FRAME_FORMATS) if is_video(scan) else set(FORMATS) - set(VIDEO_FORMATS)):
            raise ConfigError(
                f"format {kind} is not for {scan}: "
                + (f"a video becomes {', '.join((*VIDEO_FORMATS, *FRAME_FORMATS))}" if is_video(scan) else _NO_VIDEO)
            )
        ending = "/" if kind == "dicom" or (is_video(scan) and kind in FRAME_FORMATS) else f".{kind}"
        pairs.append((scan, f"{folder / below / scan_name(scan)}{ending}"))
    return pairs


def _format(suffix: str) -> str:
    """The member of FORMATS for a file's ending."""
    name = suffix.removeprefix(".")
    return name if name in FORMATS else _FAMILY.get(name, "dicom")


def _refuse_clashes(pairs: list[tuple[Path, str]], overwrite: bool) -> None:
    """Refuse outputs that two scans share, that are a scan themselves, or (unless asked) that exist."""
    uses = Counter(destination for _, destination in pairs)
    for scan, destination in pairs:
        path = Path(destination)
        if uses[destination] > 1:
            clashing = ", ".join(str(s) for s, d in pairs if d == destination)
            raise ScanError(
                f"{destination}: {clashing} would all be written here. Rename them, or translate one alone."
            )
        if path.resolve() == scan.resolve():
            raise ScanError(f"{destination}: this is the scan itself; a translation never replaces it. Name another.")
    existing = [destination for _, destination in pairs if _holds_something(Path(destination))]
    if existing and not overwrite:
        more = f" and {len(existing) - 3} more" if len(existing) > 3 else ""
        raise ScanError(
            f"{', '.join(existing[:3])}{more}: already there. Choose another output, or replace it "
            "(--overwrite, overwrite=True). Nothing was translated."
        )


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _in_turn(
    pairs: Sequence[Pair],
    read: Callable[[Pair], Opened],
    make: Callable[[Pair, Opened], Examined | Path],
    write: Callable[[Pair, Examined, Opened], Path],
) -> Iterator[Path | MedcycleError]:
    """What was written for each pair, or why not; files are read and written in a thread while the network works."""
    with ThreadPoolExecutor(1, thread_name_prefix="medcycle-files") as files:
        ahead = files.submit(_attempt, read, pairs[0])
        try:
            before: Future[Path | MedcycleError] | Path | MedcycleError | None = None
            for index, pair in enumerate(pairs):
                opened = ahead.result()
                if index + 1 < len(pairs):
                    ahead = files.submit(_attempt, read, pairs[index + 1])
                made = opened if isinstance(opened, MedcycleError) else _attempt(make, pair, opened)
                if before is not None:
                    yield before.result() if isinstance(before, Future) else before
                before = files.submit(_attempt, write, pair, made, opened) if isinstance(made, Examined) else made
                del opened, made  # no more than three scans are held: read, translated, written
            if before is not None:
                yield before.result() if isinstance(before, Future) else before
        finally:
            ahead.cancel()  # what is translated already is still written


def _attempt(work: Callable[..., Result], pair: Pair, *more: Any) -> Result | MedcycleError:
    """What `work` makes of a pair, or the error that tells why it cannot."""
    try:
        return work(pair, *more)
    except MedcycleError as error:
        return error
    except MemoryError:
        return ScanError(
            f"{pair[0]}: too large for this machine's memory. Crop it, or prepare it with coarser spacing."
        )


def _read(translator: Translator, options: dict[str, Any], pair: Pair) -> Opened:
    if is_video(pair[0]) or is_video(pair[1]):
        return None
    recording = open_recording(pair[0], unit=unit_of(translator.model.source.preparation.modality))
    return translator.read(pair[0], **options) if recording is None else recording


def _make(
    translator: Translator,
    file_format: str | None,
    rate: float | None,
    steps: Progress | None,
    found: dict[Pair, Quality],
    residual: bool,
    pair: Pair,
    opened: Opened,
) -> Examined | Path:
    """The translated volume, its figures also in `found`; the path of what was written at once, frame by frame."""
    scan, destination = pair
    if opened is None:
        pictures = file_format if file_format in FRAME_FORMATS else FRAME_FORMATS[0]
        return translate_video(translator, scan, destination, rate=rate, pictures=pictures, progress=steps)
    if isinstance(opened, Recording):
        if residual:
            raise ScanError(f"{scan}: holds {opened.count} volumes in time; residual maps are made of single volumes")
        frames = translate_recording(translator, opened.frames, opened.count, steps)
        return write_recording(frames, destination, opened)
    examined = translator.examine(opened, steps, residual=residual)
    found[pair] = examined.quality
    return examined


def _write(
    translator: Translator,
    options: dict[str, Any],
    maps: dict[Pair, str],
    pair: Pair,
    result: Examined,
    source: Volume,
) -> Path:
    written = translator.write(result.volume, source, pair[1], **options)
    if result.residual is not None:
        write_volume(result.residual, maps[pair])
    return written


def _report(
    translator: Translator,
    found: dict[Pair, Quality],
    maps: dict[Pair, str],
    quality: str | Path | None,
    tell: Callable[[str, Quality], None] | None,
    pair: Pair,
    name: str,
) -> None:
    """Tell of a scan that was written, and add its row."""
    figures = found.pop(pair, None)
    if figures is None or translator.pictures:
        return
    if tell is not None:
        tell(name, figures)
    if quality is not None:
        model = f"{translator.model.source.name}_to_{translator.model.target.name}"
        append_quality(Path(quality), figures.row(str(pair[0]), pair[1], model, maps.get(pair, "")))
