"""What a benchmark remembers between two calls (plan.json), and the facts of its result."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

import medcycle
from medcycle.benchmark.schedule import fit_to_budget
from medcycle.config import Config
from medcycle.errors import ConfigError
from medcycle.evaluation.features import Extractor
from medcycle.io.files import write_file
from medcycle.training.checkpoint import checkpoints

PLAN = "plan.json"
SCHEDULE = ("train.epochs", "train.decay_epochs", "train.samples_per_epoch")


@dataclass
class Plan:
    """The benchmark that a folder holds, its schedule once that is settled, and its sessions of training.

    Attributes:
        out: the folder.
        name: of the benchmark.
        budget: seconds of training, or None for the whole schedule.
        schedule: overrides that shorten the schedule; None as long as the speed has not been measured.
        sessions: steps "from" and "to" of each call's training, and its "seconds".
    """

    out: Path
    name: str
    budget: float | None
    schedule: list[str] | None = None
    sessions: list[dict[str, Any]] = field(default_factory=list)

    def save(self) -> None:
        """Write plan.json."""
        values = {"benchmark": self.name, "budget": self.budget, "schedule": self.schedule, "sessions": self.sessions}
        write_file(self.out / PLAN, json.dumps(values, indent=2) + "\n")

    def fit(self, config: str, overrides: Sequence[str], console: Console) -> list[str]:
        """The overrides of the schedule, settled once: a resumed training has what it began with."""
        if self.schedule is None:
            self.schedule = (
                fit_to_budget(config, overrides, self.budget, self.out / "calibration", console) if self.budget else []
            )
            self.save()
        return self.schedule

    def trained(self) -> int:
        """The step of the newest checkpoint."""
        found = checkpoints(self.out / "run" / "checkpoints")
        return int(found[-1].stem.rpartition("-")[2]) if found else 0

    def add_session(self, start: int, end: int, seconds: float) -> None:
        """Remember what one call trained."""
        if end > start:
            self.sessions.append({"from": start, "to": end, "seconds": round(seconds, 3)})
            self.save()

    @property
    def seconds(self) -> float:
        """Of training, in the sessions that ended or were stopped (not killed)."""
        return float(sum(session["seconds"] for session in self.sessions))

    @property
    def steps_per_second(self) -> float | None:
        """In those sessions."""
        steps = sum(session["to"] - session["from"] for session in self.sessions)
        return steps / self.seconds if self.seconds and steps else None


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def open_plan(out: Path, name: str, budget: float | None, overrides: Sequence[str]) -> Plan:
    """The plan of the folder, or a new one.

    Raises:
        ConfigError: the folder holds something else, or this benchmark with another budget; a budget beside a
            schedule of one's own.
    """
    clash = [text for text in overrides if text.partition("=")[0].strip() in SCHEDULE]
    if budget is not None and clash:
        raise ConfigError(f"--budget sets the schedule, and so does {clash[0]!r}; give one of them")
    if budget is not None and not budget > 0:
        raise ConfigError(f"budget {budget}: expected seconds above 0")
    path = out / PLAN
    if not path.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(
                f"{out}: holds something else than a benchmark ({PLAN} is not there). Name another --out."
            )
        return Plan(out, name, budget)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        plan = Plan(out, values["benchmark"], values["budget"], values["schedule"], values["sessions"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Name another --out, or remove {out}.") from None
    if plan.name != name:
        raise ConfigError(f"{out}: holds the benchmark {plan.name}, not {name}. Name another --out.")
    if plan.schedule is None:  # nothing was begun: the first budget may have been too short
        plan.budget = budget
    if plan.budget != budget:
        had = "no --budget" if plan.budget is None else f"--budget {plan.budget:.0f}s"
        raise ConfigError(f"{out}: was begun with {had}. Go on with that, or name another --out.")
    return plan


def facts_of(
    plan: Plan, label: str, config: Config, device: str, extractor: Extractor, steps: int, full: int
) -> dict[str, Any]:
    """All of benchmark.json but the figures."""
    import torch

    from medcycle.device import resolve_precision

    speed = plan.steps_per_second
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{platform.machine()} CPU"
    return {
        "benchmark": plan.name,
        "schedule": label,
        "epoch": "final",
        "training": {
            "steps": steps,
            "full_steps": full,
            "budget_seconds": plan.budget,
            "seconds": round(plan.seconds, 1),
            "steps_per_second": None if speed is None else round(speed, 3),
            "speed": "speed unknown" if speed is None else f"{_time(plan.seconds)}, {speed:.3g} steps/s",
            "precision": resolve_precision(config.train.precision, torch.device(device)),
            "device": device,
        },
        "config": config.model_dump(mode="json", exclude={"prepare": {"cache"}}),
        "features": {"network": extractor.name, "is_inception": extractor.is_inception},
        "machine": {"name": name, "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "medcycle": medcycle.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
