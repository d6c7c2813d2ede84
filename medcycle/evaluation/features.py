"""Networks that turn pictures into features, whose distances :mod:`medcycle.evaluation.frechet` measures.

Distances are called FID and KID, and the score IS, only with the Inception network that their papers use. Any other
network has a name, which stands beside every figure made with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.evaluation.inception import Inception, inception

if TYPE_CHECKING:
    import torch

__all__ = [
    "Extractor",
    "Features",
    "Inception",
    "StandIn",
    "features_of",
    "features_of_folder",
    "inception",
    "read_rgb",
]

Progress = Callable[[int, int, str], None]
Picture = npt.NDArray[np.uint8]  # (3, rows, columns), RGB, upright

STAND_IN = "medcycle-standin-v1"
BATCH = 16


class Extractor(Protocol):
    """A network for :func:`features_of`.

    Attributes:
        name: what stands beside its figures.
        is_inception: whether its distances are FID and KID and its score IS.
        size: rows and columns that it sees; pictures are resized to that by `resized`.
    """

    name: str
    is_inception: bool
    size: int

    def resized(self, picture: Picture) -> torch.Tensor:
        """One picture as float32 of shape (3, size, size), values 0 to 255."""
        ...

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features (N, D) of pictures (N, 3, size, size)."""
        ...

    def probabilities(self, pictures: torch.Tensor) -> torch.Tensor | None:
        """Class probabilities (N, classes) of the same, or None where the network knows no classes."""
        ...


class StandIn:
    """A small fixed network with random weights, for a machine without the Inception file: medcycle-standin-v1.

    On 128 x 128 pixels and three times half of that: 32 random filters of 5 x 5 that ignore the mean colour, rectified,
    divided by their mean over the picture, and filtered once more. Kept are, a scale, the contrast (1), the share of
    each filter in it (32), how unevenly its answers are spread (32) and what the second filters find (32); and of the
    colours mean, spread and the means on a 4 x 4 grid (54): 442 features. They tell noise, blur, colours and textures
    apart, and know no objects. The distances can be compared with each other and with nothing published; there are no
    classes, so no Inception score. The weights come from NumPy's RandomState, whose stream is frozen.
    """

    name = STAND_IN
    is_inception = False
    size = 128
    _scales = 4
    _filters = 32
    _grid = 4
    _faint = 0.01  # of the colours' half range: contrast below this counts as none, so a constant picture is harmless

    def __init__(self, device: str = "cpu") -> None:
        import torch

        draw = np.random.RandomState(20170330)  # the day the CycleGAN paper appeared
        self._device = device
        first = draw.standard_normal((self._filters, 3, 5, 5))
        first -= first.mean((2, 3), keepdims=True)
        second = draw.standard_normal((self._filters, self._filters, 3, 3))
        second -= second.mean((1, 2, 3), keepdims=True)
        self._first, self._second = (
            torch.from_numpy(w / np.sqrt(np.square(w).sum((1, 2, 3), keepdims=True))).float().to(device)
            for w in (first, second)
        )

    def resized(self, picture: Picture) -> torch.Tensor:
        """Bilinear, smoothed where it shrinks."""
        import torch
        from torch.nn import functional

        values = torch.from_numpy(picture).float()[None]
        size = (self.size, self.size)
        return functional.interpolate(values, size, mode="bilinear", align_corners=False, antialias=True)[0]

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """Shape (N, 442), float32, on the CPU."""
        import torch
        from torch.nn import functional

        with torch.inference_mode():
            x = pictures.to(self._device) / 127.5 - 1
            layout = functional.adaptive_avg_pool2d(x, self._grid).flatten(1)
            found = [layout, x.mean((2, 3)), x.std((2, 3), correction=0)]
            for _ in range(self._scales):
                edges = functional.conv2d(functional.pad(x, (2, 2, 2, 2), mode="reflect"), self._first).abs()
                strength = edges.mean((2, 3)) + self._faint
                contrast = strength.log().mean(1, keepdim=True)
                evened = functional.pad(edges / strength[..., None, None], (1, 1, 1, 1), mode="reflect")
                texture = functional.conv2d(evened, self._second).abs().mean((2, 3))
                spread = edges.std((2, 3), correction=0) / strength
                found += [contrast, strength.log() - contrast, spread, texture]
                x = functional.avg_pool2d(x, 2)
            return torch.cat(found, 1).cpu()

    def probabilities(self, pictures: torch.Tensor) -> None:
        """None: it knows no classes."""


@dataclass(frozen=True)
class Features:
    """What a network says of a set of pictures: features (N, D), probabilities (N, classes) if any, and their names."""

    features: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64] | None
    names: list[str]


def features_of_folder(
    path: str | Path, extractor: Extractor, batch: int = BATCH, progress: Progress | None = None
) -> Features:
    """Features of every picture in a folder (or pattern, or CSV), in natural order of their names.

    Raises:
        ScanError: no pictures there, or one that is not 8-bit grey or RGB.
    """
    from medcycle.io import find_scans, scan_name

    paths = find_scans(path)

    def pictures() -> Iterator[Picture]:
        for done, file in enumerate(paths, 1):
            yield read_rgb(file)
            if progress is not None:
                progress(done, len(paths), scan_name(file))

    features, probabilities = features_of(pictures(), extractor, batch)
    return Features(features, probabilities, [scan_name(file) for file in paths])


def features_of(
    pictures: Iterable[Picture], extractor: Extractor, batch: int = BATCH
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
    """Features (N, D) and, where the network knows classes, probabilities (N, classes) of 8-bit RGB pictures.

    Args:
        pictures: each (3, rows, columns), of any size; `batch` of them are held at a time.
        extractor: the network.
        batch: how many go through it at once.

    Raises:
        ScanError: no picture at all.
    """
    import torch

    features, probabilities = [], []
    waiting: list[torch.Tensor] = []

    def flush() -> None:
        stacked = torch.stack(waiting)
        waiting.clear()
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # the same figures on a GPU, in full float32
            features.append(extractor.features(stacked).double().numpy())
            classes = extractor.probabilities(stacked)
        if classes is not None:
            probabilities.append(classes.double().numpy())

    for picture in pictures:
        waiting.append(extractor.resized(picture))
        if len(waiting) == batch:
            flush()
    if waiting:
        flush()
    if not features:
        raise ScanError("no pictures to take features of")
    return np.concatenate(features), np.concatenate(probabilities) if probabilities else None


def read_rgb(path: Path) -> Picture:
    """An 8-bit picture as uint8 (3, rows, columns); grey is repeated.

    Raises:
        ScanError: another kind of file, 16 bits, or transparent pixels.
    """
    from medcycle.io import read_volume

    volume = read_volume(path)
    if volume.unit != "uint8" or len(volume.space) != 2 or volume.channels not in (1, 3):
        raise ScanError(
            f"{path}: {volume.channels} channel(s) of {' x '.join(map(str, volume.space))} in {volume.unit}; features "
            "are taken of 8-bit grey or RGB pictures. Save it as an 8-bit PNG first."
        )
    upright = volume.array.transpose(0, 2, 1).astype(np.uint8)  # a Volume's first axis runs along a row
    return np.ascontiguousarray(np.broadcast_to(upright, (3, *upright.shape[1:])))
