"""Norms whose mean and variance are those of the window at hand: finding them, and holding the whole scan's instead.

Instance norm (Ulyanov 2016) and group norm (Wu & He 2018) take their statistics from the image that they are given. A
window of a scan is such an image, so the same voxel comes out differently in each window that holds it. With the
statistics gathered over the scan's windows and then held, as batch norm holds its running ones, every window is given
the same function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from medcycle.data.augment import AIR
from medcycle.errors import ModelError
from medcycle.networks.layers import InstanceNorm

AIR_TOLERANCE = 1e-3

STATISTICS = ("scan", "tile")  # the first is the default
"""Of which a 3D network's norms take their mean and variance: each window's own, or the scan's, the same for all."""

Hook = Callable[..., None]

_UNSTEADY = (
    "the network does not use its norms in the same order every time, so the scan's statistics cannot be held. Take "
    "each window's own (--statistics tile)."
)


def window_norms(network: nn.Module) -> list[nn.Module]:
    """The norms of a network, in evaluation mode, that take their statistics from the image that they are given."""
    return [module for module in network.modules() if _kind(module)]


def norm_kinds(network: nn.Module) -> tuple[str, ...]:
    """What :func:`window_norms` finds: "group", "instance", both or nothing."""
    return tuple(sorted({_kind(module) for module in window_norms(network)}))


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.GroupNorm):
        return "group"
    # Statistics that an instance norm tracks are not the image's.
    own = isinstance(module, InstanceNorm) or (isinstance(module, _InstanceNorm) and not module.track_running_stats)
    return "instance" if own else ""


class ScanStatistics:
    """Mean and variance of every norm of a network over a scan's windows: gathered, then held.

    Inside :meth:`gathering` the network is as it always is, and what enters each norm is counted: the mean of the
    windows' means and the variance about it, each window by its share of voxels that are not air, since training drew
    its patches where there is tissue. Inside :meth:`held` these take the place of each window's own. Norms are told
    apart by the order in which they are used, so that one module may serve several times.

    Args:
        network: in evaluation mode; it is left as it was.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network, self._norms = network, window_norms(network)
        self._weight, self._weights = 0.0, torch.empty(0)
        # A use of a norm each: weighted sums over windows of the means and mean squares of its channels or groups.
        self._sums: list[Tensor] = []
        self._now: list[Tensor] = []  # those of the batch that is in the network

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """What the network is given in here is counted, once it has passed through: a batch that fails does not."""

        def begin(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            tissue = (inputs[0] > AIR + AIR_TOLERANCE).any(dim=1)
            self._now, self._weights = [], tissue.flatten(1).double().mean(1)

        def end(*_: object) -> None:
            if self._sums and len(self._sums) != len(self._now):
                raise ModelError(_UNSTEADY)
            self._sums = [a + b for a, b in zip(self._sums, self._now, strict=True)] if self._sums else self._now
            self._weight += float(self._weights.sum())

        with self._instead(self._count, begin, end):
            yield

    @contextmanager
    def held(self) -> Iterator[None]:
        """The norms use what was gathered.

        Raises:
            ModelError: if the network uses its norms in another order than while they were gathered.
        """
        moments = [_mean_and_variance(sums / self._weight) for sums in self._sums]
        left: Iterator[tuple[Tensor, Tensor]] = iter(())

        def begin(*_: object) -> None:
            nonlocal left
            left = iter(moments)

        def normalize(module: nn.Module, x: Tensor) -> Tensor:
            mean, variance = next(left, (None, None))
            if mean is None or variance is None or x.shape[1] % len(mean):
                raise ModelError(_UNSTEADY)
            return _normalized(module, mean, variance, x)

        with self._instead(normalize, begin):
            yield

    def _count(self, module: nn.Module, x: Tensor) -> Tensor:
        groups = module.num_groups if isinstance(module, nn.GroupNorm) else x.shape[1]
        with torch.autocast(x.device.type, enabled=False):
            variance, mean = torch.var_mean(x.float().reshape(len(x), groups, -1), dim=2, correction=0)
            moments = torch.stack([mean.double(), variance.double() + mean.double().square()])
            self._now.append(torch.einsum("b,mbg->mg", self._weights, moments))
        result: Tensor = type(module).forward(module, x)
        return result

    @contextmanager
    def _instead(self, forward: Callable[[nn.Module, Tensor], Tensor], begin: Hook, end: Hook | None = None) -> Any:
        """In here the norms compute something else; `begin` and `end` are called round the network."""
        hooks = [self._network.register_forward_pre_hook(begin)]
        if end is not None:
            hooks.append(self._network.register_forward_hook(end))
        try:
            for module in self._norms:
                module.forward = functools.partial(forward, module)
            yield
        finally:
            for module in self._norms:
                vars(module).pop("forward", None)
            for hook in hooks:
                hook.remove()


def _mean_and_variance(sums: Tensor) -> tuple[Tensor, Tensor]:
    mean, square = sums
    return mean.float(), (square - mean.square()).clamp(min=0).float()


def _normalized(module: Any, mean: Tensor, variance: Tensor, x: Tensor) -> Tensor:
    """The norm with a mean and variance, of its channels or groups, that are given."""
    each = x.shape[1] // len(mean)
    mean, variance = mean.repeat_interleave(each), variance.repeat_interleave(each)
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    with torch.autocast(x.device.type, enabled=False):
        return F.batch_norm(x, mean, variance, weight, bias, eps=module.eps)
