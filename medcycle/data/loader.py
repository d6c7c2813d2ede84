"""Batches prepared ahead of the training step, in background threads and in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import torch

    Tensors: TypeAlias = tuple[torch.Tensor, ...]


class Sampler(Protocol):
    """What gives the batches: :class:`medcycle.data.UnpairedSampler`, :class:`medcycle.data.PictureSampler`."""

    @property
    def held_on_device(self) -> bool:
        """Whether the batches are made on the device, where threads would only be in the way."""

    @property
    def samples_per_epoch(self) -> int:
        """Samples that show the larger domain about once."""

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> tuple[Any, ...]:
        """This process's share of the batch of one step: float32 arrays or tensors (batch, channel, *size).

        Of domains A and B; of :class:`medcycle.data.WithPairs` then of registered pairs.
        """


class BatchLoader(Iterator["Tensors"]):
    """The batches of start_step, start_step + 1, ... without end, prepared ahead in background threads.

    Order and content do not depend on `workers`. Reading and NumPy release the interpreter lock, so threads do; a
    mistake in one of them is raised by the `next` that would have given its batch.

    Args:
        sampler: gives the batches.
        batch_size: of all processes together.
        start_step: first step (after a resume: the checkpoint's).
        workers: threads; 0 prepares every batch when it is asked for.
        pin: put the tensors in page-locked memory, for copies to a GPU that do not block.
        rank, world: this process and their number.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        start_step: int = 0,
        workers: int = 2,
        pin: bool = False,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        workers = 0 if sampler.held_on_device else workers
        self._sampler, self._batch_size, self._pin = sampler, batch_size, pin and not sampler.held_on_device
        self._rank, self._world = rank, world
        self._step = start_step  # the next one to be prepared
        self._ahead = 2 * workers
        self._waiting: deque[Future[Tensors]] = deque()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="medcycle-batch") if workers > 0 else None
        self._closed = False

    def __next__(self) -> Tensors:
        """The next step's (A, B), float32 tensors of shape (local batch, channel, *size), or what the sampler gives."""
        if self._closed:
            raise StopIteration
        if self._threads is None:
            self._step += 1
            return self._load(self._step - 1)
        while len(self._waiting) < self._ahead:
            self._waiting.append(self._threads.submit(self._load, self._step))
            self._step += 1
        batch = self._waiting.popleft().result()
        self._waiting.append(self._threads.submit(self._load, self._step))
        self._step += 1
        return batch

    def _load(self, step: int) -> Tensors:
        import torch

        arrays = self._sampler.batch(step, self._batch_size, self._rank, self._world)
        images = tuple(torch.as_tensor(array) for array in arrays)
        return tuple(image.pin_memory() for image in images) if self._pin else images

    def close(self) -> None:
        """Stop the threads, waiting for the batches they are at; `next` then stops the iteration."""
        self._closed = True
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
