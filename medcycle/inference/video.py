"""Videos: from a video file or a folder of pictures to a video file or a folder of pictures, a batch at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from medcycle.errors import ModelError, ScanError
from medcycle.inference.frames import batches, translate_batch
from medcycle.inference.sliding import Progress
from medcycle.inference.translator import Translator
from medcycle.io import find_scans, read_volume
from medcycle.io.files import LPS, staged, stored
from medcycle.io.find import PICTURES, suffix_of
from medcycle.io.image import write_image
from medcycle.io.recording import frame_place
from medcycle.io.video import VideoInfo, is_video, read_frames, video_info
from medcycle.io.video_write import VideoWriter
from medcycle.volume import Volume

DEFAULT_RATE = Fraction(25)
"""Pictures a second of a video that is made from pictures, which have no times of their own."""

_OURS = re.compile(r"[0-9]{6,}\.(png|tif)")

Timed = tuple[Volume, Fraction]
Put = Callable[[Volume, Fraction], None]


def translate_video(
    translator: Translator,
    source: str | Path,
    destination: str | Path,
    *,
    rate: Fraction | float | None = None,
    pictures: str = "png",
    progress: Progress | None = None,
) -> Path:
    """Translate a video, or pictures as one, frame by frame; memory does not grow with its length.

    A model that takes one channel is given each frame's luma; any other one, RGB. A video made from a video keeps its
    size, times and sound.

    Args:
        translator: a 2D model of pictures.
        source: a video file; or pictures as :func:`medcycle.io.find_scans` takes them, in natural order.
        destination: a video file, or a folder for 000001.png and so on.
        rate: frames per second of a video made from pictures; None: 25.
        pictures: "png" or "tif", in a folder.
        progress: called with (frames done, about how many).

    Raises:
        ModelError: if the model is none of pictures, or works in 3D.
        ScanError: if the source cannot be read or the destination not written, or holds other files. What was there
            before is then untouched.
    """
    _check_model(translator, source)
    destination = Path(destination)
    if is_video(source):
        info = video_info(source)
        frames, total = _of_video(Path(source), grey=translator.model.in_channels == 1), info.frames
    else:
        files = find_scans(source)
        info = VideoInfo(0, 0, _rate(rate), 1 / _rate(rate), len(files), audio=False, pixel=Fraction(1))
        frames, total = _of_pictures(files, info.time_base), len(files)
    to_video = is_video(destination)
    if translator.resize is not None:
        info = replace(info, pixel=Fraction(1))
    with _video(destination, source, info) if to_video else _folder(destination, pictures) as put:
        done = 0
        for batch in batches(frames, translator.batch_size):
            if done == 0:
                translator.warn_of(batch[0][0])
            results = translate_batch(translator, [volume for volume, _ in batch])
            for result, (_, time) in zip(results, batch, strict=True):
                put(result, time)
            done += len(batch)
            if progress is not None:
                progress(done, max(done, total))
    if progress is not None:
        progress(done, done)
    return destination


def _check_model(translator: Translator, source: str | Path) -> None:
    model = translator.model
    if model.ndim != 2 or model.source.preparation.modality != "image":
        raise ModelError(
            f"{source}: frames of a video are pictures; this model translates "
            f"{'3D patches' if model.ndim == 3 else model.source.preparation.modality.upper()}. Use a 2D model of "
            "pictures (modality: image)."
        )


def _rate(rate: Fraction | float | None) -> Fraction:
    if rate is None:
        return DEFAULT_RATE
    if not 0 < rate <= 1000:
        raise ScanError(f"{rate} frames per second: expected more than 0 and at most 1000")
    return Fraction(rate).limit_denominator(1001)


def _of_video(path: Path, *, grey: bool) -> Iterator[Timed]:
    for number, frame in enumerate(read_frames(path, grey=grey), 1):
        source = {"path": frame_place(path, number), "format": "video"}
        yield Volume(frame.picture.astype(np.float32), LPS, "uint8", source), frame.time


def _of_pictures(files: list[Path], step: Fraction) -> Iterator[Timed]:
    for number, file in enumerate(files):
        if suffix_of(file) not in PICTURES:
            raise ScanError(f"{file}: no picture; a video is made from pictures only ({', '.join(PICTURES)})")
        yield read_volume(file), number * step


@contextmanager
def _video(path: Path, source: str | Path, info: VideoInfo) -> Iterator[Put]:
    with VideoWriter(
        path,
        rate=info.rate,
        time_base=info.time_base,
        pixel=info.pixel,
        audio_from=source if info.audio else None,
    ) as writer:

        def put(volume: Volume, time: Fraction) -> None:
            if volume.unit != "uint8" or volume.channels not in (1, 3):
                raise ScanError(
                    f"{path}: a video holds 8-bit pictures of 1 or 3 channels; the model gives {volume.channels} "
                    f"of {volume.unit}. Write its frames as pictures instead: name a folder, with --format tif."
                )
            writer.write(stored(volume), time)

        yield put


@contextmanager
def _folder(path: Path, kind: str) -> Iterator[Put]:
    """Numbered pictures in a folder that appears whole or not at all; one of ours that is there is replaced."""
    strangers = [file.name for file in path.iterdir() if not _OURS.fullmatch(file.name)] if path.is_dir() else []
    if strangers:
        raise ScanError(
            f"{path}: holds other files than numbered frames ({', '.join(sorted(strangers)[:3])}), and would be "
            "replaced as a whole. Name another folder."
        )
    number = 0
    with staged(path) as folder:
        folder.mkdir()

        def put(volume: Volume, time: Fraction) -> None:
            nonlocal number
            number += 1
            write_image(volume, folder / f"{number:06d}.{kind}")

        yield put
