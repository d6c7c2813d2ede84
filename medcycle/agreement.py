"""Structure agreement of what a generator is given and what it makes, inside the body, and its usual range.

Training measures samples that the exported generator translates, and keeps their range in the model; translation
measures planes or patches of each scan the same way. A scan outside the range was treated otherwise than those of the
training. That is a reason to look, not a proof of error; nor is a scan inside it right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medcycle.similarity import mind, mutual_information

BODY = -0.9  # in [-1, 1]: what is not brighter, and not enclosed by what is, is air
FEWEST = 32  # voxels of body, with which a figure still means something
PERCENTILES = (5, 50, 95)
FIGURES = {"mind": "MIND", "mutual_information": "MI"}


@dataclass(frozen=True)
class Agreement:
    """How much of the anatomy two images share.

    Attributes:
        mind: distance of their MIND descriptors (Heinrich 2012), 0 (the same) to 1.
        mutual_information: normalized, 0 (nothing in common) to about 1, as in
            :func:`medcycle.similarity.mutual_information`, which is 1 minus this.
        voxels: of body, which both are means over.
    """

    mind: float
    mutual_information: float
    voxels: int

    @classmethod
    def mean(cls, parts: Sequence[Agreement]) -> Agreement | None:
        """Of several planes or patches, weighted by their voxels of body; None of none."""
        voxels = sum(part.voxels for part in parts)
        if not voxels:
            return None
        figures = {name: sum(getattr(part, name) * part.voxels for part in parts) / voxels for name in FIGURES}
        return cls(**figures, voxels=voxels)


def agreement(given: Tensor, made: Tensor) -> Agreement | None:
    """The agreement of one plane or patch and its translation inside the body, which `given` tells.

    Args:
        given: (channel, *space) in [-1, 1], two or three space axes; channels are averaged.
        made: (channels, *space); outside the body it is taken for air.

    Returns:
        None if hardly any of it is body.
    """
    x, y = (image.detach().cpu().float().mean(0) for image in (given, made))
    body = torch.from_numpy(_filled((x > BODY).numpy()))
    voxels = int(body.sum())
    if voxels < FEWEST:
        return None
    # Beyond the body's box is air alone, as wide as the frame happens to be.
    box = tuple(slice(int(places.min()), int(places.max()) + 1) for places in body.nonzero(as_tuple=True))
    x, y, body = x[box], y.masked_fill(~body, -1)[box], body[box]
    distance = (mind(x[None, None]) - mind(y[None, None])).abs().mean((0, 1, 2))[body].mean()
    information = 1 - mutual_information(x[body][None, None], y[body][None, None])
    return Agreement(float(distance), float(information), voxels)


def _filled(body: Any) -> Any:
    from scipy.ndimage import binary_fill_holes

    return binary_fill_holes(body)


# --- The range of the training ----------------------------------------------------------------------------------------


@torch.no_grad()
def agreement_range(
    network: nn.Module, samples: Iterable[Tensor], channels: tuple[int, int], planes: int = 1
) -> dict[str, Any] | None:
    """Percentiles of the agreement over samples that a generator translates, weighted by their voxels of body.

    Args:
        network: the generator; comes back in the mode it was in.
        samples: inputs, (1, channel, *size) each, on the network's device.
        channels: of one image that goes in, and of one that comes out.
        planes: that each sample holds side by side, an odd number; the middle one is compared, and no channel after
            these.

    Returns:
        {"mind": [5th, 50th, 95th percentile], "mutual_information": likewise, "samples": how many}; None if no sample
        shows a body, or a figure is not finite.
    """
    training = network.training
    network.eval()
    into, out = (slice(planes // 2 * n, (planes // 2 + 1) * n) for n in channels)
    found = [agreement(x[0, into], network(x)[0, out]) for x in samples]
    network.train(training)
    parts = [part for part in found if part is not None]
    spread = {name: _percentiles([getattr(part, name) for part in parts], parts) for name in FIGURES} if parts else {}
    if not parts or not np.isfinite(list(spread.values())).all():
        return None
    return spread | {"samples": len(parts)}


def _percentiles(values: list[float], parts: list[Agreement]) -> list[float]:
    order = np.argsort(values)
    weights = np.array([parts[n].voxels for n in order], dtype=np.float64)
    places = 100 * (np.cumsum(weights) - weights / 2) / weights.sum()
    return [round(float(p), 5) for p in np.interp(PERCENTILES, places, np.array(values)[order])]


def recorded_range(provenance: Mapping[str, Any]) -> dict[str, tuple[float, float]] | None:
    """The range (5th and 95th percentile) of each figure that a model's provenance tells; None if it tells none."""
    record = provenance.get("agreement")
    try:
        ends = {name: (float(record[name][0]), float(record[name][-1])) for name in FIGURES}  # type: ignore[index]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return ends if np.isfinite(list(ends.values())).all() else None


def deviations(found: Agreement, usual: Mapping[str, tuple[float, float]]) -> list[str]:
    """What lies outside the range, in words: ["MIND above"]; empty if nothing does."""
    words = []
    for name, title in FIGURES.items():
        value, (low, high) = getattr(found, name), usual[name]
        if not low <= value <= high:
            words.append(f"{title} {'above' if value > high else 'below'}")
    return words
