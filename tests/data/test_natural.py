"""Pictures against the original's preparation, written plainly with Pillow: the same pixels, the same chances."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medcycle.data import Picture, PictureSampler, PicturesError, device_can_hold, load_pictures, read_picture
from medcycle.data.natural import resize_picture
from medcycle.errors import ScanError


def photographs(folder: Path, count: int = 3, size: tuple[int, int] = (40, 30), grey: int = -1) -> list[Path]:
    """Smooth RGB pictures of (width, height) pixels; the one with the number `grey` has one channel."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        paths.append(folder / f"{number}.png")
        (picture.convert("L") if number == grey else picture).save(paths[-1])
    return paths


def original_sample(path: Path, load: int, crop: int, x: int, y: int, flip: bool) -> torch.Tensor:
    """The original's preparation: resize, crop at (x, y), mirror, to a tensor (C, H, W), (t - 0.5) / 0.5."""
    picture = Image.open(path).convert("RGB").resize((load, load), Image.Resampling.BICUBIC)
    picture = picture.crop((x, y, x + crop, y + crop))
    if flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255)
    return (tensor - 0.5) / 0.5


def numbered(count: int, width: int = 6, height: int = 4, channels: int = 3) -> list[Picture]:
    """Pictures whose every value is their number, but the first column, which is 255 (shows mirror images)."""
    pictures = []
    for number in range(count):
        pixels = np.full((channels, width, height), number, np.uint8)
        pixels[:, 0] = 255
        pictures.append(Picture(Path(f"{number}.png"), pixels, (0.0, 255.0)))
    return pictures


def numbers(batch: np.ndarray) -> list[int]:
    return [round((float(sample[0, 2, 0]) + 1) * 127.5) for sample in batch]


def test_samples_are_the_originals_to_the_bit(tmp_path: Path) -> None:
    paths = photographs(tmp_path, grey=1)
    pictures = load_pictures(paths, resize=(20, 20))
    sampler = PictureSampler(pictures, pictures, size=(16, 16), seed=3)
    seen = set()
    for step in range(60):
        for sample in sampler.batch(step, 1):
            found = [
                (number, x, y, flip)
                for number, path in enumerate(paths)
                for x in range(5)
                for y in range(5)
                for flip in (False, True)
                if np.array_equal(sample[0].swapaxes(1, 2), original_sample(path, 20, 16, x, y, flip).numpy())
            ]
            assert found, f"step {step}: not a sample that the original could give"
            seen.update(found)
    assert {x for _, x, _, _ in seen} == {y for _, _, y, _ in seen} == set(range(5))
    assert {flip for _, _, _, flip in seen} == {False, True}


def test_crops_and_mirror_images_are_as_frequent_as_the_originals() -> None:
    pixels = np.arange(6 * 6, dtype=np.uint8).reshape(1, 6, 6)
    sampler = PictureSampler([Picture(Path("a"), pixels, (0.0, 255.0))] * 2, numbered(1), size=(4, 4), seed=1)
    corners: Counter[tuple[int, bool]] = Counter()
    for step in range(1800):
        sample = np.rint((sampler.batch(step, 1)[0][0, 0] + 1) * 127.5).astype(int)
        flip = bool(sample[0, 0] > sample[-1, 0])
        corners[int(sample.min()), flip] += 1
    assert len(corners) == 18  # nine places, two ways round
    assert all(60 < count < 145 for count in corners.values())  # expected 100, standard deviation 10


def test_an_epoch_shows_every_picture_of_the_larger_domain_once_and_b_at_random() -> None:
    sampler = PictureSampler(numbered(7), numbered(3), size=(6, 4), flip=0, seed=2)
    assert sampler.samples_per_epoch == 7
    epochs = [[numbers(sampler.batch(7 * epoch + n, 1)[0])[0] for n in range(7)] for epoch in range(5)]
    assert all(sorted(order) == list(range(7)) for order in epochs)
    assert len({tuple(order) for order in epochs}) > 1
    drawn = Counter(numbers(sampler.batch(step, 1)[1])[0] for step in range(600))
    assert set(drawn) == {0, 1, 2}
    assert all(150 < count < 250 for count in drawn.values())
    wrapped = PictureSampler(numbered(3), numbered(7), size=(6, 4), flip=0, seed=2)
    assert Counter(numbers(wrapped.batch(0, 7)[0])) == {0: 3, 1: 2, 2: 2}  # index modulo the number of A


