"""Processes, random state and signals: what surrounds the step and is not the model.

Several processes run through PyTorch's own torchrun; each works on its share of the batch and the gradients are
averaged with one all-reduce an optimizer step, which gives the gradient of the whole batch.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medcycle.errors import TrainingError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """For the others."""
        if self.world > 1:
            with others_alive():
                dist.barrier()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is up in any process."""
        if self.world == 1:
            return flag
        answer = torch.tensor(float(flag), device=device)
        with others_alive():
            dist.all_reduce(answer, dist.ReduceOp.MAX)
        return bool(answer)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.world == 1:
            return value
        answer = value.clone()
        with others_alive():
            dist.all_reduce(answer)
        return answer / self.world


@contextmanager
def others_alive() -> Iterator[None]:
    """Turns the failure to reach another process, which has told its own error, into a line instead of a traceback.

    Raises:
        TrainingError: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        raise TrainingError("another process of this run has stopped; its message tells why") from error


@contextmanager
def processes(cuda: bool) -> Iterator[Processes]:
    """Join the processes that torchrun started (NCCL on CUDA, else gloo); alone without torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise TrainingError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} asks for several processes, but {', '.join(missing)} are not set. "
            "Start them with torchrun, or unset WORLD_SIZE."
        )
    local = int(os.environ["LOCAL_RANK"])
    if cuda:
        if local >= torch.cuda.device_count():
            raise TrainingError(
                f"process {local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; lower "
                "torchrun's --nproc-per-node"
            )
        torch.cuda.set_device(local)
    # The others wait while the first prepares the scans, which may take hours the first time.
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(days=1))
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), local)
    finally:
        dist.destroy_process_group()


@contextmanager
def computing(threads: int) -> Iterator[None]:
    """Let torch compute in that many CPU threads (0 leaves it as it is), and cuDNN try which of its kernels is fastest
    for the shapes of a run; both as before afterwards.
    """
    before, search = torch.get_num_threads(), torch.backends.cudnn.benchmark
    torch.set_num_threads(threads or before)
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.backends.cudnn.benchmark = search


class SideBySide:
    """Two pieces of work at once on a CPU, each in a thread of its own with its share of the cores.

    Two convolutions in one thread each take less time than one after the other in two threads each: nothing waits for
    the other half of every operation.

    Args:
        threads: that each of the two computes in.
    """

    def __init__(self, threads: int) -> None:
        # How many threads an operation takes belongs to the thread that calls it.
        self._pool = ThreadPoolExecutor(2, "medcycle-side", initializer=torch.set_num_threads, initargs=(threads,))

    def __call__(self, first: Callable[[], Result], second: Callable[[], Result]) -> tuple[Result, Result]:
        """What both return; the error of the first that fails, after both have ended."""
        waiting = self._pool.submit(first), self._pool.submit(second)
        wait(waiting)
        return waiting[0].result(), waiting[1].result()


def in_turn(first: Callable[[], Result], second: Callable[[], Result]) -> tuple[Result, Result]:
    """What both return, one after the other."""
    return first(), second()


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one flat all-reduce."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    with others_alive():
        dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def share_parameters(networks: dict[str, nn.Module]) -> None:
    """Give every process the first one's parameters and buffers."""
    if dist.is_initialized():
        for network in networks.values():
            for value in network.state_dict().values():
                dist.broadcast(value, 0)


def random_state(device: torch.device) -> dict[str, Any]:
    """State of the global generators that dropout and the gradient penalty draw from."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on where `random_state` was taken."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """A function that tells whether Ctrl-C or SIGTERM (SLURM's notice) has come; a second Ctrl-C stops at once."""
    came = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread (a notebook's worker, say): nothing to listen to
        yield lambda: False
        return
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
