"""Every alarm is caused once and found; a healthy run is silent."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from medcycle.config import Config, parse_config
from medcycle.data import write_cohort
from medcycle.errors import TrainingError
from medcycle.training.loop import train
from medcycle.training.watch import KINDS, PATIENCE, Watch, _guessing

QUIET = Console(quiet=True)


def healthy_row(**changes: float) -> dict[str, float]:
    figures = {"cycle_correlation": 0.9, "identity_correlation": 0.9, "polarity": 0.7, "mind_ratio": 0.6}
    figures |= {"displacement": 1.0, "variety": 0.9, "spread": 0.3, "cycle": 0.05}
    row = {f"seen_{name}_{domain}": value for name, value in figures.items() for domain in "ab"}
    return {"discriminator_a": 0.2, "discriminator_b": 0.15} | row | {f"seen_{k}": v for k, v in changes.items()}


@pytest.mark.parametrize(
    ("key", "changes", "words"),
    [
        ("inversion", {"cycle_correlation_a": -0.2}, "mr made into ct and back is a negative"),
        ("inversion", {"identity_correlation_b": -0.5}, r"the generator of ct makes a negative of ct .*-0\.50"),
        ("inversion", {"polarity_a": -0.3}, "in mr made from ct air is brighter than the body"),
        ("displacement", {"displacement_b": 5.6}, "edges of ct lie 6 voxels beside those of its mr"),
        ("displacement", {"mind_ratio_a": 0.97}, "mr agrees with the ct it is made from hardly better"),
        ("discriminator", {"spread_a": 1e-5}, "that of mr gives one answer to all images"),
        ("generator", {"variety_b": 0.01}, r"whatever the mr, the ct is the same .*1\.0%"),
        ("not_finite", {"cycle_b": math.nan}, "not finite: cycle_b"),
    ],
)
def test_an_alarm_is_told_once_when_it_begins_and_when_it_ends(key: str, changes: dict[str, float], words: str) -> None:
    said: list[str] = []
    watch = Watch({"a": "mr", "b": "ct"}, "seen_", "lsgan", said.append)
    kind = next(kind for kind in KINDS if kind.key == key)
    for step in range(PATIENCE * (kind.patience > 1)):
        assert set(watch.look(step, healthy_row(**changes)).values()) == {0}  # networks as they were drawn
    for step in range(501, 500 + kind.patience):
        assert set(watch.look(step, healthy_row(**changes)).values()) == {0}
    assert set(watch.look(510, healthy_row()).values()) == {0}  # it was a moment's
    found = [watch.look(520 + n, healthy_row(**changes)) for n in range(kind.patience + 2)]
    assert [row[f"alarm_{key}"] for row in found] == [*[0] * (kind.patience - 1), 1, 1, 1]
    assert all(value == 0 for row in found for name, value in row.items() if name != f"alarm_{key}")
    assert watch.look(550, {"discriminator_a": 0.2}) == {}  # a row between two checkpoints
    assert watch.look(560, healthy_row())[f"alarm_{key}"] == 0
    begin = 520 + kind.patience - 1
    assert len(said) == 2
    assert said[0].startswith(f"ALARM  Step {begin}: {kind.title}: ")
    assert said[0].endswith(kind.advice)
    assert re.search(words, said[0])
    assert said[1] == f"Step 560: {kind.title} has ended; it began at step {begin}."
    assert [(e.begin, e.end) for e in watch.episodes] == [(begin, 560)]


def test_what_the_training_leaves_is_judged_by_its_last_row_alone() -> None:
    said: list[str] = []
    watch = Watch({"a": "mr", "b": "ct"}, "seen_", "lsgan", said.append)
    assert watch.look(1000, healthy_row(polarity_a=-0.3))["alarm_inversion"] == 0
    assert watch.look(2000, healthy_row(), last=True)["alarm_inversion"] == 0
    assert watch.look(2000, healthy_row(polarity_a=-0.3), last=True)["alarm_inversion"] == 1
    assert len(said) == 1
    again = Watch({"a": "mr", "b": "ct"}, "seen_", "lsgan", said.append)
    row = healthy_row(polarity_a=-0.3)
    again.replay([(2000, row | watch.look(2000, row))])  # a run that goes on knows it
    assert [(e.kind.key, e.begin, e.end) for e in again.episodes] == [("inversion", 2000, None)]
    assert again.look(3000, healthy_row())["alarm_inversion"] == 0
    assert said[-1] == "Step 3000: contrast inversion has ended; it began at step 2000."
    early = Watch({"a": "mr", "b": "ct"}, "seen_", "lsgan", said.append)
    assert early.look(400, healthy_row(polarity_a=-0.3), last=True)["alarm_inversion"] == 0


@pytest.mark.parametrize(("loss", "guess"), [("lsgan", 0.25), ("bce", math.log(2)), ("hinge", 2.0), ("wgan-gp", 0.0)])
def test_a_discriminator_is_judged_by_what_guessing_costs(loss: Any, guess: float) -> None:
    assert _guessing(loss) == pytest.approx(guess)
    said: list[str] = []
    watch = Watch({"a": "mr", "b": "ct"}, "seen_", loss, said.append)
    for step in range(2 * PATIENCE):
        watch.look(10 * step + 101005, {"discriminator_a": 0.0005 * guess, "discriminator_b": 0.1})
        watch.look(10 * step + 1010, healthy_row() | {"discriminator_a": 0.0015 * guess, "discriminator_b": 0.1})
    assert len(said) == (loss != "wgan-gp")
    assert loss == "wgan-gp" or "that of mr is never wrong (its loss is 0.10% of" in said[0]


# --- Caused in a training ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantom heads, 32 x 32 x 24 voxels."""
    return write_cohort(tmp_path_factory.mktemp("heads"), heads=(2, 2, 1), shape=(32, 32, 24), spacing=7.2)


