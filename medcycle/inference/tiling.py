"""Whether a model's windows show: the scan through the network at once against the windows that translation uses."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from medcycle.data.unpaired import AXES
from medcycle.device import MARGIN, SHARE, LiveBytes, autocast, free_memory
from medcycle.errors import ModelError
from medcycle.inference.sliding import (
    Slices,
    at_once,
    busy_windows,
    scan_statistics,
    translate_at_once,
    translate_patches,
)
from medcycle.inference.statistics import norm_kinds
from medcycle.inference.translator import Translator
from medcycle.io.files import write_file
from medcycle.prepare import Preparation, Prepared
from medcycle.volume import Volume

LIMIT_HU = 10.0
"""Mean absolute difference inside the body above which tiling is warned of, where the target's unit is HU."""
LIMIT_SHARE = 0.01
"""The same for other units, as a share of the target's range (that which the network's -1 and 1 stand for)."""

_HALVED = 32  # such a network is taken to halve five times at most
_SMALLER = 0.9  # of each axis, when memory cannot hold a part of the scan

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Difference:
    """How far the tiled output is from that of the scan at once, inside the body, in the target's unit.

    Attributes:
        statistics: of what the norms took mean and variance, in both outputs: "tile" (the scan at once is its own
            tile), or "scan" (those that were gathered over the windows).
        mean: of the absolute differences.
        p95: their 95th percentile.
        max: the largest.
    """

    statistics: str
    mean: float
    p95: float
    max: float


@dataclass(frozen=True)
class TilingCheck:
    """What :func:`check_tiling` found.

    Attributes:
        model: "mr to ct", say.
        norms: the kinds of norm that take their statistics from a tile: "group", "instance".
        tile: voxels of a tile (of a plane, for 2D models, as trained).
        overlap: share of a tile that its neighbour covers too.
        tiles: how many tiles the compared part takes, those of air left out; 0 where nothing is tiled.
        scan: voxels of the prepared scan (of a plane, for 2D models).
        part: voxels that were compared: `scan`, or the largest part round the body's middle that fits the memory.
        unit: of the figures.
        limit: the mean above which tiling is warned of.
        differences: one for each way the norms can take their statistics; nothing where nothing is tiled.
    """

    model: str
    norms: tuple[str, ...]
    tile: tuple[int, ...]
    overlap: float
    tiles: int
    scan: tuple[int, ...]
    part: tuple[int, ...]
    unit: str
    limit: float
    differences: tuple[Difference, ...]

    def advice(self) -> str:
        """The warning where `translate`, left to itself, would be above the limit, with what to do; else empty."""
        if not self.differences:
            return ""
        found = {difference.statistics: difference.mean for difference in self.differences}
        mean = found.get("scan", found["tile"])
        if mean <= self.limit:
            return ""
        better = f"--statistics tile ({found['tile']:.3g} {self.unit}), " if found["tile"] < mean else ""
        return (
            f"tiles of {_by(self.tile)} voxels differ from the scan at once by {mean:.3g} {self.unit} on average "
            f"(limit {self.limit:.3g}): the same tissue depends on where a tile lies. Take {better}more overlap "
            "(--overlap 0.75), or train on larger patches (sample.size)."
        )

    def lines(self) -> list[str]:
        """The findings for a reader."""
        if not self.tiles:
            return [f"{self.model}: {self._why_not()}"]
        what = f"the whole scan ({_by(self.scan)})"
        if self.part != self.scan:
            what = f"the middle of the scan ({_by(self.part)} of {_by(self.scan)}, as much as fits)"
        kinds = f"{' and '.join(self.norms)} norm" if self.norms else "no norm that depends on the tile"
        lines = [
            f"{self.model}, {kinds}: {self.tiles} tiles of {_by(self.tile)} voxels, overlap {self.overlap:g}, against "
            f"{what} at once; absolute difference in the body, {self.unit}:"
        ]
        for found in self.differences:
            figures = f"mean {found.mean:.3g}, 95 % below {found.p95:.3g}, max {found.max:.3g}"
            lines.append(f"  statistics of the {found.statistics}: {figures}")
        return lines

    def _why_not(self) -> str:
        if len(self.tile) == 3:
            return f"the scan ({_by(self.scan)} voxels) fits one tile ({_by(self.tile)}): nothing is tiled"
        larger = any(n > size for n, size in zip(self.scan, self.tile, strict=True))
        said = f"a 2D model; planes of {_by(self.scan)} pass through the network whole: nothing is tiled"
        return f"{said}. It was trained on pieces of {_by(self.tile)}, smaller than that" if larger else said

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"warning": self.advice()}

    def save(self, path: Path) -> None:
        """Write them as JSON.

        Raises:
            ScanError: if the file cannot be written.
        """
        write_file(path, json.dumps(self.to_dict(), indent=2))


