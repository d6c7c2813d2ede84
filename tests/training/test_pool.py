"""The image buffer: what it keeps, what it gives back, how often, and that it goes on exactly."""

from __future__ import annotations

import torch

from medcycle.training.pool import ImagePool


def numbered(first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count, dtype=torch.float32).view(-1, 1, 1, 1)


def test_until_it_is_full_images_are_kept_and_returned() -> None:
    pool = ImagePool(4)
    images = numbered(0, 4)
    assert torch.equal(pool.query(images), images)
    assert [float(image) for image in pool.images] == [0, 1, 2, 3]


def test_then_half_the_answers_are_old_and_make_room_for_the_new() -> None:
    pool = ImagePool(5, seed=3)
    pool.query(numbered(0, 5))
    held, old = set(range(5)), 0
    for number in range(5, 2005):
        answer = int(pool.query(numbered(number, 1)))
        if answer != number:
            old += 1
            assert answer in held
            held = held - {answer} | {number}
        assert {int(image) for image in pool.images} == held
    assert 900 < old < 1100


def test_what_comes_out_later_is_a_copy_without_history() -> None:
    pool = ImagePool(1)
    image = torch.ones(1, 1, 2, 2, requires_grad=True)
    assert not pool.query(image * 2).requires_grad
    with torch.no_grad():
        image.zero_()
    assert float(pool.images[0].max()) == 2


def test_size_zero_passes_everything_through() -> None:
    pool = ImagePool(0)
    assert torch.equal(pool.query(numbered(0, 3)), numbered(0, 3))
    assert pool.images == []


def test_a_restored_pool_gives_the_same_answers() -> None:
    one, two = ImagePool(3, seed=1), ImagePool(3, seed=99)
    one.query(numbered(0, 7))
    two.load_state_dict(one.state_dict())
    for number in range(7, 60):
        assert torch.equal(one.query(numbered(number, 1)), two.query(numbered(number, 1)))