def configure(heads: Path, **settings: Any) -> Config:
    schedule = {"epochs": 1, "decay_epochs": 0, "samples_per_epoch": 4, "log_every": 1, "checkpoint_every": 1}
    return parse_config(
        {
            "domains": {
                "a": {"name": "mr", "path": str(heads / "train" / "mr"), "modality": "mr"},
                "b": {"name": "ct", "path": str(heads / "train" / "ct"), "modality": "ct"},
            },
            "prepare": {"cache": str(heads / "cache"), "workers": 1, "invert": True},
            "sample": {"size": [32, 32], "match_position": True},
            "model": {
                "generator": {"filters": 8, "blocks": 1, "upsample": "resize"},
                "discriminator": {"filters": 8, "layers": 1},
            },
            "train": schedule | {"preview_every": 1000, "precision": "fp32", "validation": 0, "seed": 1} | settings,
        }
    )


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alarms from the first step on."""
    import medcycle.training.watch as watch

    monkeypatch.setattr(watch, "GRACE", 0)


def run_and_listen(config: Config, run: Path, **options: Any) -> tuple[str, list[dict[str, str]], str]:
    """What the console said, metrics.csv, report.html."""
    console = Console(record=True, file=io.StringIO(), width=1000)
    train(config, run, console=console, **options)
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    return console.export_text(), rows, (run / "report.html").read_text()


class Changing(nn.Module):
    """A generator that makes always the same change; what it learns is next to nothing."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change, self.gain = change, nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.change(x) * self.gain.clamp(0.99, 1)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        (lambda x: -x, "inversion", "contrast inversion: .*negative of mr.*air is brighter than the body"),
        (lambda x: torch.roll(x, 6, 2), "displacement", "displaced edges: edges of ct lie 6 voxels beside"),
        (lambda x: x.flip(3), "displacement", "displaced edges: "),
        (lambda x: x * 0 + 0.2, "generator", "generator collapse: whatever the mr, the ct is the same"),
        (lambda x: x * 0 + x[:, :, :1, :1], "generator", "generator collapse: "),
    ],
)
def test_a_generator_that_goes_wrong_raises_its_alarm(
    heads: Path, tmp_path: Path, change: Any, key: str, words: str
) -> None:
    said, rows, page = run_and_listen(
        configure(heads), tmp_path / "run", make_generator=lambda *channels: Changing(change)
    )
    assert re.search(f"ALARM  Step {PATIENCE}: {words}", said), said
    assert [row[f"alarm_{key}"] for row in rows] == ["0", "0", "1", "1"]
    title = next(kind.title for kind in KINDS if kind.key == key)
    assert f"<b>{title}</b>, from step {PATIENCE} on: " in page


