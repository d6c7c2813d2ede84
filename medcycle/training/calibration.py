"""The calibration of a trained generator: its tissue gets the distribution of values that the target domain's has.

Adversarial training places tissues better than it weighs them: of 2 mm heads, a tenth of what was made was bone, where
a sixth is, in the right places. One rising curve over the values of all voxels mends that without any pair: histogram
matching (Nyul and Udupa 1999, of MR scans), of training scans taken together, so that no scan is made to look like the
average one. Air is left out, since its share depends on how much of it is round the body.

The plain curve has two faults, which only lesions show. Real scans are noisier than what is made, so within one tissue
it is steep, and small differences, true and false, come out several times as large: it is averaged over some width.
And in its darker half there is no bone to be mended, but fluid, which it takes for fat: that half stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medcycle.config import Config
from medcycle.device import autocast
from medcycle.networks.calibrated import CalibratedGenerator
from medcycle.training.cohorts import Cohort, samples_as_translated

SAMPLES = {2: 128, 3: 32}  # of each domain, by their space axes
FEWEST = 2048  # voxels of tissue, whose distribution still means something
BINS = 4096
SHARES = np.linspace(0, 1, 65)
MEDIAN, QUARTILES = 32, [16, 48]  # among SHARES
WIDTH = 0.1  # over which the curve is averaged, either way, of values from -1 to 1
KNOTS = 97  # of the averaged curve
STEEPEST = 5.0  # a generator whose tissue is more even than that has not learnt yet, or has collapsed

Curve = tuple[list[float], list[float]]
Values = npt.NDArray[np.float64]


def calibrated(
    network: nn.Module, config: Config, source: Cohort, target: Cohort, device: torch.device, precision: str
) -> nn.Module:
    """A generator with its curve, fitted on training scans, in evaluation mode; itself, if there is none.

    Args:
        network: in evaluation mode, on the device.
        config: of the training.
        source: what it is given.
        target: what it makes.
        device: where it runs.
        precision: "bf16", "fp16" or "fp32".
    """
    count = SAMPLES[len(config.sample.size)]
    given, real = (
        (torch.as_tensor(s).to(device) for s in samples_as_translated(config, cohort.training, count, most=count))
        for cohort in (source, target)
    )
    with autocast(device, precision):
        curve = fit_curve(network, given, real, target.preparation.air_level)
    return network if curve is None else CalibratedGenerator.fit(network, curve).to(device).eval()


@torch.no_grad()
def fit_curve(network: nn.Module, given: Iterable[Tensor], real: Iterable[Tensor], air: float) -> Curve | None:
    """The curve that gives the brighter half of the tissue that a generator makes the distribution of real samples.

    Args:
        network: the generator; comes back in the mode it was in.
        given: its inputs, (1, channel, *size), on its device; where they are exactly -1 there is no body.
        real: samples of the target domain, likewise.
        air: values up to this are not tissue.

    Returns:
        Values from -1 to 1, and what they become, both rising, for :class:`CalibratedGenerator`; None where there is
        too little tissue to tell, or it is all but even, so that its noise would become bone, or half of it as bright
        as can be.
    """
    training = network.training
    network.eval()
    made, wanted = np.zeros(BINS), np.zeros(BINS)
    for images in given:
        inside = (images > -1).any(1, keepdim=True)
        values = network(images).float()
        made += _histogram(values[inside.expand_as(values)], air)
    for images in real:
        wanted += _histogram(images, air)
    network.train(training)
    if min(made.sum(), wanted.sum()) < FEWEST or (made > 0).sum() < 3:
        return None
    quantiles = [_quantiles(counts, air) for counts in (made, wanted)]
    spreads = [np.ptp(values[QUARTILES]) for values in quantiles]
    if spreads[1] > STEEPEST * spreads[0] or max(values[MEDIAN] for values in quantiles) > 1 - WIDTH:
        return None
    before, after = (np.concatenate([[-1, air], values, [1]]) for values in quantiles)
    before, rising = np.unique(before.round(6), return_index=True)
    return _upper_averaged(before, after[rising], quantiles[0][MEDIAN])


def _upper_averaged(before: Values, after: Values, middle: float) -> Curve:
    """The identity up to the middle, then the curve averaged over WIDTH either way, up to 1, which stays 1."""
    places = np.linspace(middle, 1, KNOTS)
    around = places[:, None] + np.linspace(-WIDTH, WIDTH, 65)
    # Beyond 1 the curve goes on as its own image in that point, so that its mean there is 1.
    values = np.where(around > 1, 2 - np.interp(2 - around, before, after), np.interp(around, before, after)).mean(1)
    rise = (1 - middle) / (1 - values[0])
    return [-1.0, *places.tolist()], [-1.0, *(1 - rise * (1 - values)).tolist()]


def _histogram(values: Tensor, air: float) -> Values:
    """Of what is more than air."""
    found = values[values > air].clamp(air, 1).float().cpu()
    counts: Values = torch.histc(found, BINS, air, 1).double().numpy()
    return counts


def _quantiles(counts: Values, air: float) -> Values:
    """At SHARES of the distribution."""
    edges = np.linspace(air, 1, BINS + 1)
    shares = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    first, last = counts.nonzero()[0][[0, -1]]
    inner = slice(first, last + 2)
    return np.interp(SHARES, shares[inner], edges[inner])
