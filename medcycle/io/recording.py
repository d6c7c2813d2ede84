"""Recordings: volumes one after the other in time (4D NIfTI, MetaImage and NRRD), read and written one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.volume import Volume


@dataclass(frozen=True, eq=False)
class Recording:
    """A file of several volumes of one grid, in time.

    Attributes:
        path: the file.
        count: number of frames (volumes).
        space: voxels of one frame along i, j, k.
        step: seconds from one frame to the next, as far as the file tells (ITK's files have no unit: taken as seconds).
        start: seconds at the first frame.
        header: what the file's own format needs to write another one like it: a nibabel header, or the 4D origin and
            direction that ITK knows.
        frames: reads the volumes in order, anew at each call; no more than one is held.
    """

    path: Path
    count: int
    space: tuple[int, int, int]
    step: float
    start: float
    header: object
    frames: Callable[[], Iterator[Volume]]


def frame_place(path: Path | str, number: int) -> str:
    """What a frame (counted from 1) is called in messages, and in its Volume's source."""
    return f"{path}, frame {number}"


def frame_bytes(volume: Volume, number: int, dtype: np.dtype[np.generic], values: npt.NDArray[np.generic]) -> bytes:
    """A frame's `values` (channel, i, j, k) as files hold them: channel fastest, then i, j, k; little-endian.

    Args:
        volume: the frame, for messages.
        number: its number, from 1.
        dtype: the file's number type, chosen by the first frame.
        values: in the type that this frame needs.

    Raises:
        ScanError: if the two types differ.
    """
    if values.dtype != dtype:
        raise ScanError(
            f"{volume.source.get('path', f'frame {number}')}: its values, from {volume.array.min():g} to "
            f"{volume.array.max():g}, need {values.dtype}, and the frames before were written as {dtype}. Translate "
            "the frames one by one, each from a file of its own."
        )
    return values.astype(dtype.newbyteorder("<")).tobytes(order="F")


def same_grid(frames: Iterable[Volume]) -> Iterator[Volume]:
    """The frames, each checked to have the shape and unit of the first.

    Raises:
        ScanError: naming the frame that has not, or if there is none at all.
    """
    first: tuple[tuple[int, ...], str] | None = None
    for number, frame in enumerate(frames, 1):
        kind = frame.array.shape, frame.unit
        first = first or kind
        if kind != first:
            raise ScanError(
                f"{frame.source.get('path', f'frame {number}')}: {kind[0]} in {kind[1]}; the first frame has "
                f"{first[0]} in {first[1]}. A recording has one grid."
            )
        yield frame
    if first is None:
        raise ScanError("no frames to write")
