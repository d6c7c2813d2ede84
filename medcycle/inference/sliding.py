"""A network over a whole scan: plane by plane, or patch by patch with Gaussian blending. Air never reaches it.

A plane or patch of air alone is nearly constant, and instance norm would blow its noise up to full contrast; so it is
not sent to the network: its output is air (-1), as is all padding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medcycle.data.augment import AIR
from medcycle.data.unpaired import neighbours
from medcycle.device import autocast, is_out_of_memory, resolve_device, resolve_precision
from medcycle.errors import ConfigError, ModelError
from medcycle.inference.statistics import AIR_TOLERANCE, ScanStatistics

Array = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
Slices = tuple[slice, ...]
Key = TypeVar("Key")
Sent: TypeAlias = "tuple[torch.Tensor, torch.cuda.Event | None]"
"""An output on the CPU, and when it will have come from the GPU."""

_SIGMA = 0.125  # of the patch's length: the Gaussian of MONAI and nnU-Net


def translate_planes(
    network: nn.Module,
    array: Array,
    axis: int,
    *,
    size: Sequence[int] | None = None,
    context: int = 0,
    scans: int = 1,
    batch_size: int = 8,
    device: str | torch.device = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Array:
    """Translate a prepared scan in whole planes.

    With `context` k the network takes and gives stacks of 2 k + 1 neighbouring planes as channels. So a plane comes out
    of up to 2 k + 1 stacks, and what they make of it is averaged with weights k + 1 in the middle of a stack, falling
    by 1 a plane to 1 at its ends, where the network sees the neighbours on one side only. Beside the result, memory is
    2 k + 1 planes.

    Args:
        network: 2D generator, (batch, (2 * context + 1) * C, h, w) to (batch, (2 * context + 1) * C', h, w).
        array: shape (C, i, j, k), float32 in [-1, 1].
        axis: the space axis that the planes are stacked along: 0 sagittal, 1 coronal, 2 axial (in RAS+).
        size: (h, w): smaller planes are centred in air of this size, as they were in training.
        context: neighbours on either side (:class:`medcycle.data.UnpairedSampler`).
        scans: how many, of equal length, are joined along `axis`; planes of one are no neighbours of another's.
        batch_size: planes at once; halved by itself when the device runs out of memory.
        device: see :func:`medcycle.device.resolve_device`.
        precision: see :func:`medcycle.device.resolve_precision`.
        progress: called with (planes done, planes in all); planes of air count as done at the start.

    Returns:
        Shape (C', i, j, k), float32 in [-1, 1]; planes of air are -1.

    Raises:
        ModelError: if the network's output does not fit or is not finite, or one plane exceeds the device's memory.
    """
    planes = np.moveaxis(array, 1 + axis, 0)  # (n, C, h, w), a view
    busy = [index for index, plane in enumerate(planes) if not _is_air(plane)]
    shape = planes.shape[2:]
    padding, inner = _centred(shape, size or shape)
    deep = 2 * context + 1
    channels, odd = divmod(_out_channels(network, deep * len(array)), deep)
    if odd:
        raise ModelError(f"the network gives {channels * deep + odd} channels, which are not those of {deep} planes")
    result = np.full((channels, *array.shape[1:]), AIR, dtype=np.float32)
    out_planes = np.moveaxis(result, 1 + axis, 0)  # a view: what is stored here lands in `result`
    total, length = len(planes), len(planes) // scans
    overlap, wanted = _Overlap(), set(busy)

    def ends(index: int) -> tuple[int, int]:
        first = index - index % length
        return first, first + length - 1

    def load(index: int) -> Array:
        if not context:
            return _pad(planes[index], padding)
        stack = planes[neighbours(index, context, *ends(index))]
        return _pad(stack.reshape(-1, *shape), padding)

    def store(index: int, output: Array) -> None:
        if not context:
            out_planes[index] = output[:, *inner]
            return
        first, last = ends(index)
        for offset, plane in enumerate(output[:, *inner].reshape(deep, channels, *shape), -context):
            if first <= index + offset <= last:
                overlap.add(index + offset, plane, context + 1 - abs(offset))
        finish(index - context)  # later stacks do not hold it

    def finish(upto: int) -> None:
        for index, plane in overlap.taken(upto):
            if index in wanted:
                out_planes[index] = plane

    _run(network, busy, load, store, batch_size, device, precision, _offset(progress, total - len(busy), total))
    finish(total)
    return result


class _Overlap:
    """Weighted means of the planes that several stacks hold, in float64: equal answers average exactly."""

    def __init__(self) -> None:
        self._sums: dict[int, tuple[npt.NDArray[np.float64], int]] = {}

    def add(self, index: int, plane: Array, weight: int) -> None:
        sums, weights = self._sums.get(index, (0.0, 0))
        self._sums[index] = sums + weight * plane.astype(np.float64), weights + weight

    def taken(self, upto: int) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
        """The planes up to that one, which are then forgotten."""
        for index in [index for index in self._sums if index <= upto]:
            sums, weights = self._sums.pop(index)
            yield index, sums / weights


def translate_patches(
    network: nn.Module,
    array: Array,
    size: Sequence[int],
    *,
    overlap: float = 0.5,
    batch_size: int = 1,
    device: str | torch.device = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Array:
    """Translate a prepared scan in overlapping 3D patches, blended by a Gaussian round each patch's centre.

    Patches begin at multiples of what the network halves to (its attribute `multiple`), as far as the overlap allows:
    a voxel then has the same place among the coarse ones in each of them.

    Beside the scan, memory is one buffer of the output's size.

    Args:
        network: 3D generator, (batch, C, *size) to (batch, C', *size).
        array: shape (C, i, j, k), float32 in [-1, 1]; padded with air where it is smaller than a patch.
        size: a patch, in voxels along i, j and k.
        overlap: share of a patch that its neighbour covers too, in [0, 1).
        batch_size: patches at once; halved by itself when the device runs out of memory.
        device: see :func:`medcycle.device.resolve_device`.
        precision: see :func:`medcycle.device.resolve_precision`.
        progress: called with (patches done, patches in all); patches of air count as done at the start.

    Returns:
        Shape (C', i, j, k), float32 in [-1, 1].

    Raises:
        ConfigError: if the overlap is out of range.
        ModelError: if the network's output does not fit or is not finite, or one patch exceeds the device's memory.
    """
    if not 0 <= overlap < 1:
        raise ConfigError(f"overlap {overlap}: allowed is a share from 0 up to, not including, 1 (0.5 is usual)")
    padded, inner, corners, windows = _tiled(network, array, size, overlap)
    busy: list[Slices] = []
    total = np.zeros((_out_channels(network, len(array)), *padded.shape[1:]), dtype=np.float32)
    factors = [_gaussian(length) for length in size]
    weight = np.einsum("i,j,k->ijk", *factors)
    for window in windows:
        if _is_air(padded[:, *window]):
            total[:, *window] += AIR * weight
        else:
            busy.append(window)

    def load(window: Slices) -> Array:
        return padded[:, *window]

    def store(window: Slices, output: Array) -> None:
        total[:, *window] += output * weight

    skipped = len(windows) - len(busy)
    _run(network, busy, load, store, batch_size, device, precision, _offset(progress, skipped, len(windows)))
    for axis, (starts, factor) in enumerate(zip(corners, factors, strict=True)):
        total /= _weights(padded.shape[1 + axis], starts, factor).reshape(-1, *[1] * (2 - axis))
    return np.ascontiguousarray(total[:, *inner])


def translate_at_once(
    network: nn.Module,
    array: Array,
    size: Sequence[int],
    *,
    overlap: float = 0.5,
    device: str | torch.device = "auto",
    precision: str = "auto",
) -> Array:
    """Translate a prepared scan as one patch, which :func:`translate_patches` of this size and overlap stands for.

    Arguments, result and errors as there. The voxels have the same places among the network's coarse ones.
    """
    padded, inner, _, _ = _tiled(network, array, size, overlap)
    whole = at_once(network, padded.shape[1:], size)
    more = [(0, n - length) for n, length in zip(whole, padded.shape[1:], strict=True)]
    result = translate_patches(network, _pad(padded, more), whole, overlap=0, device=device, precision=precision)
    return np.ascontiguousarray(result[:, *inner])


def at_once(network: nn.Module, space: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """The size of one patch that holds a scan, and that a network trained on patches of `size` halves as often."""
    multiple = int(getattr(network, "multiple", 1))
    steps = [math.gcd(patch, multiple) for patch in size]
    return tuple(max(patch, -(-n // step) * step) for n, patch, step in zip(space, size, steps, strict=True))


def scan_statistics(
    network: nn.Module,
    array: Array,
    size: Sequence[int],
    *,
    batch_size: int = 1,
    device: str | torch.device = "auto",
    precision: str = "auto",
) -> ScanStatistics:
    """What a 3D network's norms take from a scan's patches, side by side: to be held while the scan is translated.

    An eighth of the work that translating with an overlap of a half is; more where few patches cover the scan.

    Args:
        network: 3D generator, as for :func:`translate_patches`.
        array: shape (C, i, j, k), float32 in [-1, 1].
        size: a patch, in voxels along i, j and k.
        batch_size: patches at once.
        device: see :func:`medcycle.device.resolve_device`.
        precision: see :func:`medcycle.device.resolve_precision`.

    Raises:
        ModelError: as :func:`translate_patches`.
    """
    padded, _, _, windows = _tiled(network, array, size, 0.0)
    windows = [window for window in windows if not _is_air(padded[:, *window])]
    statistics = ScanStatistics(network)

    def load(window: Slices) -> Array:
        return padded[:, *window]

    with statistics.gathering():
        _run(network, windows, load, lambda *_: None, batch_size, device, precision, lambda *_: None)
    return statistics


def busy_windows(network: nn.Module, array: Array, size: Sequence[int], overlap: float) -> int:
    """How many patches of a scan :func:`translate_patches` sends through the network: those that are not air."""
    padded, _, _, windows = _tiled(network, array, size, overlap)
    return sum(not _is_air(padded[:, *window]) for window in windows)


def _gaussian(length: int) -> Array:
    """Blending weight along one axis of a patch; a patch's weight is the product over its axes.

    It is never below 3e-4 an axis, so a voxel that only corners of patches reach is still well defined in float32.
    """
    x = np.arange(length) - (length - 1) / 2
    weight: Array = np.exp(-0.5 * (x / (_SIGMA * length)) ** 2).astype(np.float32)
    return weight


def _weights(length: int, starts: Sequence[int], factor: Array) -> Array:
    """Sum of all patches' weights along one axis. Patches lie on a lattice, so the sum in space is the product."""
    weights = np.zeros(length, dtype=np.float32)
    for start in starts:
        weights[start : start + len(factor)] += factor
    return weights


def _tiled(
    network: nn.Module, array: Array, size: Sequence[int], overlap: float
) -> tuple[Array, Slices, list[list[int]], list[Slices]]:
    """The array padded for patches, where it then lies, where they begin along each axis, and all of them."""
    space = array.shape[1:]
    steps = [_step(network, patch, overlap) for patch in size]
    lengths = [max(patch, -(-n // step[0]) * step[0]) for n, patch, step in zip(space, size, steps, strict=True)]
    padding, inner = _centred(space, lengths)
    corners = [_starts(n, patch, step[1]) for n, patch, step in zip(lengths, size, steps, strict=True)]
    windows = [
        tuple(slice(start, start + patch) for start, patch in zip(corner, size, strict=True))
        for corner in itertools.product(*corners)
    ]
    return _pad(array, padding), inner, corners, windows


def _step(network: nn.Module, patch: int, overlap: float) -> tuple[int, int]:
    """What the places of patches along an axis are multiples of, and how far one is from the next.

    The first is at most an eighth of a patch: a U-Net that halves down to one voxel would leave no overlap.
    """
    step, multiple = max(1, int(patch * (1 - overlap))), int(getattr(network, "multiple", 1))
    while multiple > 1 and (patch % multiple or multiple > min(step, patch // 8)):
        multiple //= 2
    return multiple, step // multiple * multiple


def _starts(length: int, patch: int, step: int) -> list[int]:
    """Where patches begin along one axis; the last is moved back to end at the edge."""
    return [*range(0, length - patch, step), length - patch]


def _centred(shape: Sequence[int], size: Sequence[int]) -> tuple[list[tuple[int, int]], Slices]:
    """Padding (before, after) of each axis up to `size`, and where the original then lies."""
    missing = [max(0, wanted - length) for length, wanted in zip(shape, size, strict=True)]
    inner = tuple(slice(m // 2, m // 2 + length) for m, length in zip(missing, shape, strict=True))
    return [(m // 2, m - m // 2) for m in missing], inner


def _pad(array: Array, padding: Sequence[tuple[int, int]]) -> Array:
    """The array with air added round its space axes (not copied where none is needed)."""
    if not any(itertools.chain(*padding)):
        return array
    return np.pad(array, [(0, 0), *padding], constant_values=AIR)


def _is_air(array: Array) -> bool:
    return bool(array.max() <= AIR + AIR_TOLERANCE)


def _out_channels(network: nn.Module, taken: int) -> int:
    """Channels the network gives; one that does not tell gives as many as it takes."""
    return int(getattr(network, "out_channels", taken))


def _offset(progress: Progress | None, start: int, total: int) -> Progress:
    """A callback that counts on from `start`, and reports that start at once."""
    report = progress or (lambda done, total: None)
    report(start, total)
    return lambda done, _: report(start + done, total)


def _run(
    network: nn.Module,
    keys: Sequence[Key],
    load: Callable[[Key], Array],
    store: Callable[[Key, Array], None],
    batch_size: int,
    device: str | torch.device,
    precision: str,
    progress: Progress,
) -> None:
    """Load, translate and store in batches; a batch that the device's memory cannot hold is halved and tried again."""
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: expected at least 1")
    device = resolve_device(device)
    precision = resolve_precision(precision, device)
    training = network.training
    network.to(device).eval()
    sent = done = 0
    waiting: tuple[Sequence[Key], Sent] | None = None  # what a GPU still computes while the next is loaded

    def finish(batch: Sequence[Key], outputs: Sent) -> None:
        nonlocal done
        for key, output in zip(batch, _received(outputs, precision), strict=True):
            store(key, output)
        done += len(batch)
        progress(done, len(keys))

    try:
        while sent < len(keys):
            batch = keys[sent : sent + batch_size]
            inputs = np.stack([load(key) for key in batch])
            outputs = _forward(network, inputs, device, precision)
            if waiting is not None:
                finish(*waiting)
                waiting = None
            if outputs is None:
                if len(batch) == 1:
                    raise ModelError(
                        f"{device} has not enough memory for one image of shape {inputs.shape[1:]}. Use --device cpu, "
                        "a smaller network, or a coarser spacing."
                    )
                batch_size = max(1, len(batch) // 2)
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            waiting = batch, outputs
            sent += len(batch)
        if waiting is not None:
            finish(*waiting)
    finally:
        network.train(training)


def _forward(network: nn.Module, inputs: Array, device: torch.device, precision: str) -> Sent | None:
    """One batch sent through the network, not waited for; None if the device's memory ran out."""
    try:
        images = torch.from_numpy(inputs)
        images = images.pin_memory() if device.type == "cuda" else images
        with torch.inference_mode(), autocast(device, precision):
            outputs = network(images.to(device, non_blocking=True))
    except RuntimeError as error:
        if is_out_of_memory(error):
            return None
        raise ModelError(f"the network failed on a batch of shape {inputs.shape}: {error}") from error
    channels = _out_channels(network, inputs.shape[1])
    expected = (len(inputs), channels, *inputs.shape[2:])
    if not isinstance(outputs, torch.Tensor) or tuple(outputs.shape) != expected:
        found = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise ModelError(
            f"the network made {found} of a batch of shape {inputs.shape}; expected {expected}. A network with "
            "another number of output channels must have the attribute out_channels."
        )
    if device.type != "cuda":
        return outputs.float(), None
    host = torch.empty(outputs.shape, dtype=torch.float32, pin_memory=True)
    host.copy_(outputs.float(), non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived


def _received(sent: Sent, precision: str) -> Array:
    """The network's output on the CPU, float32 in [-1, 1], when it has come."""
    outputs, arrived = sent
    if arrived is not None:
        arrived.synchronize()
    result: Array = outputs.numpy()
    if not np.isfinite(result).all():
        raise ModelError(f"the network's output is not finite (precision {precision}); its weights are damaged")
    return np.clip(result, -1, 1)
