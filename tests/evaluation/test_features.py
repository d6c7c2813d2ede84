"""Features of pictures: how they are read, and what the stand-in network can tell apart."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medcycle.errors import ScanError
from medcycle.evaluation.features import StandIn, features_of, features_of_folder, read_rgb
from medcycle.evaluation.frechet import frechet_distance, full_kernel_distance


def test_only_8_bit_pictures_have_features(tmp_path):
    Image.fromarray(np.full((4, 4), 9000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ScanError, match=r"deep\.png: 1 channel.*uint16.*8-bit"):
        read_rgb(tmp_path / "deep.png")
    Image.fromarray(np.full((4, 4, 4), 90, np.uint8)).save(tmp_path / "clear.png")
    with pytest.raises(ScanError, match=r"clear\.png.*transparent"):
        read_rgb(tmp_path / "clear.png")
    with pytest.raises(ScanError, match="no pictures"):
        features_of([], StandIn())


def pattern(rows=96, columns=128):
    """A picture without a random generator: three waves."""
    i, j = np.mgrid[:rows, :columns]
    waves = [np.sin(i / 5) + np.cos(j / 9), np.sin((i + j) / 4), np.cos(i * j / 900)]
    return np.rint(127.5 + 60 * np.stack(waves)).clip(0, 255).astype(np.uint8)


def test_the_stand_in_stays_what_it_is():
    """Golden values: a change of these makes figures of two versions differ, and needs another name."""
    extractor = StandIn()
    assert extractor.name == "medcycle-standin-v1"
    features, probabilities = features_of([pattern(), np.full((3, 5, 7), 128, np.uint8)], extractor)
    assert probabilities is None
    assert features.shape == (2, 442)
    assert np.isfinite(features).all()
    some = [0, 20, 47, 50, 53, 54, 55, 100, 140, 151, 260, 350, 441]
    assert features[0, some] == pytest.approx(GOLDEN, rel=1e-3, abs=1e-4)
    mean = pattern().mean((1, 2)) / 127.5 - 1
    assert features[0, 48:51] == pytest.approx(mean, abs=2e-3)
    assert features[1, 51:54] == pytest.approx(np.zeros(3), abs=1e-6)


GOLDEN = [0.059973, -0.000372, -0.140310, 0.056877, 0.338599, -2.613720, -0.369860]
GOLDEN += [0.526173, 0.348863, -2.050993, -0.325661, -0.131757, 0.490776]


def scene(rng, size=64):
    """Smooth blobs with some texture, as pictures of one kind."""
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(rng.standard_normal((3, size, size)), (0, 8, 8))
    fine = ndimage.gaussian_filter(rng.standard_normal((3, size, size)), (0, 1, 1))
    picture = 150 + 300 * smooth + 40 * fine - np.linspace(0, 60, size)[:, None]
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def test_the_stand_in_ranks_what_was_done_to_pictures():
    from scipy import ndimage

    rng = np.random.default_rng(0)
    pictures = [scene(rng) for _ in range(50)]
    first, second = pictures[:25], pictures[25:]
    extractor = StandIn()
    known, _ = features_of(first, extractor)
    near = features_of(second, extractor)[0]
    changed = {
        "noise": [np.clip(p + rng.normal(0, 20, p.shape), 0, 255).astype(np.uint8) for p in second],
        "blur": [ndimage.gaussian_filter(p, (0, 1.5, 1.5)) for p in second],
        "inverted": [255 - p for p in second],
        "less red": [np.stack([p[0] // 2, p[1], p[2]]) for p in second],
    }
    for what, pictures in changed.items():
        far = features_of(pictures, extractor)[0]
        assert frechet_distance(known, far) > 1.5 * frechet_distance(known, near), what
        assert full_kernel_distance(known, far) > 3 * abs(full_kernel_distance(known, near)), what


@pytest.mark.shared_data
def test_the_stand_in_tells_zebras_from_horses(shared_data):
    place = shared_data / "horse2zebra-50"
    extractor = StandIn()
    horses = features_of_folder(place / "horse", extractor).features
    zebras = features_of_folder(place / "reference_fake_zebra", extractor).features
    rng = np.random.default_rng(0)
    halves, others = [], []
    for _ in range(10):
        order = rng.permutation(50)
        one, two = order[:25], order[25:]
        halves.append((frechet_distance(horses[one], horses[two]), full_kernel_distance(horses[one], horses[two])))
        others.append((frechet_distance(horses[one], zebras[two]), full_kernel_distance(horses[one], zebras[two])))
    assert (np.mean(others, 0) > np.mean(halves, 0) * 1.1).all()
    assert full_kernel_distance(horses, zebras) > np.mean(halves, 0)[1]


def test_paths_of_one_file_and_progress(folder):
    seen = []
    features_of_folder(folder, StandIn(), progress=lambda *told: seen.append(told))
    assert seen == [(1, 3, "a2"), (2, 3, "a10"), (3, 3, "b")]
    assert features_of_folder(folder / "b.png", StandIn()).names == ["b"]