def test_a_batch_is_the_same_for_any_number_of_processes_and_on_a_device() -> None:
    arguments = {"size": (5, 4), "seed": 4}
    sampler = PictureSampler(numbered(5, 8, 6), numbered(6, 7, 7), **arguments)  # type: ignore[arg-type]
    held = PictureSampler(numbered(5, 8, 6), numbered(6, 7, 7), device=torch.device("cpu"), **arguments)  # type: ignore[arg-type]
    whole = sampler.batch(9, 4)
    parts = [sampler.batch(9, 4, rank, 2) for rank in range(2)]
    for domain in range(2):
        np.testing.assert_array_equal(whole[domain], np.concatenate([part[domain] for part in parts]))
        assert whole[domain].shape == (4, 3, 5, 4)
        assert whole[domain].dtype == np.float32
        there = held.batch(9, 4)[domain]
        assert isinstance(there, torch.Tensor)
        np.testing.assert_array_equal(there.numpy(), whole[domain])
    assert held.held_on_device
    assert not sampler.held_on_device


def test_small_pictures_are_centred_in_black() -> None:
    sampler = PictureSampler(numbered(1, 4, 2), numbered(1, 4, 2), size=(6, 4), flip=0)
    sample = sampler.batch(0, 1)[0][0]
    assert sample.shape == (3, 6, 4)
    assert (sample[:, 0] == -1).all()
    assert (sample[:, :, 0] == -1).all()
    assert (sample[:, 1, 1] == 1).all()


@given(st.integers(3, 30), st.integers(3, 30), st.integers(3, 30), st.integers(3, 30))
def test_sizes_are_as_asked(w: int, h: int, to_w: int, to_h: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, w, h), np.uint8)
    made = resize_picture(pixels, (to_w, to_h))
    assert made.shape == (3, to_w, to_h)
    plain = np.asarray(Image.fromarray(pixels.transpose(2, 1, 0)).resize((to_w, to_h), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(made.transpose(2, 1, 0), plain)


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    pixels = read_picture(tmp_path / "x.png", (20, 15))
    assert pixels.dtype == np.uint16
    coarse = ramp.reshape(15, 2, 20, 2).mean((1, 3))
    np.testing.assert_allclose(pixels[0].T, coarse, atol=400)
    (picture,) = load_pictures([tmp_path / "x.png"], resize=(20, 15))
    assert picture.limits == (0, 65535)
    sample = PictureSampler([picture], [picture], size=(20, 15), flip=0).batch(0, 1)[0]
    np.testing.assert_allclose(sample[0, 0], pixels[0] / 65535.0 * 2 - 1, atol=1e-6)


def test_all_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    paths = photographs(tmp_path)
    paths[0].write_bytes(b"no picture")
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    with pytest.raises(PicturesError, match=r"2 of 3 pictures cannot be used") as caught:
        load_pictures(paths, threads=2)
    assert str(paths[0]) in str(caught.value)
    assert str(paths[2]) in str(caught.value)


def test_pictures_that_cannot_be_read_can_be_left_out(tmp_path: Path) -> None:
    paths = photographs(tmp_path)
    paths[1].write_bytes(b"nothing")
    refused: list[tuple[Path, str]] = []
    assert [picture.path for picture in load_pictures(paths, refused=refused)] == [paths[0], paths[2]]
    assert [path for path, _ in refused] == [paths[1]]
    assert str(paths[1]) in refused[0][1]
    with pytest.raises(PicturesError, match="1 of 1 pictures"):
        load_pictures(paths[1:2], refused=refused)


def test_more_than_the_memory_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2000}))
    with pytest.raises(ScanError, match=r"Set sample.resize"):
        load_pictures(photographs(tmp_path))


def test_a_device_holds_only_what_it_can() -> None:
    a, b = numbered(3), numbered(4)
    size = sum(p.pixels.nbytes for p in (*a, *b))
    assert device_can_hold([a, b], (6, 4), 4 * size)
    assert not device_can_hold([a, b], (6, 4), 4 * size - 1)
    assert not device_can_hold([a, [*b, *numbered(1, 9, 9)]], (6, 4), 10**9)
    assert not device_can_hold([a, b], (7, 4), 10**9)
    with pytest.raises(ScanError, match="all pictures of a domain must have one size"):
        PictureSampler([*a, *numbered(1, 9, 9)], b, size=(6, 4), device=torch.device("cpu"))


def test_keys_follow_content_and_size(tmp_path: Path) -> None:
    one, other = load_pictures(photographs(tmp_path, 2))
    assert one.key != other.key
    assert one.key == load_pictures([one.path])[0].key
    assert one.key != load_pictures([one.path], resize=(9, 9))[0].key


def test_an_empty_domain_is_refused() -> None:
    with pytest.raises(ScanError, match=r"domains\.b: no pictures"):
        PictureSampler(numbered(1), [], size=(4, 4))
