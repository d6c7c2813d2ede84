"""Two sides at once: both done, both in threads of their own, an error of either told."""

from __future__ import annotations

import threading

import pytest
import torch

from medcycle.training.runtime import SideBySide, computing, in_turn


def test_both_run_at_the_same_time_each_with_its_threads() -> None:
    meet = threading.Barrier(2, timeout=20)

    def side(name: str) -> tuple[str, int]:
        meet.wait()  # passes only if the other is there too
        return name, torch.get_num_threads()

    with computing(2):
        assert SideBySide(1)(lambda: side("a"), lambda: side("b")) == (("a", 1), ("b", 1))
        assert torch.get_num_threads() == 2


def test_an_error_comes_out_after_both_have_ended() -> None:
    ended = threading.Event()

    def fail() -> None:
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        SideBySide(1)(fail, ended.set)
    assert ended.is_set()


def test_in_turn_is_in_order() -> None:
    said: list[int] = []
    assert in_turn(lambda: said.append(1), lambda: said.append(2)) == (None, None)
    assert said == [1, 2]


def test_settings_of_torch_come_back() -> None:
    before = torch.get_num_threads(), torch.backends.cudnn.benchmark
    with computing(3):
        assert torch.get_num_threads() == 3
        assert torch.backends.cudnn.benchmark
    assert (torch.get_num_threads(), torch.backends.cudnn.benchmark) == before
