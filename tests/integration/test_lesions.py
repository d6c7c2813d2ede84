"""The lesion benchmark: oracles get the shares that they must, and it runs from end to end on networks of no size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medcycle.data.lesions import write_lesion_cohort

TINY = (
    *("train.epochs=1", "train.decay_epochs=0", "train.samples_per_epoch=1", "sample.size=[24, 24]"),
    *("model.generator.filters=4", "model.generator.blocks=1", "model.discriminator.filters=4", "train.device=cpu"),
)


@pytest.fixture
def lesions(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root))
    import benchmarks.lesions

    return benchmarks.lesions


def test_oracles_get_their_shares(lesions: Any, tmp_path: Path) -> None:
    scans = write_lesion_cohort(tmp_path, heads=(1, 1, 2), lesions=2, shape=(52, 58, 26), spacing=4.0)
    healthy, ill = scans / "test" / "ct-healthy", scans / "test" / "ct-lesions"
    for folders, kept, invented in (((healthy, ill), 1, 0), ((healthy, healthy), 0, 0), ((ill, ill), 1, 1)):
        found = lesions.measure(scans, dict(zip(("healthy", "lesions"), folders, strict=True)))
        assert found["all"] == {"lesions": 4, "kept": kept, "invented": invented}
        assert found["dark"] == found["bright"] == {"lesions": 2, "kept": kept, "invented": invented}
        assert (found["mae"] > 0) == (folders[1] == healthy)
    assert sum(true < 0 for true, _ in found["contrasts"]) == 2
    assert all(15 < abs(true) < 45 for true, _ in found["contrasts"])


def test_the_benchmark_from_end_to_end(
    lesions: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medcycle: Callable[..., Any]
) -> None:
    small = {"heads": (1, 1, 1), "lesions": 1, "shape": (32, 36, 18), "spacing": 6.0}
    monkeypatch.setattr(lesions, "write_lesion_cohort", lambda folder: write_lesion_cohort(folder, **small))
    monkeypatch.setattr(lesions, "SMALL", [*lesions.SMALL, *TINY])
    monkeypatch.setattr(lesions, "SITUATIONS", {"in MR": lesions.SITUATIONS["in MR"]})
    shown: list[str] = []
    monkeypatch.setattr(lesions, "print", shown.append, raising=False)

    def run(command: list[str], **_: Any) -> None:  # in this process: quicker than in one of its own
        assert command[1:3] == ["-m", "medcycle"]
        ran = medcycle(*command[3:])
        assert ran.code == 0, ran.err

    monkeypatch.setattr(lesions, "subprocess", SimpleNamespace(run=run))
    out = tmp_path / "lesions.json"
    monkeypatch.setattr("sys.argv", ["lesions", "--work", str(tmp_path / "work"), "--out", str(out), "loss.cycle=20"])
    lesions.main()
    kept = json.loads(out.read_text(encoding="utf-8"))["lesions"]
    assert kept["overrides"] == ["loss.cycle=20"]
    assert [(row["model"], row["situation"], row["all"]["lesions"]) for row in kept["runs"]] == [
        ("classic", "in MR", 1),
        ("new", "in MR", 1),
    ]
    for model, weight in (("classic", 10), ("new", 20)):
        config = (tmp_path / "work" / f"{model}-in-MR" / "config.yaml").read_text(encoding="utf-8")
        assert f"cycle: {weight}" in config
        assert "mr-lesions" in config
        assert "ct-healthy" in config
    assert "| classic | in MR | **" in shown[0]
    assert "| new | in MR | **" in shown[0]
