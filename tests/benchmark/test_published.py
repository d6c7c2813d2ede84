"""The published figures, against the table in the authors' and OpenMMLab's documents, typed in a second time."""

from __future__ import annotations

import pytest

from medcycle.benchmark.published import CITYSCAPES, ROWS, context_of, other_pictures, tasks_of

# task, identity loss: FID official, FID OpenMMLab, IS official, IS OpenMMLab
TABLE = {
    ("facades", "0.5"): (123.626, 124.8033, 1.638, 1.792),
    ("facades", "0"): (119.726, 125.1694, 1.697, 1.905),
    ("summer2winter", "0.5"): (77.342, 83.7177, 2.762, 2.771),
    ("summer2winter", "0"): (76.773, 83.1418, 2.750, 2.720),
    ("winter2summer", "0.5"): (72.631, 72.8025, 3.293, 3.129),
    ("winter2summer", "0"): (74.239, 73.5001, 3.110, 3.107),
    ("horse2zebra", "0.5"): (62.111, 64.5225, 1.375, 1.418),
    ("horse2zebra", "0"): (77.202, 74.7770, 1.584, 1.542),
    ("zebra2horse", "0.5"): (138.646, 141.1571, 3.186, 3.154),
    ("zebra2horse", "0"): (137.050, 134.3728, 3.047, 3.091),
}


@pytest.mark.parametrize(("task", "loss"), list(TABLE))
def test_every_row_is_the_published_one(task: str, loss: str) -> None:
    rows = {row.source: row for row in ROWS[task] if row.setting == f"identity {loss}"}
    official, other = rows["official"], rows["OpenMMLab"]
    assert (official.fid, other.fid, official.inception, other.inception) == TABLE[task, loss]


def test_clean_fid_stands_beside_horse2zebra_alone() -> None:
    clean = {row.title: row.fid for row in ROWS["horse2zebra"] if row.source.startswith("clean-FID")}
    assert clean == {"clean-FID, CycleGAN": 75.17, "clean-FID, CUT": 43.71, "clean-FID, FastCUT": 72.53}
    assert all(row.inception is not None for task in ROWS for row in ROWS[task] if "clean" not in row.source)
    assert [len(rows) for rows in ROWS.values()] == [4, 4, 4, 7, 4]


def test_directions_have_the_figures_of_their_own_task() -> None:
    assert [task for task, _ in tasks_of("horse2zebra", "horse", "zebra")] == ["horse2zebra", "zebra2horse"]
    assert [task for task, _ in tasks_of("summer2winter_yosemite", "s", "w")] == ["summer2winter", "winter2summer"]
    # The published facades are photographs (domain A) made from labels (domain B).
    (_, to_labels), (_, to_photographs) = tasks_of("facades", "photo", "label")
    assert not to_labels
    assert to_photographs[0].fid == 123.626


def test_other_pictures_of_horses_have_nothing_published() -> None:
    assert tasks_of("my/horse2zebra", "horse", "zebra") == [("horse2zebra", ()), ("zebra2horse", ())]
    assert context_of("my/horse2zebra") == []


def test_context() -> None:
    assert "final epoch" in context_of("horse2zebra")[0]
    notes = " ".join(context_of("cityscapes"))
    for figures in CITYSCAPES.values():
        assert all(str(figure) in notes for figure in figures)
    assert CITYSCAPES["labels to photographs"] == (0.52, 0.17, 0.11)
    assert CITYSCAPES["photographs to labels"] == (0.58, 0.22, 0.16)


def test_a_set_of_other_pictures_is_told() -> None:
    assert other_pictures("horse2zebra", [1067, 1334, 120, 140]) == []
    assert other_pictures("maps", [1, 2, 3, 4]) == []
    (note,) = other_pictures("horse2zebra", [1067, 1334, 120, 139])
    assert "has 1067, 1334, 120, 139 pictures" in note
    assert "the published one 1067, 1334, 120, 140" in note
