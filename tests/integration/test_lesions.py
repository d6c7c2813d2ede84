"""The lesion benchmark: oracles get the shares that they must, and it runs from end to end on networks of no size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medcycle.data.lesions import write_lesion_cohort
from medcycle.io import read_volume

TINY = (
    *("train.epochs=1", "train.decay_epochs=0", "train.samples_per_epoch=1", "sample.size=[24, 24]"),
    *("model.generator={kind: resnet, filters: 4, blocks: 1}", "model.discriminator.filters=4", "train.device=cpu"),
)


@pytest.fixture
def lesions(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root))
    import benchmarks.lesions

    return benchmarks.lesions


def test_oracles_get_their_shares(lesions: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = write_lesion_cohort(tmp_path, heads=(1, 1, 2), lesions=2, shape=(52, 58, 26), spacing=4.0)
    monkeypatch.setattr(lesions, "PLACES", 2)
    healthy, ill = scans / "test" / "ct-healthy", scans / "test" / "ct-lesions"
    for folders, kept, blobs in (((healthy, ill), 1, 0), ((healthy, healthy), 0, 0), ((ill, ill), 1, 2)):
        found = lesions.measure(scans, dict(zip(("healthy", "lesions"), folders, strict=True)))
        every = found["all"]
        assert (every["lesions"], every["kept"], every["places"], every["blobs"]) == (4, kept, 8, blobs)
        assert found["dark"]["kept"] == found["bright"]["kept"] == kept
        assert found["dark"]["contrast"] == found["bright"]["contrast"] == kept
        assert (found["mae"] > 0) == (folders[1] == healthy)
        if not blobs:
            assert every["invented"] == 0
    # Painted where the benchmark looks, every place is told.
    monkeypatch.setattr(lesions, "add_lesions", lambda tissues, *_, **__: (None, read_numbers(scans, tissues)))
    found = lesions.measure(scans, {"healthy": ill, "lesions": ill})
    assert found["all"]["invented"] == 1
    assert found["dark"]["invented"] == found["bright"]["invented"] == 0.5


def read_numbers(scans: Path, tissues: np.ndarray) -> np.ndarray:
    """Of the head with these tissues."""
    for path in (scans / "test" / "tissues").iterdir():
        if np.array_equal(read_volume(path).array[0], tissues):
            return read_volume(scans / "test" / "numbers" / path.name).array[0]
    raise AssertionError("no such head")


def test_the_benchmark_from_end_to_end(
    lesions: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medcycle: Callable[..., Any]
) -> None:
    import benchmarks.training

    small = {"heads": (1, 1, 1), "lesions": 2, "shape": (36, 40, 20), "spacing": 5.5}
    monkeypatch.setattr(lesions, "write_lesion_cohort", lambda folder: write_lesion_cohort(folder, **small))
    monkeypatch.setattr(lesions, "SMALL", [*lesions.SMALL, *TINY])
    monkeypatch.setattr(lesions, "SITUATIONS", {"in MR": lesions.SITUATIONS["in MR"]})
    shown: list[str] = []
    monkeypatch.setattr(lesions, "print", shown.append, raising=False)

    def run(command: list[str], **_: Any) -> None:  # in this process: quicker than in one of its own
        assert command[1:3] == ["-m", "medcycle"]
        ran = medcycle(*command[3:])
        assert ran.code == 0, ran.err

    monkeypatch.setattr(benchmarks.training, "subprocess", SimpleNamespace(run=run, DEVNULL=None))
    out = tmp_path / "lesions.json"
    both = ["--both", "train.seed=3"]
    monkeypatch.setattr(
        "sys.argv", ["lesions", "--work", str(tmp_path / "work"), "--out", str(out), "loss.cycle=20", *both]
    )
    lesions.main()
    kept = json.loads(out.read_text(encoding="utf-8"))["lesions"]
    assert kept["overrides"] == ["loss.cycle=20"]
    assert [(row["model"], row["situation"], row["all"]["lesions"]) for row in kept["runs"]] == [
        ("classic", "in MR", 2),
        ("new", "in MR", 2),
    ]
    for model, weight in (("classic", 10), ("new", 20)):
        config = (tmp_path / "work" / f"{model}-in-MR" / "config.yaml").read_text(encoding="utf-8")
        assert f"cycle: {weight}" in config
        assert "seed: 3" in config
        assert ("spectral: true" in config) == (model == "new")
        assert "mr-lesions" in config
        assert "ct-healthy" in config
    assert "| classic | in MR | **" in shown[0]
    assert "| new | in MR | **" in shown[0]
