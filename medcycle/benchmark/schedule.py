"""How long is trained: the published schedule, or one that fits a budget of time, and what it must be called."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from medcycle.config import Config, load_config
from medcycle.errors import ConfigError
from medcycle.io import find_scans
from medcycle.training.loop import train

FIRST, GROWTH = 2, 4  # steps of the first measurement, and how much longer each next one is
MEASURING = 0.2  # of the budget: after that, no longer measurement is begun
RESERVE = 0.95  # the rest is for previews and checkpoints
EPOCHS = 10  # of each half of a shortened schedule, so that the learning rate falls in small steps
MINUTES = 5.0  # between two checkpoints of a shortened schedule
FEW_PICTURES = 8  # the speed does not depend on how many there are

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_budget(text: str) -> float:
    """Seconds of "90s", "30m", "2h", "1d", "1h30m" or a plain number of seconds.

    Raises:
        ConfigError: it is none of these, or zero.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip().lower())
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    whole = "".join(number + unit for number, unit in parts) == text.strip().lower()
    if not whole or seconds <= 0 or (len(parts) > 1 and any(not unit for _, unit in parts)):
        raise ConfigError(f"--budget {text!r}: expected a time such as 90s, 30m, 2h, 1h30m, or a number of seconds")
    return seconds


def steps_of(config: Config) -> int:
    """Optimisation steps of a configuration on its pictures."""
    pictures = max(_count(config.domains.a.path), _count(config.domains.b.path))
    samples = config.train.samples_per_epoch or pictures
    return (config.train.epochs + config.train.decay_epochs) * -(-samples // config.train.batch_size)


def label(steps: int, published: int, batch: int = 1, published_batch: int = 1) -> str:
    """What a schedule must be called wherever its figures stand: short when it shows fewer pictures."""
    with_batch = "" if batch == published_batch else f" (batches of {batch}, not {published_batch})"
    if steps * batch < published * published_batch:
        return f"SHORT SCHEDULE: {steps:,} of {published:,} steps{with_batch}"
    return f"full schedule: {steps:,} steps{with_batch}"


def fit_to_budget(
    config_name: str, overrides: Sequence[str], budget: float, folder: Path, console: Console
) -> list[str]:
    """Measure the speed of a step, and shorten the schedule to what fits.

    Args:
        config_name: a shipped configuration.
        overrides: of it, without a schedule.
        budget: seconds of training, this measurement included.
        folder: to measure in; made, and removed afterwards.
        console: where to show progress.

    Returns:
        Overrides that set the schedule: half of it at the full learning rate, half falling, as the published one.

    Raises:
        ConfigError: the budget does not allow for two steps.
    """
    config = load_config(config_name, tuple(overrides))
    few = {key: _first(getattr(config.domains, key).path) for key in ("a", "b")}
    batch = config.train.batch_size

    def seconds(steps: int) -> float:
        shutil.rmtree(folder, ignore_errors=True)
        short = [f"domains.{key}.path={json.dumps(paths)}" for key, paths in few.items()]
        short += ["train.epochs=1", "train.decay_epochs=0", f"train.samples_per_epoch={steps * batch}"]
        outcome = train(load_config(config_name, [*overrides, *short]), folder, console=Console(quiet=True))
        if not outcome.finished:
            raise KeyboardInterrupt
        return outcome.seconds

    # Longer and longer runs, until steps and not what surrounds them (the first step's delays, the last one's report)
    # take the time; what two runs differ in is the steps' alone.
    console.print("measuring the speed of a step", highlight=False)
    counts, times = [FIRST], []
    try:
        times.append(seconds(FIRST))
        while times[-1] <= 2 * times[0] and sum(times) < MEASURING * budget:
            counts.append(GROWTH * counts[-1])
            times.append(seconds(counts[-1]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    a_step = times[-1] / counts[-1]
    if len(times) > 1:
        a_step = max((times[-1] - times[-2]) / (counts[-1] - counts[-2]), a_step / 2)
    around = max(0.0, times[-1] - a_step * counts[-1])
    steps = int(RESERVE * (budget - sum(times) - around) / a_step)
    if steps < 2:
        raise ConfigError(
            f"--budget: {budget:.3g} s are too short: measuring the speed took {sum(times):.1f} s, and a step takes "
            f"about {a_step:.2g} s here. Give at least {10 * sum(times):.0f} s, or a smaller model."
        )
    if steps >= steps_of(config):
        console.print("the whole schedule fits into the budget", highlight=False)
        return []
    epochs = EPOCHS if steps >= 20 * EPOCHS else 1
    often = max(1, round(60 * MINUTES / a_step))
    console.print(f"a step takes {a_step:.3g} s: about {steps:,} of them fit", highlight=False)
    return [
        f"train.epochs={epochs}",
        f"train.decay_epochs={epochs}",
        f"train.samples_per_epoch={steps // (2 * epochs) * batch}",
        f"train.checkpoint_every={min(often, config.train.checkpoint_every)}",
        f"train.preview_every={min(often, config.train.preview_every)}",
    ]


def _paths(where: str | tuple[str, ...]) -> list[Path]:
    patterns = [where] if isinstance(where, str) else where
    return [path for pattern in patterns for path in find_scans(pattern)]


def _count(where: str | tuple[str, ...]) -> int:
    return len(_paths(where))


def _first(where: str | tuple[str, ...]) -> list[str]:
    return [str(path) for path in _paths(where)[:FEW_PICTURES]]
