"""How much two images of different modalities show the same anatomy, as pure functions, in 2D and 3D alike.

None looks at intensities themselves. All take two float tensors of shape (batch, channel, *space) in [-1, 1] on one
grid, average their channels, compute in float32 and give a scalar that falls as they agree. They serve as losses in
training and as measures of a result without a reference.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

NOISE = 0.05  # in [-1, 1]: some 25 HU of soft tissue in a stretched CT
_TINY = 1e-8
_FLAT = 1e-4  # product of two entropies, of which one has hardly any


def gradient_correlation(a: Tensor, b: Tensor) -> Tensor:
    """1 - GC, where GC is the mean over the axes of the normalized cross-correlation of both images' gradients.

    Hiasa 2018 (Cross-modality image synthesis from unpaired data using CycleGAN), eq. 3. It asks for edges in the same
    places and of the same sign: suited to pairs whose contrast agrees, such as inverted MR and CT. From 0 to 2.
    """
    parts = []
    for axis in range(2, a.ndim):
        x, y = (image.float().mean(1).diff(dim=axis - 1).flatten(1) for image in (a, b))
        x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
        parts.append((x * y).sum(1) / (x.square().sum(1) * y.square().sum(1) + _TINY).sqrt())
    return 1 - torch.stack(parts).mean()


def mind(image: Tensor, radius: int = 1, distance: int = 1, noise: float = NOISE) -> Tensor:
    """The modality-independent neighbourhood descriptor (Heinrich 2012, eq. 4): how like its neighbours a patch is.

    For every neighbour r along an axis, exp(-D(x, x + r) / V(x)): D is the mean squared difference of the patches round
    x and x + r, V their mean over all neighbours; scaled so that the largest is 1. Borders are repeated.

    Args:
        image: (batch, channel, *space).
        radius: of the patches: width 2 * radius + 1 along each axis.
        distance: to the neighbours, in voxels.
        noise: V is no less than its square: differences that small are no structure, and where all is even, the
            gradients of what is left would be a hundred times those of real edges.

    Returns:
        (batch, channel, 2 * axes, *space), in [0, 1].
    """
    image = image.float()
    space = image.ndim - 2
    pool = F.avg_pool2d if space == 2 else F.avg_pool3d
    width = 2 * radius + 1
    reach = radius + distance
    padded = F.pad(image, (reach, reach) * space, mode="replicate")
    sizes = [n + 2 * radius for n in image.shape[2:]]

    def shifted(offset: list[int]) -> Tensor:
        found = padded
        for axis, (step, size) in enumerate(zip(offset, sizes, strict=True), 2):
            found = found.narrow(axis, distance + step, size)
        return found

    centre = shifted([0] * space)
    distances = []
    for axis, sign in itertools.product(range(space), (-distance, distance)):
        offset = [0] * space
        offset[axis] = sign
        distances.append(pool((centre - shifted(offset)).square(), width, stride=1))
    d = torch.stack(distances, dim=2)
    variance = d.mean(dim=2, keepdim=True)
    descriptor = torch.exp(-d / variance.clamp_min(noise**2))
    scaled: Tensor = descriptor / descriptor.amax(dim=2, keepdim=True)
    return scaled


def mind_distance(a: Tensor, b: Tensor, radius: int = 1, distance: int = 1) -> Tensor:
    """Mean absolute difference of both images' MIND descriptors, 0 to 1 (Yang 2020, eq. 4; Heinrich 2012, eq. 6)."""
    x, y = (mind(image.float().mean(1, keepdim=True), radius, distance) for image in (a, b))
    return (x - y).abs().mean()


def mutual_information(a: Tensor, b: Tensor, bins: int = 32) -> Tensor:
    """1 - I(A, B) / sqrt(H(A) H(B)): mutual information of Parzen-windowed histograms, normalized. From 0 to 1.

    Viola & Wells 1997, with the linear window (B-spline of order 1) of Mattes 2003; the normalization of Strehl 2002.
    One histogram over the batch; values beyond [-1, 1] count as the ends. Equal images give a little above 0: a value
    between two bins counts in both. With an image of a single value it is 1.

    Args:
        a: (batch, channel, *space); channels are averaged.
        b: likewise.
        bins: over [-1, 1] in each image.
    """
    weights = []
    for image in (a, b):
        place = (image.float().mean(1).flatten().clamp(-1, 1) + 1) / 2 * (bins - 1)
        centres = torch.arange(bins, device=place.device, dtype=place.dtype)
        weights.append((1 - (place[:, None] - centres).abs()).clamp_min(0))
    joint = weights[0].T @ weights[1] / len(weights[0])
    of_a, of_b = joint.sum(1), joint.sum(0)
    information = (joint * ((joint + _TINY) / (of_a[:, None] * of_b + _TINY)).log()).sum()
    entropy = [-(p * (p + _TINY).log()).sum() for p in (of_a, of_b)]
    return 1 - information / (entropy[0] * entropy[1]).clamp_min(_FLAT).sqrt()  # rounding: a flat one's may be below 0


def outline_consistency(a: Tensor, b: Tensor, threshold: float = -0.9, sharpness: float = 50.0) -> Tensor:
    """1 - Dice of both images' bodies: what is brighter than air in one should be in the other. From 0 to 1.

    A smooth threshold at `threshold` lets gradients through (the soft Dice of Milletari 2016, eq. 1).
    """
    bodies = [torch.sigmoid(sharpness * (image.float().mean(1).flatten(1) - threshold)) for image in (a, b)]
    overlap = (bodies[0] * bodies[1]).sum(1)
    return (1 - (2 * overlap + 1) / (bodies[0].square().sum(1) + bodies[1].square().sum(1) + 1)).mean()


def patch_nce(query: Tensor, key: Tensor, temperature: float = 0.07) -> Tensor:
    """PatchNCE (Park 2020, eq. 4): each place of the output should know its own place of the input among all others.

    Args:
        query: (batch, channel, places) features of the output at some places.
        key: the input's features at the same places; no gradient flows into them.
        temperature: of the softmax.

    Returns:
        The cross-entropy, divided by that of guessing, log(places): 1 for features that tell nothing, 0 at best.
    """
    query, key = (F.normalize(features.float(), dim=1) for features in (query, key.detach()))
    logits = query.transpose(1, 2) @ key / temperature  # (batch, places, places): what belongs together is the diagonal
    places = logits.shape[1]
    wanted = torch.arange(places, device=logits.device).expand(len(logits), -1)
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten()) / math.log(places)