@pytest.mark.usefixtures("at_once")
def test_an_alarm_of_the_last_checkpoint_is_told_and_stays_when_the_run_is_resumed(heads: Path, tmp_path: Path) -> None:
    made: Any = {"make_generator": lambda *channels: Changing(lambda x: -x)}
    config, run = configure(heads, checkpoint_every=2, best="balance"), tmp_path / "run"
    said, rows, page = run_and_listen(config, run, **made)
    assert "ALARM  Step 4: contrast inversion: " in said
    assert [row["alarm_inversion"] for row in rows if row["alarm_inversion"]] == ["0", "1"]
    assert "<b>contrast inversion</b>, from step 4 on: " in page
    assert "**Alarm, not over at the end: contrast inversion" in (run / "MODEL_CARD.md").read_text()
    of_best = (run / "best" / "MODEL_CARD.md").read_text()
    assert ("**Alarm, not over" in of_best) == ("At step 4, " in of_best)
    again, _, page = run_and_listen(config, run, resume=True, **made)
    assert "ALARM" not in again
    assert "<b>contrast inversion</b>, from step 4 on: " in page


class Judge(nn.Module):
    """A discriminator that has stopped learning: it knows air (exactly -1), which no generator makes, or nothing."""

    def __init__(self, knows: bool) -> None:
        super().__init__()
        self.knows, self.weight = knows, nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        real = (x == -1).flatten(1).any(1, keepdim=True).float()
        return (real if self.knows else real * 0 + 0.5) + 0 * self.weight


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("knows", "words"), [(True, "ct is never wrong"), (False, "ct gives one answer to all")])
def test_a_discriminator_that_stopped_learning_raises_its_alarm(
    heads: Path, tmp_path: Path, knows: bool, words: str
) -> None:
    said, rows, page = run_and_listen(
        configure(heads, pool=0), tmp_path / "run", make_discriminator=lambda channels: Judge(knows)
    )
    assert re.search(rf"ALARM  Step {PATIENCE}: discriminator collapse: .*{words}", said)
    assert [row["alarm_discriminator"] for row in rows] == ["0", "0", "1", "1"]
    assert "<b>discriminator collapse</b>" in page


def test_numbers_that_break_have_the_same_words(heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import medcycle.training.graph as graph

    real_step = graph.training_step

    def poisoned(gan: Any, *arguments: Any) -> Any:
        values = real_step(gan, *arguments)
        if gan.step == 2:
            gan.generator_parameters[0].data.fill_(float("nan"))
        return values

    monkeypatch.setattr(graph, "training_step", poisoned)
    with pytest.raises(TrainingError, match=r"^Step 2: not finite: weights\. .*diagnosis-step-00000002.*--resume"):
        train(configure(heads), tmp_path / "run", console=QUIET)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert [row["alarm_not_finite"] for row in rows] == ["0", "1"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<b>not finite</b>, from step 2 on: weights. The checkpoints before it are sound" in page
    monkeypatch.undo()
    train(configure(heads), tmp_path / "run", resume=True, console=QUIET)
    assert "not finite" not in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.usefixtures("at_once")
def test_a_run_that_goes_on_knows_the_alarms_of_before(heads: Path, tmp_path: Path) -> None:
    def negative(*channels: int) -> nn.Module:
        return Changing(lambda x: -x)

    run = tmp_path / "run"
    said, _, _ = run_and_listen(configure(heads), run, make_generator=negative)
    assert "ALARM" in said
    said, rows, page = run_and_listen(configure(heads, epochs=2), run, make_generator=negative, resume=True)
    assert "ALARM" not in said  # it has been told
    assert [row["alarm_inversion"] for row in rows] == ["0", "0", *["1"] * 6]
    assert page.count("<b>contrast inversion</b>, from step 3 on") == 1


def test_a_healthy_run_is_silent(heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import medcycle.training.watch as watch

    monkeypatch.setattr(watch, "GRACE", 60)  # it learns five times as fast as usual
    config = configure(heads, samples_per_epoch=160, learning_rate=1e-3, log_every=10, checkpoint_every=10)
    said, rows, page = run_and_listen(config, tmp_path / "run")
    assert "ALARM" not in said, said
    assert len([row for row in rows if row["seen_cycle_a"]]) == 16
    assert {row[f"alarm_{kind.key}"] for row in rows for kind in KINDS} == {"0"}
    assert "<h2>Alarms</h2>" in page
    assert float(rows[-1]["seen_cycle_correlation_a"]) > 0.5  # and it has learned
