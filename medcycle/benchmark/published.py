"""Figures that others published for CycleGAN, to stand beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BEST_NOT_FINAL = (
    "figures of the best of many tested epochs are not comparable with those of a fixed final epoch, which ours always "
    "are"
)


@dataclass(frozen=True)
class Published:
    """One published result.

    Attributes:
        source: who measured.
        setting: of the identity loss, relative to the cycle loss, where it is told.
        fid: Fréchet Inception distance.
        inception: Inception score.
    """

    source: str
    setting: str
    fid: float
    inception: float | None = None

    @property
    def title(self) -> str:
        """Of its row in a table."""
        return f"{self.source}, {self.setting}" if self.setting else self.source


def _pairs(half: tuple[float, float, float, float], none: tuple[float, float, float, float]) -> tuple[Published, ...]:
    """Four rows of (FID official, FID OpenMMLab, IS official, IS OpenMMLab), with identity loss 0.5 and 0."""
    rows = []
    for setting, (fid, fid_mm, score, score_mm) in (("identity 0.5", half), ("identity 0", none)):
        rows += [Published("official", setting, fid, score), Published("OpenMMLab", setting, fid_mm, score_mm)]
    return tuple(rows)


ROWS: dict[str, tuple[Published, ...]] = {
    "facades": _pairs((123.626, 124.8033, 1.638, 1.792), (119.726, 125.1694, 1.697, 1.905)),
    "summer2winter": _pairs((77.342, 83.7177, 2.762, 2.771), (76.773, 83.1418, 2.750, 2.720)),
    "winter2summer": _pairs((72.631, 72.8025, 3.293, 3.129), (74.239, 73.5001, 3.110, 3.107)),
    "horse2zebra": (
        *_pairs((62.111, 64.5225, 1.375, 1.418), (77.202, 74.7770, 1.584, 1.542)),
        Published("clean-FID, CycleGAN", "", 75.17),
        Published("clean-FID, CUT", "", 43.71),
        Published("clean-FID, FastCUT", "", 72.53),
    ),
    "zebra2horse": _pairs((138.646, 141.1571, 3.186, 3.154), (137.050, 134.3728, 3.047, 3.091)),
}
"""By task: the official checkpoints and OpenMMLab's (https://github.com/open-mmlab/mmgeneration, configs/cyclegan)."""

TASKS: dict[str, tuple[str, str]] = {
    "horse2zebra": ("horse2zebra", "zebra2horse"),
    "summer2winter_yosemite": ("summer2winter", "winter2summer"),
    # A are photographs, B label images; the published figures are of photographs made from labels.
    "facades": ("photo2label", "facades"),
}
"""By data set: the names of its two directions, A to B and B to A."""

PICTURES: dict[str, tuple[int, ...]] = {"horse2zebra": (1067, 1334, 120, 140)}
"""By data set: how many pictures the published ones have in trainA, trainB, testA and testB, where that is known."""

CITYSCAPES = {
    "labels to photographs": (0.52, 0.17, 0.11),
    "photographs to labels": (0.58, 0.22, 0.16),
}
"""FCN scores of CycleGAN on Cityscapes: per-pixel accuracy, per-class accuracy, class IoU (Zhu 2017, tables 2, 3)."""


def tasks_of(name: str, a: str, b: str) -> list[tuple[str, tuple[Published, ...]]]:
    """What the two directions of a data set are called, and what was published of each.

    Args:
        name: of the benchmark; other pictures of the same animals have nothing published.
        a, b: names of its domains.
    """
    if name not in TASKS:
        return [(f"{a}2{b}", ()), (f"{b}2{a}", ())]
    return [(task, ROWS.get(task, ())) for task in TASKS[name]]


def other_pictures(name: str, counts: Sequence[int]) -> list[str]:
    """A sentence if a data set has other numbers of pictures in trainA, trainB, testA and testB than the published."""
    known = PICTURES.get(name, tuple(counts))
    if tuple(counts) == known:
        return []
    have, had = (", ".join(map(str, numbers)) for numbers in (counts, known))
    return [
        f"this {name} has {have} pictures (trainA, trainB, testA, testB), the published one {had}: figures of two sets "
        "are not comparable, and the whole schedule here is not of as many steps"
    ]


def context_of(name: str) -> list[str]:
    """What else was published on a data set, a sentence each."""
    notes = [BEST_NOT_FINAL] if name in TASKS else []
    if name == "cityscapes":
        notes += [
            f"published FCN scores of CycleGAN, {direction}: pixel accuracy {pixel}, class accuracy {per_class}, "
            f"class IoU {iou} (of a segmentation network, not of the distances above)"
            for direction, (pixel, per_class, iou) in CITYSCAPES.items()
        ]
    return notes
