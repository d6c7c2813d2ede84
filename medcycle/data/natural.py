"""Pictures as the original CycleGAN takes them: resized once, held decoded, cropped and mirrored at random.

Every picture is decoded and resized once, before the first step, and waits in memory (or on the GPU) as whole numbers;
a sample is then a slice of it, so that loading never limits a step. As in :mod:`medcycle.data.unpaired`, a sample
follows from (seed, step, index) alone.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medcycle.data.unpaired import Array, Transform, pad_sample
from medcycle.errors import MedcycleError, ScanError
from medcycle.io import read_volume, scan_name
from medcycle.io.files import stored

Limits = tuple[float, float]
Progress = Callable[[int, int, str], None]


class PicturesError(ScanError):
    """Pictures of a domain cannot be read."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded picture.

    Attributes:
        path: its file.
        pixels: uint8, uint16 or float32, shape (channel, width, height): along a row first, as in a Volume.
        limits: the values that become -1 and 1.
    """

    path: Path
    pixels: npt.NDArray[Any]
    limits: Limits

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return scan_name(self.path)

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (colour)."""
        return int(self.pixels.shape[0])

    @property
    def scale(self) -> Limits:
        """The same as `limits`: what -1 and 1 stand for in translated pictures."""
        return self.limits

    @property
    def warning(self) -> str | None:
        """Nothing: a picture can be of anything."""
        return None

    @functools.cached_property
    def key(self) -> str:
        """Changes with the content and the size."""
        digest = hashlib.blake2b(f"{self.pixels.dtype} {self.pixels.shape} {self.limits}".encode(), digest_size=16)
        digest.update(self.pixels.tobytes())
        return digest.hexdigest()


