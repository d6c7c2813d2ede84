"""Frames in time through a translator, a few at once: what is prepared for one frame must not flicker in the next.

CT and pictures are prepared by fixed numbers. MR is scaled by percentiles, which waver from frame to frame and would
make a tissue that does not change flicker: so one scale is found for the whole recording.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from medcycle.data.unpaired import ALL, AXES
from medcycle.errors import ModelError
from medcycle.inference.sliding import Progress
from medcycle.io.files import plane_affine
from medcycle.prepare import Preparation
from medcycle.volume import Volume

if TYPE_CHECKING:
    from medcycle.inference.translator import Translator

SCALED_BY = 9
"""Frames, evenly spread over an MR recording, whose median percentiles scale all: one odd frame does not sway it."""

T = TypeVar("T")


def translate_recording(
    translator: Translator, frames: Callable[[], Iterable[Volume]], count: int, progress: Progress | None = None
) -> Iterator[Volume]:
    """Translate the volumes of a recording, in order, one after the other (single slices: a batch at once).

    A recording of one slice goes through a 2D model as it lies, even if the model's planes lie across it (a cardiac
    short axis and an axial model): a plane is all there is.

    Args:
        translator: what translates.
        frames: gives the volumes, of one grid, anew at each call; MR is read twice, for its scale.
        count: how many.
        progress: called with (frames done, all of them).

    Raises:
        ScanError, ModelError: naming the frame.
    """
    first = next(iter(frames()))
    translator.warn_of(first)
    across = _lies_across(translator, first)
    steady = _with_one_scale(translator, (_plane(frame) if across else frame for frame in frames()), count)
    done = 0
    for batch in batches(frames(), translator.batch_size if first.space[2:] == (1,) else 1):
        for frame, result in zip(
            batch, translate_batch(steady, [_plane(f) if across else f for f in batch]), strict=True
        ):
            yield result.replace(array=result.array.reshape(-1, *frame.space), affine=frame.affine)
        done += len(batch)
        if progress is not None:
            progress(done, count)


def translate_batch(translator: Translator, frames: Sequence[Volume]) -> list[Volume]:
    """As :meth:`Translator.frames`, but every error names the frame, or the frames that went in together.

    Raises:
        ScanError, ModelError: as :meth:`Translator.frames`.
    """
    try:
        return translator.frames(frames)
    except ModelError as error:
        names = [str(frame.source.get("path", "frame")) for frame in frames]
        if any(str(error).startswith(name) for name in names):
            raise
        last = f" to {names[-1].rpartition(' ')[2]}" if len(names) > 1 else ""
        raise ModelError(f"{names[0]}{last}: {error}") from error


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last of what is left; no further than needed is read ahead."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _lies_across(translator: Translator, frame: Volume) -> bool:
    """Whether a 2D model's planes cut this frame, a single slice, into lines."""
    if translator.model.ndim != 2 or frame.space[2:] != (1,) or translator.axes == ALL:
        return False
    wanted = translator.model.source.preparation.orientation or frame.orientation
    letter = wanted[AXES[translator.axes]]
    return not any({letter, frame.orientation[2]} <= set(pair) for pair in ("RL", "AP", "SI"))


def _plane(frame: Volume) -> Volume:
    """A frame of one slice as a 2D Volume."""
    return frame.replace(array=frame.array[..., 0], affine=plane_affine(frame.affine))


@dataclass(frozen=True)
class _OneScale(Preparation):
    """A preparation of MR whose low and high are known, instead of each frame's own percentiles."""

    limits: tuple[float, float] = (0.0, 1.0)

    def _limits(self, *of_one_frame: Any) -> tuple[float, float]:
        return self.limits


def _with_one_scale(translator: Translator, frames: Iterable[Volume], count: int) -> Translator:
    """A translator that scales every frame alike, which only MR needs to be told."""
    source = translator.model.source
    steady = copy.copy(translator)
    steady.resize = None  # a recording keeps its grid
    if source.preparation.modality != "mr":
        return steady
    chosen = set(np.linspace(0, count - 1, min(count, SCALED_BY)).round().astype(int).tolist())
    scales = [source.preparation(frame).state.scale for index, frame in enumerate(frames) if index in chosen]
    usable = [scale for scale in scales if scale[1] > scale[0]]
    if not usable:
        return steady
    low, high = np.median(usable, axis=0).tolist()
    known = {field.name: getattr(source.preparation, field.name) for field in fields(source.preparation)}
    steady.model = replace(translator.model, source=replace(source, preparation=_OneScale(**known, limits=(low, high))))
    return steady
