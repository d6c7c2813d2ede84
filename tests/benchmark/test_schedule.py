from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from medcycle.benchmark import parse_budget, schedule
from medcycle.benchmark.schedule import fit_to_budget, label, steps_of
from medcycle.config import load_config
from medcycle.data.textures import write_miniature
from medcycle.errors import ConfigError
from medcycle.training.loop import Outcome


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("45", 45),
        ("1.5h", 5400),
        (" 2M ", 120),
    ],
)
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "30 minutes", "-5m", "0", "0s", "1h30", "5x", "1e3", "nan", "m30"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="30m"):
        parse_budget(text)


def test_short_schedules_are_called_so() -> None:
    assert label(266_800, 266_800) == "full schedule: 266,800 steps"
    assert label(300_000, 266_800) == "full schedule: 300,000 steps"
    assert label(1_200, 266_800) == "SHORT SCHEDULE: 1,200 of 266,800 steps"
    # As many pictures in larger batches are the whole schedule; as many steps with fewer pictures each are not.
    assert label(66_700, 266_800, 4, 1) == "full schedule: 66,700 steps (batches of 4, not 1)"
    assert label(66_699, 266_800, 4, 1).startswith("SHORT SCHEDULE: 66,699 of")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_miniature(tmp_path_factory.mktemp("schedule") / "set", 16, 12, 1)


def paths(folder: Path) -> list[str]:
    return [f"domains.{key}.path={json.dumps(str(folder / part))}" for key, part in (("a", "trainA"), ("b", "trainB"))]


def test_the_published_schedule_counts_the_larger_domain(pictures: Path) -> None:
    (pictures / "trainA" / "0000.png").rename(pictures / "0000.png")
    assert steps_of(load_config("horse2zebra.yaml", paths(pictures))) == 200 * 12
    assert steps_of(load_config("horse2zebra.yaml", [*paths(pictures), "train.batch_size=5"])) == 200 * 3
    assert steps_of(load_config("horse2zebra.yaml", [*paths(pictures), "train.samples_per_epoch=7"])) == 200 * 7
    (pictures / "0000.png").rename(pictures / "trainA" / "0000.png")


class Clock:
    """Stands in for training: a second to begin with, then so much a step."""

    def __init__(self, a_step: float, begin: float = 1.0) -> None:
        self.a_step, self.begin, self.calls = a_step, begin, []

    def __call__(self, config, run: Path, **_: object) -> Outcome:
        steps = steps_of(config)
        self.calls.append((steps, config))
        run.mkdir(parents=True)
        return Outcome(run, steps, True, self.begin + self.a_step * steps)


def fitted(monkeypatch: pytest.MonkeyPatch, clock: Clock, folder: Path, out: Path, budget: float, *more: str):
    monkeypatch.setattr(schedule, "train", clock)
    overrides = [*paths(folder), *more]
    found = fit_to_budget("horse2zebra.yaml", overrides, budget, out / "calibration", Console(quiet=True))
    assert not (out / "calibration").exists()
    return load_config("horse2zebra.yaml", [*overrides, *found])


@pytest.mark.parametrize("batch", [1, 4])
def test_a_schedule_fits_its_budget(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, tmp_path: Path, batch: int
) -> None:
    clock = Clock(a_step=0.5)
    config = fitted(monkeypatch, clock, pictures, tmp_path, 1000, f"train.batch_size={batch}", "train.epochs=9999")
    whole = sum(1 + 0.5 * steps for steps, _ in clock.calls) + 1 + 0.5 * steps_of(config)
    assert 880 < whole < 1000
    assert config.train.epochs == config.train.decay_epochs == 10  # constant, then falling, as published
    assert 0.5 * config.train.checkpoint_every == pytest.approx(300, rel=0.05)  # seconds
    assert len(clock.calls[0][1].domains.a.path) == 8  # the speed needs no decoding of them all


def test_a_few_steps_are_a_schedule_too(monkeypatch: pytest.MonkeyPatch, pictures: Path, tmp_path: Path) -> None:
    config = fitted(monkeypatch, Clock(a_step=3.0), pictures, tmp_path, 120)
    assert config.train.epochs == config.train.decay_epochs == 1
    assert 10 < steps_of(config) < 40


def test_long_beginnings_are_no_steps(monkeypatch: pytest.MonkeyPatch, pictures: Path, tmp_path: Path) -> None:
    clock = Clock(a_step=0.05, begin=10)
    config = fitted(monkeypatch, clock, pictures, tmp_path, 200)
    whole = sum(10 + 0.05 * steps for steps, _ in clock.calls) + 10 + 0.05 * steps_of(config)
    assert 150 < whole < 200


def test_a_large_budget_changes_nothing(monkeypatch: pytest.MonkeyPatch, pictures: Path, tmp_path: Path) -> None:
    config = fitted(monkeypatch, Clock(a_step=0.01), pictures, tmp_path, 10_000)
    assert config == load_config("horse2zebra.yaml", paths(pictures))


def test_too_small_a_budget_is_refused(monkeypatch: pytest.MonkeyPatch, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"too short.*Give at least \d+ s"):
        fitted(monkeypatch, Clock(a_step=3.0), pictures, tmp_path, 8)
    assert not (tmp_path / "calibration").exists()