def resize_picture(pixels: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """A picture (C, W, H) at another size (width, height), bicubic with anti-aliasing, in its own number type.

    8-bit pictures come out as Pillow's own resizing of them, which the original uses; others are resized as floats
    and rounded.
    """
    from PIL import Image

    bicubic = Image.Resampling.BICUBIC
    if pixels.shape[1:] == size:
        return pixels
    if pixels.dtype == np.uint8:
        planes = [np.asarray(Image.fromarray(plane.T).resize(size, bicubic)).T for plane in pixels]
        return np.ascontiguousarray(np.stack(planes))
    planes = [np.asarray(Image.fromarray(plane.T.astype(np.float32)).resize(size, bicubic)).T for plane in pixels]
    result = np.stack(planes)
    if pixels.dtype == np.uint16:
        result = np.clip(np.rint(result), 0, 65535)
    return np.ascontiguousarray(result.astype(pixels.dtype))


def read_picture(path: str | Path, resize: tuple[int, int] | None = None) -> npt.NDArray[Any]:
    """The pixels of a file, shape (channel, width, height), in the number type that the file has.

    Args:
        path: PNG, JPEG, TIFF or BMP, grey or RGB.
        resize: (width, height) to resize to, bicubic.

    Raises:
        ScanError: it cannot be read.
    """
    pixels = stored(read_volume(path))
    return pixels if resize is None else resize_picture(pixels, resize)


def load_pictures(
    paths: Sequence[Path],
    *,
    resize: tuple[int, int] | None = None,
    limits: Limits | None = None,
    threads: int = 2,
    progress: Progress | None = None,
    refused: list[tuple[Path, str]] | None = None,
) -> list[Picture]:
    """Decode the pictures of a domain; grey ones among colour ones become colour, as in the original.

    Args:
        paths: their files.
        resize: (width, height) of all of them afterwards; None keeps each one's own.
        limits: the values that become -1 and 1; None takes 0..255 of 8-bit and 0..65535 of 16-bit pictures.
        threads: that decode side by side.
        progress: called with (pictures done, pictures in all, name of the last one).
        refused: takes the pictures that cannot be read, each with the reason; None makes one of them an error.

    Raises:
        PicturesError: listing every picture that cannot be read, if any (or, with `refused`, all) cannot.
        ScanError: more pictures than the memory holds.
    """
    failures: list[tuple[Path, str]] = []
    pictures: list[Picture] = []
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for path, outcome in zip(paths, pool.map(functools.partial(_read, resize=resize), paths), strict=True):
            if isinstance(outcome, MedcycleError):
                failures.append((path, str(outcome)))
            elif limits is None and outcome.dtype not in (np.uint8, np.uint16):
                doubt = f"{path}: {outcome.dtype} values: which are black and white? Set prepare.range to two numbers."
                failures.append((path, doubt))
            else:
                own = limits or (0.0, float(np.iinfo(outcome.dtype).max))
                pictures.append(Picture(path, outcome, own))
                if len(pictures) == 1:
                    _check_memory(outcome.nbytes * len(paths), len(paths), outcome.shape[1:])
            if progress is not None:
                progress(len(pictures) + len(failures), len(paths), scan_name(path))
    if failures and (refused is None or not pictures):
        more = f"\n  ... and {len(failures) - 20} more" if len(failures) > 20 else ""
        listing = "\n".join(f"  - {failure}" for _, failure in failures[:20])
        raise PicturesError(f"{len(failures)} of {len(paths)} pictures cannot be used:\n{listing}{more}")
    if refused is not None:
        refused += failures
    colours = max((picture.channels for picture in pictures), default=1)
    return [
        Picture(p.path, np.repeat(p.pixels, colours // p.channels, axis=0), p.limits) if p.channels < colours else p
        for p in pictures
    ]


def _read(path: Path, resize: tuple[int, int] | None) -> npt.NDArray[Any] | MedcycleError:
    try:
        return read_picture(path, resize)
    except MedcycleError as error:
        return error


def _check_memory(needed: int, count: int, size: Sequence[int]) -> None:
    """Refuse what would not fit, before an hour of decoding ends in the out-of-memory killer."""
    import psutil

    free = psutil.virtual_memory().available
    if needed > 0.8 * free:
        raise ScanError(
            f"{count} pictures of about {size[0]} x {size[1]} pixels need {needed / 2**30:.1f} GiB of memory and "
            f"{free / 2**30:.1f} GiB are free. Set sample.resize to two smaller numbers, such as [286, 286]."
        )


class PictureSampler:
    """Random samples of two domains of pictures, drawn as the original draws them.

    An epoch shows every picture of the larger domain once, in a random order (domain A counted round where it is the
    smaller), each with a random picture of domain B (Zhu 2017's published program).

    Args:
        pictures_a, pictures_b: of each domain, each domain with one number of channels.
        size: (width, height) of a sample; smaller pictures are centred in black.
        flip: probability of a mirror image, left to right.
        augment: further random changes of a float sample, such as :class:`medcycle.data.Augment`.
        seed: of everything random.
        device: hold all pictures there and make the samples there, instead of in this machine's memory. All pictures
            of a domain must then have one size, not below `size`, and `augment` be None.

    Raises:
        ScanError: a domain without pictures, or pictures that the device cannot hold as said.
    """

    def __init__(
        self,
        pictures_a: Sequence[Picture],
        pictures_b: Sequence[Picture],
        *,
        size: Sequence[int],
        flip: float = 0.5,
        augment: Transform | None = None,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        for key, pictures in (("a", pictures_a), ("b", pictures_b)):
            if not pictures:
                raise ScanError(f"domains.{key}: no pictures to sample from. Check domains.{key}.path.")
        self.size = (int(size[0]), int(size[1]))
        self.flip, self.augment, self.seed, self.device = flip, augment, seed, device
        self._pictures = (pictures_a, pictures_b)
        self._stores = tuple(_stored(pictures, device, self.size) for pictures in self._pictures)

    @property
    def held_on_device(self) -> bool:
        """Whether samples are made on a device: then in the training thread, which waits for nothing."""
        return self.device is not None

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of domains A and B."""
        first, second = self._pictures
        return first[0].channels, second[0].channels

    @property
    def samples_per_epoch(self) -> int:
        """Pictures of the larger domain."""
        return max(len(pictures) for pictures in self._pictures)

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> tuple[Any, Any]:
        """This process's share of the batch of one step (see :meth:`medcycle.data.UnpairedSampler.batch`).

        Returns:
            Float32 (batch_size / world, channel, width, height) of domains A and B, in [-1, 1]: arrays, or tensors on
            the device.
        """
        share = batch_size // world
        draws = [self._draw(step, batch_size, index) for index in range(rank * share, (rank + 1) * share)]
        together: Any = np.stack if self.device is None else torch.stack
        return together([a for a, _ in draws]), together([b for _, b in draws])

    def _draw(self, step: int, batch_size: int, index: int) -> tuple[Any, Any]:
        count = self.samples_per_epoch
        epoch, position = divmod(step * batch_size + index, count)
        rng_a, rng_b = (np.random.default_rng([self.seed, step, index, domain]) for domain in (0, 1))
        number_a = int(_order(self.seed, epoch, count)[position]) % len(self._pictures[0])
        number_b = int(rng_b.integers(len(self._pictures[1])))
        return self._sample(0, number_a, rng_a), self._sample(1, number_b, rng_b)

    def _sample(self, domain: int, number: int, rng: np.random.Generator) -> Any:
        pixels = self._stores[domain][number]
        starts = [int(rng.integers(max(0, n - s) + 1)) for n, s in zip(pixels.shape[1:], self.size, strict=True)]
        x, y = (slice(start, start + s) for start, s in zip(starts, self.size, strict=True))
        low, high = self._pictures[domain][number].limits
        cut = pixels[:, x, y]
        mirrored = rng.random() < self.flip
        if isinstance(cut, torch.Tensor):
            return _to_unit(cut.float(), low, high).flip(1) if mirrored else _to_unit(cut.float(), low, high)
        if mirrored:
            cut = cut[:, ::-1]
        whole = cut.dtype in (np.uint8, np.uint16)
        sample: Array = _table(cut.dtype.str, low, high)[cut] if whole else _to_unit(cut.astype(np.float32), low, high)
        sample = pad_sample(sample, self.size)
        return sample if self.augment is None else self.augment(sample, rng, "image")


def device_can_hold(pictures: Sequence[Sequence[Picture]], size: Sequence[int], free: int) -> bool:
    """Whether a device with `free` bytes can hold the domains' pictures in a quarter of them, and cut samples there."""
    needed = sum(picture.pixels.nbytes for domain in pictures for picture in domain)
    uniform = all(len({(p.pixels.shape, p.pixels.dtype) for p in domain}) == 1 for domain in pictures)
    large = all(n >= s for domain in pictures for n, s in zip(domain[0].pixels.shape[1:], size, strict=True))
    return 4 * needed <= free and uniform and large


def _stored(pictures: Sequence[Picture], device: torch.device | None, size: Sequence[int]) -> Sequence[Any]:
    """What samples are cut from: the pictures' own arrays, or one tensor of all on the device."""
    if device is None:
        return [picture.pixels for picture in pictures]
    shapes = {picture.pixels.shape for picture in pictures}
    if len(shapes) > 1 or any(n < s for n, s in zip(pictures[0].pixels.shape[1:], size, strict=True)):
        raise ScanError(
            "sample.hold: on a device, all pictures of a domain must have one size, not below sample.size. Set "
            "sample.resize, or sample.hold: memory."
        )
    every = torch.from_numpy(np.stack([picture.pixels for picture in pictures])).to(device)
    return list(every)


def _to_unit(values: Any, low: float, high: float) -> Any:
    """`low` becomes -1 and `high` 1; for 0..255 the very floats of the original's (x / 255 - 0.5) / 0.5."""
    unit = (values - low) / (high - low) * 2 - 1
    return unit.clip(-1, 1)


@functools.lru_cache(maxsize=4)
def _table(dtype: str, low: float, high: float) -> Array:
    """What every whole number of the type becomes: looking up is several times quicker than computing."""
    table: Array = _to_unit(np.arange(np.iinfo(dtype).max + 1, dtype=np.float32), low, high)
    return table


@functools.lru_cache(maxsize=8)
def _order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """The order of an epoch's pictures."""
    return np.random.default_rng([seed, epoch]).permutation(count)