def check_tiling(translator: Translator, volume: Volume, progress: Report | None = None) -> TilingCheck:
    """Compare a 3D model's tiled output with its output for the whole scan, or the largest part that memory holds.

    The scan at once is no truth: a network trained on patches has never seen one. But where both agree, the output does
    not depend on where the tiles lie.

    Args:
        translator: with the overlap to check.
        volume: a scan of its source domain.
        progress: called with (steps done, all of them, what is computed).

    Raises:
        ScanError: if the scan cannot be prepared.
        ModelError: if it does not fit the model, or memory holds no more than one tile.
    """
    model = translator.model
    translator.warn_of(volume)
    (volume,), (prepared,) = translator.prepared([volume])
    space: tuple[int, ...] = prepared.array.shape[1:]
    tile, unit, limit = tuple(model.sample["size"]), model.target.preparation.unit(), _limit(model.target.preparation)
    if model.ndim == 2:
        across = AXES.get(model.sample["axes"], 2) if len(volume.space) == 3 else 2
        space = tuple(n for axis, n in enumerate(space) if axis != across)
    check = TilingCheck(
        model=f"{model.source.name} to {model.target.name}",
        norms=norm_kinds(model.network),
        tile=tile,
        overlap=translator.overlap,
        tiles=0,
        scan=space,
        part=space,
        unit=unit,
        limit=limit,
        differences=(),
    )
    if model.ndim == 2 or all(n <= size for n, size in zip(space, tile, strict=True)):
        return check
    part = _largest_part(translator, prepared)
    array, body = np.ascontiguousarray(prepared.array[:, *part]), prepared.foreground[part]
    where: Any = {"device": translator.device, "precision": translator.precision}
    how: Any = where | {"overlap": translator.overlap}
    every = len(_ways(check.norms)) * 2
    ticks = itertools.count(1)

    def in_unit(output: npt.NDArray[np.float32], what: str) -> npt.NDArray[np.float32]:
        if progress is not None:
            progress(next(ticks), every, what)
        return model.target.preparation.in_units(output)[:, body]

    found = []
    for way in _ways(check.norms):
        norms: AbstractContextManager[None] = nullcontext()
        if way == "scan":
            norms = scan_statistics(model.network, array, tile, **where).held()
        with norms:
            tiled = translate_patches(model.network, array, tile, batch_size=translator.batch_size, **how)
            whole = translate_at_once(model.network, array, tile, **how)
        difference = np.abs(in_unit(tiled, "tiles") - in_unit(whole, "the scan at once"))
        figures = (difference.mean(), np.percentile(difference, 95), difference.max())
        found.append(Difference(way, *map(float, figures)))
    return replace(
        check,
        tiles=busy_windows(model.network, array, tile, translator.overlap),
        part=array.shape[1:],
        differences=tuple(found),
    )


def _ways(norms: Sequence[str]) -> tuple[str, ...]:
    """How the norms can take their statistics: for a network without such norms there is nothing to choose."""
    return ("tile", "scan") if norms else ("tile",)


def _limit(target: Preparation) -> float:
    if target.unit() == "HU":
        return LIMIT_HU
    low, high = target.restored_range()
    return LIMIT_SHARE * (high - low)


def _largest_part(translator: Translator, prepared: Prepared) -> Slices:
    """The scan, or the largest part of it round the body's middle, of like shape, that the network's memory holds."""
    network, tile, space = translator.model.network, translator.model.sample["size"], prepared.array.shape[1:]
    free, channels = free_memory(translator.device), len(prepared.array)
    # A network that cannot be asked, and does not tell, may take only sizes that it can halve as often as the tile's.
    asked = hasattr(network, "multiple") or _bytes(translator, (channels, *space)) is not None
    steps = [1 if asked else math.gcd(size, _HALVED) for size in tile]
    if all(n - n % step <= patch for n, patch, step in zip(space, tile, steps, strict=True)):
        steps = [1] * len(steps)  # else nothing would be left to compare
    share = 1.0
    while True:
        size = [
            min(n, patch) if n <= patch else max(patch, int(n * share) // step * step)
            for n, patch, step in zip(space, tile, steps, strict=True)
        ]
        needed = _bytes(translator, (channels, *at_once(network, size, tile)))
        if needed is None or needed <= SHARE * free:
            break
        if all(n <= patch for n, patch in zip(size, tile, strict=True)):
            raise ModelError(
                f"{translator.device} has not enough memory for more than one tile of {_by(tile)} voxels at once, so "
                "there is nothing to compare tiles with. Use --device cpu, or a scan of coarser spacing."
            )
        share *= _SMALLER
    middle = [int(where.mean()) for where in np.nonzero(prepared.foreground)]
    starts = [min(max(m - n // 2, 0), whole - n) for m, n, whole in zip(middle, size, space, strict=True)]
    return tuple(slice(start, start + n) for start, n in zip(starts, size, strict=True))


def _bytes(translator: Translator, shape: Sequence[int]) -> int | None:
    """Bytes that the network takes for one image of a shape; None if it cannot be run on tensors without content."""
    counter, device = LiveBytes(), translator.device
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            image = torch.empty((1, *shape), device=device)
            with counter, autocast(device, translator.precision):
                translator.model.network(image)
    except Exception:  # whatever a network does that needs the numbers themselves
        return None
    return int(MARGIN * counter.peak)


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
