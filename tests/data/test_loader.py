from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from medcycle.data import BatchLoader


class Sampler:
    """Batches that tell their step; early ones are slow, so that threads finish out of order."""

    held_on_device = False
    samples_per_epoch = 1

    def __init__(self, fail_at: int = -1) -> None:
        self.fail_at = fail_at
        self.asked: list[int] = []

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1):
        self.asked.append(step)
        if step == self.fail_at:
            raise OSError("the disk is gone")
        time.sleep(0.004 if step % 3 == 0 else 0)
        value = np.full((batch_size // world, 1, 2, 2), step * 10 + rank, np.float32)
        return value, -value


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_order_whatever_the_workers(workers) -> None:
    with BatchLoader(Sampler(), 4, start_step=7, workers=workers, rank=1, world=2) as loader:
        for step in range(7, 30):
            a, b = next(loader)
            assert isinstance(a, torch.Tensor)
            assert a.shape == (2, 1, 2, 2)
            assert float(a[0, 0, 0, 0]) == step * 10 + 1
            assert torch.equal(a, -b)


def test_no_more_is_prepared_than_twice_the_workers() -> None:
    sampler = Sampler()
    with BatchLoader(sampler, 1, workers=2) as loader:
        next(loader)
        time.sleep(0.05)
        assert len(sampler.asked) <= 1 + 4


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_reaches_the_caller_at_its_step(workers) -> None:
    with BatchLoader(Sampler(fail_at=2), 1, workers=workers) as loader:
        next(loader)
        next(loader)
        with pytest.raises(OSError, match="the disk is gone"):
            next(loader)
        assert float(next(loader)[0].max()) == 30  # the next step is not lost


def test_closing_ends_threads_and_iteration() -> None:
    before = threading.active_count()
    loader = BatchLoader(Sampler(), 1, workers=3)
    next(loader)
    assert threading.active_count() > before
    loader.close()
    loader.close()
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(loader)


def test_samples_made_on_a_device_are_made_in_the_training_thread() -> None:
    sampler = Sampler()
    sampler.held_on_device = True
    with BatchLoader(sampler, 1, workers=3, pin=True) as loader:
        next(loader)
        assert sampler.asked == [0]
