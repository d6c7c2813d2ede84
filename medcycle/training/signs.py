"""Label-free signs of how a training goes: what the generators make of fixed samples, measured without any pair.

A figure's last letter names the domain of the image that is judged, as in the losses' columns: `mind_b` compares what
was made in B with the A it was made from.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from medcycle.agreement import BODY
from medcycle.data.loader import Sampler
from medcycle.evaluation.features import StandIn
from medcycle.similarity import mind_distance, mutual_information
from medcycle.training.losses import l1

Array: TypeAlias = npt.NDArray[np.float64]
Criterion: TypeAlias = Literal["balance", "agreement", "cycle", "kernel_distance"]
Images: TypeAlias = Mapping[str, Tensor | None]
DIRECTIONS = (("a", "b"), ("b", "a"))

SAMPLES = 16  # pairs of samples that go through the generators
REALS = 64  # others of each domain that outputs are compared with
VOXELS = 2**18  # of a sample that mutual information looks at
PICTURE = 32, 128  # smallest and largest width of the pictures that features are taken of
FAINT = 1e-3  # a feature that varies less among real samples counts as varying that much
_TINY = 1e-8


class Signs:
    """Figures of both directions on fixed samples, the same at every call.

    Args:
        fixed: gives the samples, one pair at a time.
        device: where to measure.
        air: whether -1 is air in both domains, so that polarity means something.
    """

    def __init__(self, fixed: Sampler, device: torch.device, *, air: bool) -> None:
        self.device, self.air = device, air
        self._extractor = StandIn(str(device))
        self.pairs = [self._drawn(fixed, n) for n in range(SAMPLES)]
        others = (self._drawn(fixed, SAMPLES + n) for n in range(REALS))
        shown = [[pictures(image) for image in pair] for pair in itertools.chain(self.pairs, others)]
        features = {domain: self._features([pair[n] for pair in shown]) for n, domain in enumerate("ab")}
        given = {domain: found[:SAMPLES] for domain, found in features.items()}
        self._real = {domain: found[SAMPLES:] for domain, found in features.items()}
        # How far the inputs are from the domain they are to go to; at least what chance sets real samples apart by.
        self._apart = {
            target: max(self._distance(given[source], target), abs(self._distance(given[target], target)), _TINY)
            for source, target in DIRECTIONS
        }

    @staticmethod
    def _drawn(fixed: Sampler, n: int) -> tuple[Tensor, Tensor]:
        a, b = (torch.as_tensor(x).cpu() for x in fixed.batch(n, 1))
        return a, b

    def pair(self, n: int) -> tuple[Tensor, Tensor]:
        """The n-th fixed samples of A and B, (1, channel, *space), on the device."""
        a, b = self.pairs[n]
        return a.to(self.device), b.to(self.device)

    @torch.no_grad()
    def measure(self, images_of: Callable[[int], Images], criterion: Criterion | None = None) -> dict[str, float]:
        """All figures by name.

        For each domain: `cycle` and `identity`, the L1 losses; `cycle_correlation` and `identity_correlation`, of the
        image that comes back with the one that went in (Pearson); `mind`, `mutual_information`, see
        :mod:`medcycle.similarity`; `mind_ratio`, of `mind` to that of an output with another sample's input: 1 when
        outputs have nothing to do with their inputs; `displacement` in voxels, see :func:`displacement`; `polarity`,
        see :func:`polarity`; `variety`, the standard deviation of a voxel over the outputs in that over real samples;
        `kernel_distance`, see :func:`kernel_distance`, of the outputs' features to those of real samples; `spread`, the
        standard deviation of the discriminator's answers. `score`: by the criterion.

        Args:
            images_of: index -> what the generators make of that pair: real_, fake_, cycle_, same_ and scores_ of a and
                b, any of the last two None.
            criterion: what to score.
        """
        directions = {target: _Direction() for _, target in DIRECTIONS}
        figures: dict[str, list[Tensor]] = {}
        for n in range(SAMPLES):
            images = images_of(n)
            for source, target in DIRECTIONS:
                real, made = _needed(images, f"real_{source}"), _needed(images, f"fake_{target}")
                other = _needed(images, f"real_{target}")
                directions[target].add(real, made, other)
                found = dict(_likeness(real, made, target, air=self.air))
                for name, key in (("cycle", f"cycle_{source}"), ("identity", f"same_{source}")):
                    image = images.get(key)
                    if image is not None:
                        found[f"{name}_{source}"] = l1(image, real)
                        found[f"{name}_correlation_{source}"] = correlation(image, real)
                for name, value in found.items():
                    figures.setdefault(name, []).append(value)
                scores = images.get(f"scores_{source}")
                if scores is not None:
                    directions[source].scores.append(scores.float().flatten())
        means = {name: float(torch.stack(values).mean()) for name, values in figures.items()}
        for domain, direction in directions.items():
            means |= {f"{name}_{domain}": value for name, value in direction.figures(means[f"mind_{domain}"]).items()}
            means[f"kernel_distance_{domain}"] = self._distance(self._features(direction.pictures), domain)
        return means | ({} if criterion is None else {"score": self._score(criterion, means)})

    def _score(self, criterion: Criterion, figures: Mapping[str, float]) -> float:
        """The lower the better; the mean of both directions.

        balance: mind_ratio, and the kernel distance in that of the untranslated samples. Both are 0 at best, and 1 for
        an output that has nothing to do with its input, or that is the input itself.
        """
        names = {"agreement": "mind", "cycle": "cycle", "kernel_distance": "kernel_distance", "balance": "mind_ratio"}
        values = [figures[f"{names[criterion]}_{domain}"] for domain in "ab"]
        if criterion == "balance":
            values += [figures[f"kernel_distance_{domain}"] / self._apart[domain] for domain in "ab"]
        return sum(values) / 2

    def _distance(self, features: Array, domain: str) -> float:
        """Of features to those of the domain's real samples, whose mean and spread they are given in."""
        real = self._real[domain]
        mean, spread = real.mean(0), real.std(0) + FAINT
        return kernel_distance((features - mean) / spread, (real - mean) / spread)

    def _features(self, shown: Sequence[Tensor]) -> Array:
        """Of medcycle-standin-v1, of what :func:`pictures` gives of every image; those of one stand side by side."""
        return np.stack([self._extractor.features(found).double().flatten().numpy() for found in shown])


