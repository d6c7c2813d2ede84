"""How steadily a translated clip changes from frame to frame, compared with the clip it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.evaluation.result import METRICS, Figures, Result, summary, write_result
from medcycle.volume import Volume

Progress = Callable[[int, int, str], None]
Frame = npt.NDArray[Any]  # (channel, *space)
Image = npt.NDArray[np.float64]

FLOW_RADIUS = 5  # pixels round each whose motion is taken as one
FLOW_WARPS = 5


def flicker(frames: Iterable[tuple[Frame, Frame]]) -> Figures:
    """Both measures of a clip, in one pass that holds two frames of each clip at a time.

    Args:
        frames: (output, input) frames in order, each (channel, *space); sizes stay the same through a clip.

    Returns:
        "change" and "change_input": the mean absolute difference of successive frames, in percent of the range
        (largest minus smallest value) of that clip, and "change_ratio", the former over the latter: about 1 for a
        translation as steady as its input, infinite for a flickering one of a still input, NaN where both are still.
        "warping_error" and "warping_error_input" (see :func:`warped_difference`): means over the pairs of frames, in
        squares of that clip's range. NaN for volumes, and where no pair has a pixel whose motion is certain.

    Raises:
        ScanError: fewer than two frames, or sizes that differ.
    """
    clips = _Clip(), _Clip()
    before: tuple[Image, Image] | None = None
    count = 0
    for count, pair in enumerate(frames, 1):
        now = np.asarray(pair[0], np.float64), np.asarray(pair[1], np.float64)
        if before is None:
            before = now
        if [a.shape for a in now] != [a.shape for a in before]:
            raise ScanError(
                f"frame {count}: {now[0].shape} made from {now[1].shape}, the frames before are {before[0].shape} and "
                f"{before[1].shape} (channels, then pixels). Give frames of one clip."
            )
        if count > 1:
            flow = motion(before[1], now[1]) if before[1].shape[1:] == before[0].shape[1:] else None
            for clip, a, b in zip(clips, before, now, strict=True):
                clip.add(a, b, flow)
        for clip, b in zip(clips, now, strict=True):
            clip.see(b)
        before = now
    if count < 2:
        raise ScanError(f"{count} frame(s); a clip whose changes can be measured has at least 2")
    output, source = clips
    change, change_input = output.change(), source.change()
    still = math.inf if change > 0 else math.nan
    return {
        "change": 100 * change,
        "change_input": 100 * change_input,
        "change_ratio": change / change_input if change_input > 0 else still,
        "warping_error": output.warping_error(),
        "warping_error_input": source.warping_error(),
    }


class _Clip:
    """Running sums over one clip; its range is known only at the end, and divided by there."""

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf
        self._changes: list[float] = []  # a number a pair
        self._warped: list[float] = []

    def see(self, frame: Image) -> None:
        self._low, self._high = min(self._low, float(frame.min())), max(self._high, float(frame.max()))

    def add(self, before: Image, now: Image, flow: tuple[Image, npt.NDArray[np.bool_]] | None) -> None:
        self._changes.append(float(np.abs(now - before).mean()))
        if flow is not None and flow[1].any():
            self._warped.append(warped_difference(before, now, *flow))

    def change(self) -> float:
        return float(np.mean(self._changes)) / self._range()

    def warping_error(self) -> float:
        return float(np.mean(self._warped)) / self._range() ** 2 if self._warped else math.nan

    def _range(self) -> float:
        return self._high - self._low or 1.0  # a constant clip changes by 0 of any range


def warped_difference(before: Image, now: Image, flow: Image, certain: npt.NDArray[np.bool_]) -> float:
    """Mean squared difference of a frame and the next one with its motion undone (Lai 2018, "warping error").

    Args:
        before: frame t, shape (channel, rows, columns).
        now: frame t + 1.
        flow: (2, rows, columns): where each pixel of frame t lies in frame t + 1, minus where it lies in t, in pixels.
        certain: (rows, columns): the pixels to look at.

    Returns:
        The mean over the channels and the pixels of `certain`, in the square of the frames' unit.
    """
    from scipy import ndimage

    at = np.mgrid[: flow.shape[1], : flow.shape[2]] + flow
    warped = np.stack([ndimage.map_coordinates(channel, at, order=1, mode="nearest") for channel in now])
    return float(np.square(warped - before)[:, certain].mean())


def motion(before: Image, now: Image) -> tuple[Image, npt.NDArray[np.bool_]] | None:
    """The optical flow from one frame to the next, and where it can be trusted; None for volumes.

    The flow is the iterative Lucas-Kanade of scikit-image (Le Besnerais 2005) on the mean of the channels; Lai 2018
    used FlowNet 2, so the errors are not to be compared with published ones.

    Args:
        before: frame t, shape (channel, rows, columns).
        now: frame t + 1.

    Returns:
        (flow (2, rows, columns) in pixels, trusted (rows, columns)), as :func:`warped_difference` takes them.
    """
    if before.ndim != 3 or min(before.shape[1:]) < 2 * FLOW_RADIUS + 1:
        return None
    from skimage.registration import optical_flow_ilk

    a, b = before.mean(0), now.mean(0)
    scale = float(max(np.ptp(a), np.ptp(b))) or 1.0
    a, b = a / scale, b / scale
    flow: Any = partial(optical_flow_ilk, radius=FLOW_RADIUS, num_warp=FLOW_WARPS, dtype=np.float64)
    there: Image = np.nan_to_num(flow(a, b))  # NaN where nothing shows a motion
    back: Image = np.nan_to_num(flow(b, a))
    return there, trusted(there, back)


def trusted(there: Image, back: Image) -> npt.NDArray[np.bool_]:
    """Where a flow can be believed, by the thresholds of Sundaram 2010, which Ruder 2016 and Lai 2018 took over.

    Args:
        there: flow from one frame to the next, (2, rows, columns) in pixels.
        back: flow from the next to the one.

    Returns:
        (rows, columns): false where the way there and back does not lead home (the place is hidden in the next frame),
        at the boundary of a motion, and where it leads out of the picture.
    """
    from scipy import ndimage

    at = np.mgrid[: there.shape[1], : there.shape[2]] + there
    way_back = np.stack([ndimage.map_coordinates(part, at, order=1, mode="nearest") for part in back])

    def square(vectors: Image) -> Image:
        total: Image = np.square(vectors).sum(0)
        return total

    homeward = square(there + way_back) <= 0.01 * (square(there) + square(way_back)) + 0.5
    slopes = square(np.concatenate([np.stack(np.gradient(part)) for part in there]))
    smooth = slopes <= 0.01 * square(there) + 0.002
    limits = np.array(there.shape[1:])[:, None, None] - 1
    inside = ((at >= 0) & (at <= limits)).all(0)
    believed: npt.NDArray[np.bool_] = homeward & smooth & inside
    return believed


def score_flicker(
    predictions: str | Path,
    inputs: str | Path,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Score a translated clip against the clip it was made from.

    Args:
        predictions: a video, a 4D scan (NIfTI, MetaImage or NRRD), or a folder or pattern of frames in natural order.
        inputs: what was translated, likewise, with as many frames.
        out: folder for metrics.csv and metrics.json.
        progress: called with (frames done, frames in all or 0 if a video does not tell, name) after each frame.

    Raises:
        ScanError: unreadable frames, clips of different lengths or of one frame, a folder that cannot be written.
    """
    translated, source = Path(predictions), Path(inputs)
    expected, outputs = _clip(translated)
    _, sources = _clip(source)
    count = 0

    def pairs() -> Iterator[tuple[Frame, Frame]]:
        nonlocal count
        for a, b in zip_longest(outputs, sources):
            if a is None or b is None:
                longer, shorter = (translated, source) if b is None else (source, translated)
                raise ScanError(
                    f"{longer}: more frames than {shorter}, which ends after {count}. Give clips of the same frames."
                )
            count += 1
            yield a, b
            if progress is not None:
                progress(count, expected, f"frame {count}")

    try:
        figures = flicker(pairs())
    except ScanError as error:
        if str(error).startswith((str(translated), str(source))):  # of reading, which names the file
            raise
        raise ScanError(f"{translated}: {error}") from error
    mean, std = summary([figures])
    notes = [f"{count} frames."]
    if math.isnan(figures["warping_error"]):
        notes.append("No warping error: it needs pictures of the input's size whose motion can be told.")
    result = Result(
        metrics="flicker",
        cases={translated.name or str(predictions): figures},
        mean=mean,
        std=std,
        unit="",
        settings={
            "predictions": str(predictions),
            "inputs": str(inputs),
            "frames": str(count),
            "definition": METRICS["flicker"],
        },
        notes=notes,
    )
    return result if out is None else write_result(result, Path(out))


def _clip(path: Path) -> tuple[int, Iterator[Frame]]:
    """About how many frames a clip has (0: it does not tell), and they, one at a time, each (channel, *space)."""
    from medcycle.io import find_scans, open_recording, read_volume
    from medcycle.io.video import is_video, read_frames, video_info

    if is_video(path):
        return video_info(path).frames, (shown.picture for shown in read_frames(path))
    scans = find_scans(path)
    recording = open_recording(scans[0]) if len(scans) == 1 else None
    if recording is None:
        return len(scans), (_plane(read_volume(scan)) for scan in scans)
    return recording.count, map(_plane, recording.frames())


def _plane(volume: Volume) -> Frame:
    """The array, without the third axis of a cine of one plane: that is a clip of pictures."""
    return volume.array[..., 0] if volume.space[2:] == (1,) else volume.array
