"""Video files, read one frame at a time by PyAV: every picture with its exact time, and damage is an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.io.files import unreadable
from medcycle.io.find import VIDEOS, suffix_of

Picture = npt.NDArray[np.uint8]

_COVER = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC: an album's cover, a "video" of one picture
_SHORTER = 3  # frames that a video may end before its header says so: counting differs between programs


@dataclass(frozen=True)
class VideoInfo:
    """What a video file is.

    Attributes:
        width, height: pixels, as shown (turned where the file says so).
        rate: frames per second; the mean where it varies.
        time_base: seconds, of which all frames' times are multiples.
        frames: about how many; 0 if the file does not tell.
        audio: whether there is sound.
        pixel: width of a pixel over its height.
    """

    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    frames: int
    audio: bool
    pixel: Fraction


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a video.

    Attributes:
        picture: uint8, (C, W, H): RGB or grey.
        time: seconds from the file's zero; exact.
    """

    picture: Picture
    time: Fraction


def is_video(path: str | Path) -> bool:
    """Whether the name is a video file's."""
    return suffix_of(path) in VIDEOS


def video_info(path: str | Path) -> VideoInfo:
    """What a video file is, from its header and first frame.

    Raises:
        ScanError: no such file, damaged, no picture in it, or PyAV is not installed.
    """
    path = Path(path)
    av = pyav()
    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container, path)
            turned = next((frame.rotation % 180 == 90 for frame in container.decode(stream)), None)
            if turned is None:
                raise ScanError(f"{path}: a video without frames")
            rate = _rate(stream)
            count = stream.frames
            if not count and (end := _end(container, stream)) is not None:
                count = round((end - _start(stream)) * rate)
            pixel = stream.sample_aspect_ratio or Fraction(1)
            return VideoInfo(
                width=stream.height if turned else stream.width,
                height=stream.width if turned else stream.height,
                rate=rate,
                time_base=stream.time_base,
                frames=max(0, count),
                audio=bool(container.streams.audio),
                pixel=1 / pixel if turned else pixel,
            )
    except (av.FFmpegError, OSError) as error:
        raise unreadable(path, "a video", error) from error


def read_frames(path: str | Path, *, grey: bool = False) -> Iterator[Frame]:
    """The pictures of a video's first video stream in the order shown; only a few are in memory at once.

    Args:
        path: the file.
        grey: one channel, the luma; otherwise three, also of a grey video.

    Raises:
        ScanError: as :func:`video_info`; or, naming the frame, where the file is damaged or ends too early.
    """
    path = Path(path)
    av = pyav()
    number = 0
    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container, path)
            stream.thread_type = "NONE"  # threads lose errors, or the frames before them
            stream.codec_context.options = {"err_detect": "explode"}  # no patched-up frames
            step = 1 / _rate(stream)
            end = _start(stream)
            for frame in _decoded(container, stream, av):
                if frame is None or frame.is_corrupt:
                    raise ScanError(_broken(path, number + 1, "it cannot be decoded"))
                number += 1
                base = frame.time_base or stream.time_base
                time = end if frame.pts is None else frame.pts * base
                end = time + (frame.duration * base if frame.duration else step)
                yield Frame(_picture(frame, grey), time)
            promised = _end(container, stream)
            if not number or (promised is not None and promised - end > _SHORTER * step):
                raise ScanError(_broken(path, number + 1, f"the file ends at {float(end):.2f} s"))
    except (av.FFmpegError, OSError) as error:
        raise unreadable(path, "a video", error) from error


def _decoded(container: Any, stream: Any, av: Any) -> Iterator[Any]:
    """The stream's frames; where it is damaged, those before that, and then None."""
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                break
            yield from packet.decode()
        else:
            return
    except av.FFmpegError:
        pass
    with suppress(av.FFmpegError):
        yield from stream.codec_context.decode(None)  # what was still waiting for its turn
    yield None


def _broken(path: Path, number: int, reason: str) -> str:
    return f"{path}: damaged or truncated at frame {number} ({reason}). Copy it anew, or cut that part away."


def pyav() -> Any:
    """The package av, imported only here.

    Raises:
        ScanError: if it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ScanError("videos need the package PyAV: pip install 'medcycle[video]'") from error
    return av


def _video_stream(container: Any, path: Path) -> Any:
    streams = [stream for stream in container.streams.video if not stream.disposition & _COVER]
    if not streams:
        raise ScanError(f"{path}: no video stream in this file")
    return streams[0]


def _rate(stream: Any) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or 25)


def _start(stream: Any) -> Fraction:
    return Fraction((stream.start_time or 0) * stream.time_base)


def _end(container: Any, stream: Any) -> Fraction | None:
    """When the video ends, as the file's header says; None if it does not."""
    if stream.duration:
        return _start(stream) + Fraction(stream.duration * stream.time_base)
    if text := stream.metadata.get("DURATION"):  # of Matroska: the time of the end
        hours, minutes, seconds = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds[:12])
    if container.duration and not container.streams.audio:
        return Fraction(container.duration, 1_000_000)
    return None


def _picture(frame: Any, grey: bool) -> Picture:
    """The pixels of a decoded frame as uint8 (C, W, H), turned as the file says."""
    pixels = frame.to_ndarray(format="gray" if grey else "rgb24")
    pixels = pixels[..., None] if grey else pixels
    # The angle is counterclockwise, as np.rot90 counts on an array of rows.
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)).transpose(2, 1, 0))