class _Direction:
    """What is gathered over the outputs in one domain."""

    def __init__(self) -> None:
        self.pictures: list[Tensor] = []
        self.scores: list[Tensor] = []  # of this domain's discriminator
        self._last: Tensor | None = None
        self._unmatched: list[Tensor] = []
        self._edges: Tensor | None = None
        self._sums: dict[str, list[Tensor]] = {}

    def add(self, given: Tensor, made: Tensor, real: Tensor) -> None:
        """An output, what it was made from, and a real sample of its domain."""
        if self._last is not None:
            self._unmatched.append(mind_distance(given, self._last))
        self._last = made
        self.pictures.append(pictures(made))
        edges = edge_correlation(given, made)
        self._edges = edges if self._edges is None else self._edges + edges
        for name, image in (("made", made), ("real", real)):
            image = image.float()
            first, total, squares = self._sums.setdefault(name, [image, image * 0, image * 0])
            total += image - first  # or what is the same in all would be lost in the rounding of its square
            squares += (image - first).square()

    def figures(self, mind: float) -> dict[str, float]:
        """Those that need all outputs; `mind` is their mean MIND distance to their own inputs."""
        assert self._edges is not None
        count = len(self.pictures)
        spread = {
            name: float((squares / count - (total / count).square()).clamp_min(0).sqrt().mean())
            for name, (_, total, squares) in self._sums.items()
        }
        found = {
            "mind_ratio": mind / max(float(torch.stack(self._unmatched).mean()), _TINY),
            "displacement": displacement(self._edges),
            "variety": spread["made"] / max(spread["real"], _TINY),
        }
        return found | ({"spread": float(torch.cat(self.scores).std())} if self.scores else {})


