"""How a step is computed so that it fits the memory: measured on tensors without content, before training starts.

PyTorch's fake tensors run the very step of training, allocating nothing, while every tensor that would be alive is
counted; what the libraries need besides is covered by a margin.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode

from medcycle.config import Config
from medcycle.device import MARGIN, SHARE, LiveBytes, free_memory
from medcycle.training.setup import loss_settings
from medcycle.training.step import CycleGAN, LossSettings, discriminator_losses, generator_losses

_SMALLEST = 16  # voxels along an axis of a sample that is advised
_MOST = 2000  # bytes a voxel and filter of a sample; more than any step of ours needs (measured: 90 to 1200)


@dataclass(frozen=True)
class MemoryPlan:
    """How a step is computed.

    Attributes:
        name: "batched" (on a GPU all samples of a step at once; on a CPU both directions side by side), "split" (one
            sample and direction at a time), or "checkpointed" (and inner values computed again in the backward pass).
        microbatch: samples at once; None: all.
        checkpointing: whether the generators compute inner values again.
        needed: bytes that the step takes beside the networks, at its peak, margin included; None: not measured, as it
            is far below `free`.
        free: bytes there are; None: not asked for.
    """

    name: str
    microbatch: int | None
    checkpointing: bool
    sides: int = 0
    """Threads of each of the two directions side by side; 0: one direction after the other."""
    needed: int | None = None
    free: int | None = None

    def sentence(self) -> str:
        """What was chosen, and why, for the user."""
        what = {
            "batched": "both directions side by side" if self.sides else "the whole batch at once",
            "split": "one direction at a time",
        }.get(self.name, "one direction at a time, inner values computed twice")
        if self.free is None:
            return f"Memory: {self.name} ({what}), as set"
        need = "far below" if self.needed is None else f"about {_size(self.needed)} of"
        beyond = self.needed is not None and self.needed > self.free * SHARE
        warning = "; this may run out: take a smaller sample.size or fewer model.generator.filters" if beyond else ""
        return f"Memory: {self.name} ({what}), {need} the {_size(self.free)} that are free{warning}"


def plans(config: Config, device: torch.device, *, independent: bool, sides: int = 0) -> list[MemoryPlan]:
    """What `train.memory` allows, the fastest first. Samples that influence one another (batch norm) stay together.

    On a CPU one sample at a time is no slower than several, and gives the same to rounding however many processes share
    a batch.

    Args:
        config: the settings.
        device: where the step runs.
        independent: whether the samples of a batch do not influence one another.
        sides: threads of each direction, if both can run side by side.
    """
    fixed, gpu = config.train.microbatch, device.type == "cuda"
    one = fixed or (1 if independent else None)
    found = {
        "batched": MemoryPlan("batched", fixed if gpu else one, False, sides),
        "split": MemoryPlan("split", one, False),
        "checkpointed": MemoryPlan("checkpointed", one, True),
    }
    if config.train.memory != "auto":
        return [found[config.train.memory]]
    first, second = found["batched"], found["split"]
    if (first.sides, first.microbatch or config.train.batch_size) == (0, second.microbatch or config.train.batch_size):
        del found["batched"]  # the same
    return list(found.values())


def choose(
    config: Config, gan: CycleGAN, make: Callable[[], CycleGAN], channels: tuple[int, int], sides: int = 0
) -> MemoryPlan:
    """The fastest plan that fits the memory that is free beside the networks; the most frugal one if none does.

    Args:
        config: whose `train.memory` may fix the plan.
        gan: the state, on its device.
        make: builds another one like it, on whatever device is PyTorch's default.
        channels: of the two domains.
        sides: threads of each direction, if both can run side by side.
    """
    allowed = plans(config, gan.device, independent=gan.batch_independent, sides=sides)
    if len(allowed) == 1:
        return allowed[0]
    batch, free = _share(config, gan)
    filters = max(config.model.generator.filters, config.model.discriminator.filters)
    if _MOST * math.prod(config.sample.size) * filters * batch < free * SHARE:
        return replace(allowed[0], free=free)
    loss = loss_settings(config, total=1)
    for plan in allowed:
        samples = plan.microbatch or batch, channels, config.sample.size
        needed = step_bytes(make, plan.checkpointing, samples, plan.sides > 0, loss)
        if needed is None:  # a network of the user's own that cannot run without content
            return allowed[0]
        if needed <= free * SHARE:
            break
    return replace(plan, needed=needed, free=free)


def settings_that_fit(
    config: Config, plan: MemoryPlan, gan: CycleGAN, make: Callable[[], CycleGAN], channels: tuple[int, int]
) -> str:
    """After a plan has run out of memory: what to set instead, with what each setting would take."""
    batch, free = _share(config, gan)
    free = plan.free or free
    size, loss = tuple(config.sample.size), loss_settings(config, total=1)

    def needs(checkpointing: bool, count: int, size: tuple[int, ...], side_by_side: bool = False) -> int | None:
        return step_bytes(make, checkpointing, (count, channels, size), side_by_side, loss)

    one = 1 if gan.batch_independent else batch
    frugal = {}
    if plan.name == "batched" and gan.batch_independent and not config.train.microbatch:
        frugal["train.memory=split"] = needs(False, 1, size)
    if not plan.checkpointing:
        frugal["train.memory=checkpointed"] = needs(True, one, size)
    found = [_told(setting, needed) for setting, needed in frugal.items() if (needed or 0) <= free * SHARE]
    count, smaller = plan.microbatch or batch, size
    while True:
        smaller = tuple(max(_SMALLEST, n // 8 * 4) for n in smaller)
        needed = needs(plan.checkpointing, count, smaller)
        if (needed or 0) <= free * SHARE or max(smaller) == _SMALLEST:
            break
    now = needs(plan.checkpointing, count, size, plan.sides > 0)
    asked = "" if now is None else f" A step took about {_size(now)}."
    setting = _told(f"sample.size=[{', '.join(map(str, smaller))}]", needed)
    again = f"{setting} or fewer model.generator.filters (now {config.model.generator.filters})"
    go_on = f"Set {' or '.join(found)} and go on with --resume; or begin" if found else "Begin"
    return f"{asked} {go_on} again with {again}."


def _share(config: Config, gan: CycleGAN) -> tuple[int, int]:
    """This process's samples of a step, and the bytes that are free for it."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world))  # processes that share this machine's memory
    free = free_memory(gan.device) // (here if gan.device.type == "cpu" else 1)
    return config.train.batch_size // world, free


