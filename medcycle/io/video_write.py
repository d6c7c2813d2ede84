"""Video files, written one frame at a time by PyAV; a file appears whole or not at all.

.mp4, .mov and .m4v are H.264, visually lossless; .mkv and .avi are FFV1, which loses nothing.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from medcycle.errors import ScanError
from medcycle.io.files import staged, unwritable
from medcycle.io.find import suffix_of
from medcycle.io.video import Picture, pyav

_MP4 = (".mp4", ".mov", ".m4v")
LOSSLESS = (".mkv", ".avi")
WRITABLE = (*_MP4, *LOSSLESS)

_CRF = "16"  # x264's constant quality: 18 counts as visually lossless
_BT709 = 1  # the same number for matrix, primaries and transfer (ISO/IEC 23091-2)
_LIMITED = 1  # FFmpeg's AVCOL_RANGE_MPEG


class VideoWriter:
    """Writes a video file that appears whole or not at all; to be used in a with statement.

    The frame size is that of the first picture, to the pixel: an odd size is written as H.264 4:4:4, which needs no
    even one. A build of PyAV without x264 writes MPEG-4 part 2.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        rate: Fraction,
        time_base: Fraction | None = None,
        pixel: Fraction = Fraction(1),
        audio_from: str | Path | None = None,
    ) -> None:
        """Nothing is opened before the with statement begins.

        Args:
            path: one of WRITABLE.
            rate: frames per second, about (it guides the encoder).
            time_base: seconds, of which all times are multiples; None: one frame. .mkv keeps whole milliseconds,
                .avi whole frames.
            pixel: width of a pixel over its height.
            audio_from: a video whose sound is copied as it is; None: silent.

        Raises:
            ScanError: for another ending, or without PyAV.
        """
        self.path = Path(path)
        if suffix_of(self.path) not in WRITABLE:
            raise ScanError(f"{self.path}: videos can be written as {', '.join(WRITABLE)}")
        self._av = pyav()
        self._rate = rate
        # AVI has no times but one entry a frame.
        self._by_frame = self.path.suffix.lower() == ".avi"
        self._base = 1 / rate if self._by_frame or time_base is None else time_base
        self._pixel = pixel
        self._audio_from = audio_from
        self._stack = ExitStack()
        self._stream: Any = None
        self._sound: _Sound | None = None
        self._shape: tuple[int, ...] = ()
        self._written = 0
        self._first = Fraction(0)
        self._last = 0

    def __enter__(self) -> Self:
        self._file = self._stack.enter_context(staged(self.path))
        try:
            kind = "mp4" if self._file.suffix.lower() == ".m4v" else None  # else FFmpeg takes a bare stream for it
            # Or a first time that is not 0 would be kept in whole milliseconds.
            options = {"movie_timescale": str(self._base.denominator)} if self._file.suffix.lower() in _MP4 else {}
            opened = self._av.open(str(self._file), "w", format=kind, container_options=options)
            self._container = self._stack.enter_context(opened)
        except (self._av.FFmpegError, OSError) as error:
            self._stack.close()
            raise unwritable(self.path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        self._stack.__exit__(kind, error, trace)

    def _finish(self) -> None:
        if self._stream is None:
            raise ScanError(f"{self.path}: no frames to write")
        try:
            self._container.mux(self._stream.encode())
            if self._sound is not None:
                self._sound.copy(None)
            self._container.close()
        except self._av.FFmpegError as failure:
            raise unwritable(self.path, failure) from failure

    def write(self, picture: Picture, time: Fraction) -> None:
        """Add a picture, uint8 (C, W, H) with 1 or 3 channels, shown from `time` (seconds) on.

        Raises:
            ScanError: if it has another shape than the first, or cannot be written.
        """
        try:
            if self._stream is None:
                self._shape = picture.shape
                self._first = time if self._by_frame else Fraction(0)
                self._open()
            if picture.shape != self._shape:
                raise ScanError(
                    f"{self.path}: frame {self._written + 1} is {picture.shape} (channels, width, height), the first "
                    f"{self._shape}. Frames of one video have one size."
                )
            frame = self._frame(picture)
            frame.pts = round((time - self._first) / self._base)
            if self._written and frame.pts <= self._last:
                # Two in one tick: of a coarser clock than the source's, or of a damaged source.
                frame.pts = self._last + 1
            frame.time_base = self._base
            self._last = frame.pts
            self._written += 1
            if self._sound is not None:
                self._sound.copy(time)
            self._container.mux(self._stream.encode(frame))
        except self._av.FFmpegError as error:
            raise unwritable(self.path, error) from error

    def _open(self) -> None:
        channels, width, height = self._shape
        codec, self._format, options = self._coding(channels, odd=bool(width % 2 or height % 2))
        if codec == "mpeg4" and self._base.denominator > 65535:  # its clock has 16 bits
            self._base = 1 / self._rate.limit_denominator(1001)
        self._stream = self._container.add_stream(codec, rate=self._rate, options=options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, self._format
        self._stream.time_base = self._base
        context = self._stream.codec_context
        context.time_base = self._base
        context.sample_aspect_ratio = self._pixel
        if self._format.startswith("yuv"):
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED
        if codec == "mpeg4":
            context.qmin = context.qmax = 2
        if self._audio_from is not None:
            opened = self._stack.enter_context(self._av.open(str(self._audio_from)))
            self._sound = _Sound.of(opened, self._container)

    def _coding(self, channels: int, *, odd: bool) -> tuple[str, str, dict[str, str]]:
        """The codec, its pixel format and options."""
        if suffix_of(self.path) in LOSSLESS:
            return "ffv1", "gray" if channels == 1 else "bgr0", {"level": "3", "slicecrc": "1"}
        try:
            self._av.Codec("libx264", "w")
        except ValueError:
            return "mpeg4", "yuv420p", {}
        return "libx264", "yuv444p" if odd else "yuv420p", {"crf": _CRF}

    def _frame(self, picture: Picture) -> Any:
        pixels = np.ascontiguousarray(picture.transpose(2, 1, 0))
        if len(picture) == 1:
            frame = self._av.VideoFrame.from_ndarray(pixels[..., 0], "gray")
        else:
            frame = self._av.VideoFrame.from_ndarray(pixels, "rgb24")
        if self._format.startswith("yuv"):
            return frame.reformat(format=self._format, dst_colorspace=_BT709, dst_color_range=_LIMITED)
        return frame.reformat(format=self._format)


class _Sound:
    """The first audio stream of another file, copied packet by packet as the pictures go on."""

    def __init__(self, source: Any, packets: Iterator[Any], output: Any) -> None:
        self._stream = output.add_stream_from_template(source)
        self._output = output
        # The last of them is empty: it would flush a decoder.
        self._packets = (packet for packet in packets if packet.pts is not None)
        self._next = next(self._packets, None)

    @classmethod
    def of(cls, opened: Any, output: Any) -> _Sound | None:
        """The sound of an opened file; None if it has none, or with a warning if the output's format cannot hold it."""
        if not opened.streams.audio:
            return None
        source = opened.streams.audio[0]
        name = source.codec_context.name
        if name in output.supported_codecs and output.format.name != "avi":
            return cls(source, opened.demux(source), output)
        warnings.warn(
            f"{opened.name}: its sound ({name}) does not fit into this kind of video and is left out. Write .mkv to "
            "keep it.",
            stacklevel=2,
        )
        return None

    def copy(self, until: Fraction | None) -> None:
        """Copy what is heard up to a time in seconds; None: all the rest."""
        while self._next is not None and (until is None or self._next.pts * self._next.time_base <= until):
            self._next.stream = self._stream
            self._output.mux(self._next)
            self._next = next(self._packets, None)