def _likeness(given: Tensor, made: Tensor, domain: str, *, air: bool) -> Iterator[tuple[str, Tensor]]:
    """How like its input one output is."""
    yield f"mind_{domain}", mind_distance(given, made)
    step = -(-given[0, 0].numel() // VOXELS)
    some, same = (image.flatten(2)[..., ::step] for image in (given, made))
    yield f"mutual_information_{domain}", mutual_information(some, same)
    if air:
        found = polarity(given, made)
        if found is not None:
            yield f"polarity_{domain}", found


def _needed(images: Images, key: str) -> Tensor:
    image = images[key]
    assert image is not None
    return image


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, over all voxels: -1 for a negative; 0 where an image is constant."""
    x, y = (image.float() - image.float().mean() for image in (a, b))
    found: Tensor = (x * y).sum() / (x.norm() * y.norm() + _TINY)
    return found


def polarity(given: Tensor, made: Tensor) -> Tensor | None:
    """How much brighter the output is where the input shows a body than where it shows air: -2 to 2.

    Below 0, air has become bright and tissue dark. None where the input has no air, or nothing else.
    """
    body = given.float().mean(1) > BODY
    if body.all() or not body.any():
        return None
    values = made.float().mean(1)
    return values[body].mean() - values[~body].mean()


def kernel_distance(x: Array, y: Array) -> float:
    """Unbiased squared MMD (Gretton 2012, eq. 3; as KID, Binkowski 2018) with a Gaussian kernel; may fall below 0.

    KID's cubic kernel is at the mercy of outliers: of 16 simulated heads' slices against 64, chance alone moved it as
    much as taking MR for CT; this one, on standardized features, by a thirtieth of that. The bandwidth is the median
    distance of the rows of y (Gretton 2012, section 8).

    Args:
        x: features, (n, D).
        y: of the reference, (m, D).
    """

    def apart(u: Array, v: Array) -> Array:
        return np.asarray(np.square(u).sum(1)[:, None] + np.square(v).sum(1) - 2 * u @ v.T)

    n, m = len(x), len(y)
    width = max(float(np.median(apart(y, y)[~np.eye(m, dtype=bool)])), _TINY)
    of_x, of_y, between = (np.exp(-apart(u, v) / (2 * width)) for u, v in ((x, x), (y, y), (x, y)))
    # The n and m ones on the diagonals compare a sample with itself.
    return float((of_x.sum() - n) / (n * (n - 1)) + (of_y.sum() - m) / (m * (m - 1)) - 2 * between.mean())


def edge_correlation(given: Tensor, made: Tensor) -> Tensor:
    """The normalized cross-correlation of both images' edges (gradient magnitudes) at every shift, around the border.

    Args:
        given: (1, channel, *space).
        made: likewise.

    Returns:
        (*space): at index s, how well the edges of `made`, moved back by s, fall on those of `given`.
    """
    edges = []
    for image in (given, made):
        mean = image.float().mean(1)[0]
        slopes = torch.gradient(mean)
        magnitude = torch.stack(list(slopes)).square().sum(0).sqrt()
        magnitude = magnitude - magnitude.mean()
        edges.append(torch.fft.rfftn(magnitude / (magnitude.norm() + _TINY)))
    found: Tensor = torch.fft.irfftn(edges[0].conj() * edges[1], s=given.shape[2:])
    return found


def displacement(edges: Tensor) -> float:
    """How many voxels the edges of outputs lie beside those of their inputs, from :func:`edge_correlation`.

    The length of the best shift, up to a quarter of the image, if it gains at least twice what its opposite gains. A
    ring inside another, such as a skull in a scalp, fits best when it touches the other one, in whatever direction:
    that is no displacement.
    """
    space = edges.shape
    reach = [max(1, n // 4) for n in space]
    near = edges.roll(reach, tuple(range(len(space))))[tuple(slice(0, 2 * r + 1) for r in reach)]
    place = tuple(int(p) for p in np.unravel_index(int(near.argmax()), near.shape))
    best, centre = float(near[place]), float(near[tuple(reach)])
    opposite = float(near[tuple(2 * r - p for p, r in zip(place, reach, strict=True))])
    if best - centre < 2 * (opposite - centre):
        return 0.0
    return math.dist(place, reach)


def pictures(image: Tensor) -> Tensor:
    """What features are taken of: square RGB pictures (n, 3, width, width), 0 to 255, within PICTURE.

    A slice (1, channel, h, w) is one; of a patch (1, channel, i, j, k) the middle planes across its three axes are.
    """
    planes = [image] if image.ndim == 4 else [image.select(axis, image.shape[axis] // 2) for axis in (2, 3, 4)]
    low, high = PICTURE
    width = min(high, max(low, *image.shape[2:]))
    found = []
    for plane in planes:
        values = (plane.float().clamp(-1, 1) + 1) * 127.5
        colours = values if values.shape[1] == 3 else values.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        size = (width, width)
        found.append(functional.interpolate(colours, size, mode="bilinear", align_corners=False, antialias=True))
    return torch.cat(found)