def _told(setting: str, needed: int | None) -> str:
    return setting if needed is None else f"{setting} (takes about {_size(needed)})"


def step_bytes(
    make: Callable[[], CycleGAN],
    checkpointing: bool,
    samples: tuple[int, tuple[int, int], tuple[int, ...]],
    side_by_side: bool = False,
    loss: LossSettings | None = None,
) -> int | None:
    """Bytes a step takes at its peak beside the networks, gradients and Adam's two moments included, with the margin.

    Args:
        make: builds the state.
        checkpointing: of its generators.
        samples: how many at once, the channels of both domains, and the size.
        side_by_side: both directions at the same time.
        loss: kind and weights; None: the classic ones.

    Returns:
        None if the networks cannot be run on tensors without content.
    """
    count, channels, size = samples
    loss = loss or LossSettings()
    counter = LiveBytes()
    try:
        with FakeTensorMode():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of a moving average: copies of tensors without content
                gan = make()
            set_checkpointing(gan, checkpointing)
            # On the CPU's fake tensors all is the same size as on a GPU's.
            images = [torch.empty((count, c, *size)) for c in channels]
            pair = (images[0].clone(), images[1].clone()) if loss.paired else None
            with counter:
                for a_to_b in (True, False):
                    _, total, _ = generator_losses(gan, images[0], images[1], loss, pair, a_to_b=a_to_b)
                    total.backward()
                    del total, _
                if loss.r1 or loss.adversarial == "wgan-gp":  # else the discriminators' share is the smaller
                    for domain, image in zip("ab", images, strict=True):
                        _, total = discriminator_losses(gan, domain, image, image, loss)
                        total.backward()
                        del total, _
    except Exception:  # whatever a network does that needs the numbers themselves
        return None
    trained = sum(p.nbytes for p in [*gan.generator_parameters, *gan.discriminator_parameters])
    kept = 4 * math.prod(size) * sum(channels) * (gan.pool_a.size + 1) if gan.pool_a.size else 0
    return int(MARGIN * (counter.peak * (2 if side_by_side else 1) + 2 * trained) + kept)


def set_checkpointing(gan: CycleGAN, flag: bool) -> None:
    """Let the generators compute inner values again in the backward pass, or not; the user's own stay as they are."""
    networks: tuple[Any, Any] = gan.a_to_b, gan.b_to_a
    for network in networks:
        if hasattr(network, "checkpointing"):
            network.checkpointing = flag


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
