"""Label scores against pixel-by-pixel counting."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from medcycle.errors import ScanError
from medcycle.evaluation.labels import (
    CLASSES,
    VOID_COLOURS,
    class_scores,
    confusion,
    label_scores,
    score_labels,
    train_ids,
)

COLOURS = np.array([*CLASSES.values()], np.uint8)


def paint(ids):
    """RGB (rows, columns, 3) of train ids."""
    return COLOURS[ids]


def by_hand(prediction, reference):
    """The three figures, with sets of pixels for each class."""
    accuracies, overlaps, right, all_pixels = [], [], 0, 0
    for name in range(19):
        true = {i for i, r in enumerate(reference.flat) if r == name}
        said = {i for i, p in enumerate(prediction.flat) if p == name and reference.flat[i] != 255}
        right += len(true & said)
        all_pixels += len(true)
        if true:
            accuracies.append(len(true & said) / len(true))
        if true | said:
            overlaps.append(len(true & said) / len(true | said))
    return {
        "pixel_accuracy": right / all_pixels,
        "class_accuracy": np.mean(accuracies),
        "class_iou": np.mean(overlaps),
    }


def test_scores_equal_counting_by_hand():
    rng = np.random.default_rng(0)
    reference = rng.choice([0, 1, 2, 3, 10, 18, 255], (13, 17)).astype(np.uint8)
    prediction = np.where(rng.random((13, 17)) < 0.5, reference, rng.integers(0, 19, (13, 17))).astype(np.uint8)
    counts = confusion(prediction, reference)
    assert counts.sum() == (reference != 255).sum()
    assert label_scores(counts) == pytest.approx(by_hand(prediction, reference))
    assert label_scores(confusion(reference, reference)) == dict.fromkeys(label_scores(counts), 1.0)
    scores = class_scores(counts)
    assert list(scores) == list(CLASSES)
    assert scores["sky"][0] == pytest.approx((prediction == 10)[reference == 10].mean())
    assert math.isnan(scores["car"][0])  # not in the truth
    assert scores["car"][1] == 0.0  # but predicted somewhere


def test_a_prediction_that_is_void_is_wrong():
    counts = confusion(np.array([255, 0], np.uint8), np.array([0, 0], np.uint8))
    assert label_scores(counts) == {"pixel_accuracy": 0.5, "class_accuracy": 0.5, "class_iou": 0.5}


def test_the_nearest_colour_decides():
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (3, 20, 30)).astype(np.float32)
    palette = np.concatenate([COLOURS, np.array(VOID_COLOURS, np.uint8)]).astype(int)
    for void in (False, True):
        known = palette if void else palette[:19]
        expected = np.empty((20, 30), int)
        for i, j in np.ndindex(20, 30):
            far = [int(((picture[:, i, j].astype(int) - colour) ** 2).sum()) for colour in known]
            best = int(np.argmin(far))
            expected[i, j] = best if best < 19 else 255
        assert (train_ids(picture, void) == expected).all()
    assert (train_ids(COLOURS.T[:, :, None], True)[:, 0] == np.arange(19)).all()
    # Black is void in the truth; a prediction has to choose: the dark blue of a truck is nearest.
    black = np.zeros((3, 1, 1))
    assert train_ids(black, True).item() == 255
    assert train_ids(black, False).item() == list(CLASSES).index("truck")


def test_another_size_is_met_by_nearest_neighbour():
    small = np.array([[0, 1], [2, 3]], np.uint8)
    large = np.kron(small, np.ones((3, 4), np.uint8))
    assert label_scores(confusion(small, large))["pixel_accuracy"] == 1.0
    assert label_scores(confusion(large, small))["pixel_accuracy"] == 1.0


@pytest.fixture
def folders(tmp_path):
    """Two cases: one right in colours with noise, one wrong as train ids, of another size."""
    rng = np.random.default_rng(2)
    for kind in ("guess", "truth"):
        (tmp_path / kind).mkdir()
    first = rng.choice([0, 2, 8, 10], (12, 16))
    noisy = np.clip(paint(first).astype(int) + rng.integers(-8, 9, (12, 16, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(paint(first)).save(tmp_path / "truth" / "a.png")
    Image.fromarray(noisy).save(tmp_path / "guess" / "a.png")
    second = np.full((8, 8), 13, np.uint8)
    second[0] = 255
    Image.fromarray(second).save(tmp_path / "truth" / "b.png")
    Image.fromarray(np.full((4, 4), 0, np.uint8)).save(tmp_path / "guess" / "b.png")
    return tmp_path


def test_folders_in_figures_out(folders):
    seen = []
    result = score_labels(folders / "guess", folders / "truth", folders / "out", lambda *told: seen.append(told))
    assert result.cases["a"] == {"pixel_accuracy": 1.0, "class_accuracy": 1.0, "class_iou": 1.0}
    assert result.cases["b"]["pixel_accuracy"] == 0.0
    # Of all pixels: 192 right of 192 + 56, not the mean of the pictures.
    assert result.total["pixel_accuracy"] == pytest.approx(192 / 248)
    assert result.mean["pixel_accuracy"] == 0.5
    assert [row[0] for row in result.rows()] == ["a", "b", "mean ± sd", "total"]
    assert result.rows()[-1][1] == f"{192 / 248:.4f}"
    assert seen == [(1, 2, "a"), (2, 2, "b")]
    assert any("nearest neighbour: 1 of 2" in note for note in result.notes)
    assert any("No true pixel of sidewalk" in note for note in result.notes)
    written = json.loads((folders / "out" / "metrics.json").read_text())
    assert written["total"] == pytest.approx(result.total)
    assert "car 0.0000 accuracy" in written["settings"]["by class"]
    assert (folders / "out" / "metrics.csv").read_text().splitlines()[-1].startswith("total,0.774")


def test_what_holds_no_labels_is_refused(folders):
    Image.fromarray(np.full((8, 8), 33, np.uint8)).save(folders / "truth" / "b.png")
    with pytest.raises(ScanError, match=r"b\.png: one channel.*33.*train ids"):
        score_labels(folders / "guess", folders / "truth")
    with pytest.raises(ScanError, match="2 channels"):
        train_ids(np.zeros((2, 3, 3)), True)
    (folders / "truth" / "b.png").unlink()
    with pytest.raises(ScanError, match="no reference"):
        score_labels(folders / "guess", folders / "truth")
