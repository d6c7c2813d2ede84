"""Scores of predicted label pictures against true ones, with the classes and colours of Cityscapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.evaluation.pairing import Pair, find_pairs
from medcycle.evaluation.result import METRICS, Figures, Result, summary, write_result

Progress = Callable[[int, int, str], None]
Labels = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]

CLASSES = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
"""The 19 training classes, in the order of their train ids, and their colours (cityscapesScripts, helpers/labels)."""

VOID = 255
VOID_COLOURS = (
    (0, 0, 0),  # unlabeled, ego vehicle, border, out of region, static
    (111, 74, 0),  # dynamic
    (81, 0, 81),  # ground
    (250, 170, 160),  # parking
    (230, 150, 140),  # rail track
    (180, 165, 180),  # guard rail
    (150, 100, 100),  # bridge
    (150, 120, 90),  # tunnel
    (0, 0, 90),  # caravan
    (0, 0, 110),  # trailer
)
"""Colours of labels that the evaluation leaves out."""

AT_ONCE = 1 << 18  # pixels


def train_ids(picture: npt.NDArray[Any], void: bool, where: str = "picture") -> Labels:
    """The train ids, 0 to 18 or 255 (void), of a label picture.

    Args:
        picture: shape (3, *space), RGB: each pixel gets the class of the nearest colour (least squared difference),
            since neither a generator nor JPEG gives exact ones; or (1, *space), train ids already.
        void: whether a colour may be nearest to a void label: yes for the truth. A prediction is read as a choice
            among the 19 classes.
        where: names the picture in errors.

    Returns:
        Shape (*space).

    Raises:
        ScanError: another number of channels, or a single channel that holds no train ids.
    """
    if picture.shape[0] == 1:
        ids = np.asarray(picture[0])
        if not np.isin(ids, (*range(len(CLASSES)), VOID)).all():
            raise ScanError(
                f"{where}: one channel with values from {ids.min():g} to {ids.max():g}; expected train ids (0 to "
                f"{len(CLASSES) - 1}, 255 for void), or the Cityscapes colours in RGB"
            )
        return ids.astype(np.uint8)
    if picture.shape[0] != 3:
        raise ScanError(f"{where}: {picture.shape[0]} channels; expected RGB colours or one channel of train ids")
    colours = np.array([*CLASSES.values(), *(VOID_COLOURS if void else ())], np.float32)
    ids = np.array([*range(len(CLASSES)), *[VOID] * (len(colours) - len(CLASSES))], np.uint8)
    pixels = picture.reshape(3, -1)
    found = np.empty(pixels.shape[1], np.uint8)
    half = np.square(colours).sum(1) / 2
    for start in range(0, found.size, AT_ONCE):
        part = pixels[:, start : start + AT_ONCE].astype(np.float32)
        # |p - c|^2 is least where c.p - |c|^2 / 2 is largest; whole numbers below 2^24, so float32 is exact.
        found[start : start + AT_ONCE] = ids[np.argmax(part.T @ colours.T - half, axis=1)]
    return found.reshape(picture.shape[1:])


def confusion(prediction: Labels, reference: Labels) -> Counts:
    """Pixels by true class (19 rows) and predicted class (19 columns, and one for void), void truth left out.

    Args:
        prediction: train ids, any shape; another shape than the reference's is brought to it by nearest neighbour.
        reference: train ids.
    """
    if prediction.shape != reference.shape:
        # Pixel centres at halves; whole numbers, so that no rounding error picks another neighbour.
        at = [(2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(reference.shape, prediction.shape, strict=True)]
        prediction = prediction[np.ix_(*at)]
    classes = len(CLASSES)
    counted = reference < classes
    columns = np.minimum(prediction[counted], classes).astype(np.int64)
    pairs = reference[counted].astype(np.int64) * (classes + 1) + columns
    return np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def class_scores(counts: Counts) -> dict[str, tuple[float, float]]:
    """Accuracy and intersection over union of each class, NaN where the class is not there.

    Args:
        counts: from :func:`confusion`, of one picture or the sum of many.

    Returns:
        Class -> (share of its true pixels that were found; TP / (TP + FP + FN)).
    """
    right = np.diag(counts).astype(np.float64)
    true, said = counts.sum(1), counts[:, : len(CLASSES)].sum(0)
    with np.errstate(invalid="ignore"):
        accuracy, union = right / true, right / (true + said - right)
    return {name: (float(accuracy[i]), float(union[i])) for i, name in enumerate(CLASSES)}


def label_scores(counts: Counts) -> Figures:
    """The three figures of Zhu 2017, section 5.1.1.

    "pixel_accuracy", "class_accuracy" and "class_iou", the latter two means over classes that are there (for the IoU:
    in the truth or in the prediction). The original's script counts an absent class as 0, which is the same for its
    500 test pictures, where every class appears.
    """
    scores = np.array(list(class_scores(counts).values()))
    total = counts.sum()

    def mean(values: npt.NDArray[np.float64]) -> float:
        there = values[np.isfinite(values)]
        return float(there.mean()) if there.size else math.nan

    return {
        "pixel_accuracy": float(np.trace(counts) / total) if total else math.nan,
        "class_accuracy": mean(scores[:, 0]),
        "class_iou": mean(scores[:, 1]),
    }


def score_labels(
    predictions: str | Path,
    references: str | Path,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Score predicted label pictures against those of the same names in another folder.

    Args:
        predictions: a folder, pattern or CSV of pictures: colours or train ids.
        references: the truth, likewise.
        out: folder for metrics.csv and metrics.json.
        progress: called with (cases done, cases, name) after each case.

    Raises:
        ScanError: unreadable or unmatched files, no label pictures, a folder that cannot be written.
    """
    pairs = find_pairs(Path(predictions), Path(references), None, None)
    cases: dict[str, Figures] = {}
    total = np.zeros((len(CLASSES), len(CLASSES) + 1), np.int64)
    resized = []
    for done, pair in enumerate(pairs, 1):
        counts, same = _count(pair)
        cases[pair.name] = label_scores(counts)
        total += counts
        if not same:
            resized.append(pair.name)
        if progress is not None:
            progress(done, len(pairs), pair.name)
    mean, std = summary(list(cases.values()))
    by_class = class_scores(total)
    absent = [name for name, (accuracy, _) in by_class.items() if math.isnan(accuracy)]
    notes = [f"Resized to the reference by nearest neighbour: {len(resized)} of {len(pairs)}."] if resized else []
    if absent:
        notes.append(f"No true pixel of {', '.join(absent)}: left out of the per-class accuracy.")
    result = Result(
        metrics="cityscapes",
        cases=cases,
        mean=mean,
        std=std,
        total=label_scores(total),
        unit="",
        settings={
            "predictions": str(predictions),
            "references": str(references),
            "by class": "; ".join(f"{name} {a:.4f} accuracy, {u:.4f} IoU" for name, (a, u) in by_class.items()),
            "definition": METRICS["cityscapes"],
        },
        notes=notes,
    )
    return result if out is None else write_result(result, Path(out))


def _count(pair: Pair) -> tuple[Counts, bool]:
    """The confusion of one case, and whether both pictures had one size."""
    from medcycle.io import read_volume

    ids = []
    for path, void in ((pair.prediction, False), (pair.reference, True)):
        volume = read_volume(path)
        if len(volume.space) != 2:
            raise ScanError(f"{path}: {' x '.join(map(str, volume.space))} voxels; expected a label picture")
        ids.append(train_ids(volume.array, void, str(path)))
    return confusion(*ids), ids[0].shape == ids[1].shape
