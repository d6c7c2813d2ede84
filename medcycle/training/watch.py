"""Alarms: what is wrong with a training, told when it begins and when it ends, and the stop when numbers break.

An alarm is judged at every checkpoint, from the signs (:mod:`medcycle.training.signs`) and the losses of the steps
before; it begins when PATIENCE judgements in a row find it, or the training's last one, none of them in the first GRACE
steps, when networks are still as they were drawn. As it depends on the rows of metrics.csv, a run that goes on knows
what the one before it saw.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medcycle.errors import TrainingError
from medcycle.io.files import write_file
from medcycle.training.losses import Adversarial, discriminator_loss
from medcycle.training.runtime import Processes
from medcycle.training.step import CycleGAN

PATIENCE = 3  # judgements in a row
GRACE = 500  # steps
DISPLACED = 2.0  # voxels
UNMATCHED = 0.95  # of the MIND distance to another sample's input
PERFECT = 0.01  # of the loss of a discriminator that guesses
CONSTANT = 1e-3  # standard deviation of the discriminator's answers; real and fake are to differ by about 1
SAME = 0.05  # of the variety of real samples

Names = Mapping[str, str]
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Kind:
    """What can be wrong: its key in metrics.csv (`alarm_KEY`), its title, how it is found, and what to do.

    `find` takes the figures and the domains' names and gives what was found, or an empty text.
    """

    key: str
    title: str
    find: Callable[[Figures, Names], str]
    advice: str
    patience: int = PATIENCE


@dataclass
class Episode:
    """An alarm from the step it began at to the one it ended at; None while it lasts."""

    kind: Kind
    found: str
    begin: int
    end: int | None = None

    def sentence(self) -> str:
        """What the console says when it begins."""
        return f"Step {self.begin}: {self.kind.title}: {self.found}. {self.kind.advice}"


def _inversion(figures: Figures, names: Names) -> str:
    found = []
    for source, target in (("a", "b"), ("b", "a")):
        back, same = (figures.get(f"{name}_correlation_{source}", 1.0) for name in ("cycle", "identity"))
        bright = figures.get(f"polarity_{target}", 1.0)
        if back < 0:
            found.append(f"{names[source]} made into {names[target]} and back is a negative (correlation {back:.2f})")
        if same < 0:
            found.append(
                f"the generator of {names[source]} makes a negative of {names[source]} (correlation {same:.2f})"
            )
        if bright < 0:
            found.append(
                f"in {names[target]} made from {names[source]} air is brighter than the body (by {-bright:.2f} of 2)"
            )
    return "; ".join(found)


def _displacement(figures: Figures, names: Names) -> str:
    found = []
    for source, target in (("a", "b"), ("b", "a")):
        if figures.get(f"variety_{target}", 1.0) < SAME:
            continue  # an output that is always the same has no place of its own
        shift, ratio = figures.get(f"displacement_{target}", 0.0), figures.get(f"mind_ratio_{target}", 0.0)
        if shift >= DISPLACED:
            found.append(f"edges of {names[target]} lie {shift:.0f} voxels beside those of its {names[source]}")
        if ratio >= UNMATCHED:
            found.append(
                f"{names[target]} agrees with the {names[source]} it is made from hardly better than with another one "
                f"(MIND {ratio:.2f} of that)"
            )
    return "; ".join(found)


def _discriminator(figures: Figures, names: Names) -> str:
    found = []
    for domain in "ab":
        loss, spread = figures.get(f"guess_{domain}", 1.0), figures.get(f"spread_{domain}", 1.0)
        if loss < PERFECT:
            found.append(f"that of {names[domain]} is never wrong (its loss is {loss:.2%} of what guessing costs)")
        if spread < CONSTANT:
            found.append(f"that of {names[domain]} gives one answer to all images (they spread by {spread:.1g})")
    return "; ".join(found)


def _generator(figures: Figures, names: Names) -> str:
    found = []
    for source, target in (("a", "b"), ("b", "a")):
        variety = figures.get(f"variety_{target}", 1.0)
        if variety < SAME:
            found.append(
                f"whatever the {names[source]}, the {names[target]} is the same (it varies {variety:.1%} as much as "
                "real ones)"
            )
    return "; ".join(found)


def _not_finite(figures: Figures, names: Names) -> str:
    return ", ".join(name for name, value in figures.items() if not math.isfinite(value))


NOT_FINITE = Kind(
    "not_finite",
    "not finite",
    _not_finite,
    "The checkpoints before it are sound: go on with --resume and train.precision=fp32 or a lower train.learning_rate, "
    "and look for odd scans with `medcycle inspect`.",
    patience=1,
)
KINDS = (
    Kind(
        "inversion",
        "contrast inversion",
        _inversion,
        "Dark and bright have changed places, and a training seldom finds back: begin again with another train.seed, "
        "loss.identity of at least 0.5 (without loss.contrast) and, for MR and CT, prepare.invert=true.",
    ),
    Kind(
        "displacement",
        "displaced edges",
        _displacement,
        "Anatomy is not where it was: do not use these images. Begin again with loss.structure.mind or "
        "gradient_correlation above 0, and see that both domains show the same part of the body "
        "(sample.match_position).",
    ),
    Kind(
        "discriminator",
        "discriminator collapse",
        _discriminator,
        "The generators learn nothing from it. One that is never wrong: fewer model.discriminator.filters or layers, "
        "more sample.augment, or find what gives the fakes away (a border, a table, a preparation that differs). One "
        "that gives one answer: a lower train.learning_rate, or another loss.adversarial.",
    ),
    Kind(
        "generator",
        "generator collapse",
        _generator,
        "Begin again with another train.seed, a lower train.learning_rate or a higher loss.cycle.",
    ),
    NOT_FINITE,
)


class Watch:
    """Looks at every row of metrics.csv and keeps the alarms.

    Args:
        names: of the domains "a" and "b".
        prefix: of the signs' columns.
        adversarial: kind of the adversarial loss.
        tell: called with a line when an alarm begins or ends.
    """

    def __init__(
        self, names: Names, prefix: str, adversarial: Adversarial, tell: Callable[[str], None] = lambda text: None
    ) -> None:
        self.names, self.prefix, self.tell = names, prefix, tell
        self.episodes: list[Episode] = []
        self._guessing = _guessing(adversarial)
        self._losses: dict[str, list[float]] = {"a": [], "b": []}
        self._streaks = dict.fromkeys((kind.key for kind in KINDS), 0)

    def look(self, step: int, row: Figures, *, last: bool = False) -> dict[str, float]:
        """The columns `alarm_KEY`, 1 while the alarm lasts and 0 else; none for a row without signs.

        Args:
            step: of the row.
            row: of metrics.csv; an alarm that it has already is one.
            last: the training ends here, and what it leaves is judged by this row alone.
        """
        for domain, losses in self._losses.items():
            losses += [row[name] for name in (f"discriminator_{domain}",) if name in row]
        figures = {name.removeprefix(self.prefix): row[name] for name in row if name.startswith(self.prefix)}
        if not figures:
            return {}
        for domain, losses in self._losses.items():
            if losses and self._guessing:
                figures[f"guess_{domain}"] = float(np.mean(losses)) / self._guessing
            losses.clear()
        columns = {}
        for kind in KINDS:
            column = f"alarm_{kind.key}"
            columns[column] = self._judge(kind, step, kind.find(figures, self.names), last or row.get(column) == 1)
        return columns

    def replay(self, rows: Iterable[tuple[int, Figures]]) -> None:
        """Look at the rows of the sessions before, and say nothing."""
        tell, self.tell = self.tell, lambda text: None
        for step, row in rows:
            self.look(step, row)
        self.tell = tell

    def stop(self, step: int, found: str) -> dict[str, float]:
        """Numbers have broken and the training ends; the columns for the last row."""
        self.episodes.append(Episode(NOT_FINITE, found, step))
        return {f"alarm_{NOT_FINITE.key}": 1.0}

    def _judge(self, kind: Kind, step: int, found: str, alone: bool) -> float:
        """Begin or end an episode; `alone`: this judgement needs no others before it."""
        now = next((e for e in reversed(self.episodes) if e.kind is kind and e.end is None), None)
        counts = found and (step > GRACE or kind.patience == 1)
        self._streaks[kind.key] = self._streaks[kind.key] + 1 if counts else 0
        if now is None and self._streaks[kind.key] >= (1 if alone else kind.patience):
            now = Episode(kind, found, step)
            self.episodes.append(now)
            self.tell(f"ALARM  {now.sentence()}")
        elif now is not None and not found:
            now.end = step
            self.tell(f"Step {step}: {kind.title} has ended; it began at step {now.begin}.")
        return float(now is not None and now.end is None)


def _guessing(kind: Adversarial) -> float:
    """The loss of a discriminator that gives the best single answer to all; 0 where that says nothing (wgan-gp)."""
    if kind == "wgan-gp":
        return 0.0
    answer = torch.tensor({"lsgan": 0.5, "bce": 0.0, "hinge": 0.0}[kind])
    return float(discriminator_loss(kind, answer, answer))


class NotFiniteError(TrainingError):
    """A loss or a weight is NaN or infinite; `found` names which."""

    def __init__(self, step: int, found: str, folder: Path) -> None:
        super().__init__(
            f"Step {step}: {NOT_FINITE.title}: {found}. {folder} holds the losses, the samples and which weights are "
            f"broken; no checkpoint was written after it. {NOT_FINITE.advice}"
        )
        self.found = found


def check_finite(
    sums: dict[str, Tensor],
    values: dict[str, Tensor],
    gan: CycleGAN,
    real_a: Tensor,
    real_b: Tensor,
    run: Path,
    process: Processes,
    *,
    weights: bool,
) -> None:
    """Stop, with a diagnosis, when a loss since the last row, or (if asked) a weight, is NaN or infinite.

    Raises:
        NotFiniteError: in all processes, when it is so in any.
    """
    finite = bool(torch.isfinite(torch.stack(list(sums.values()))).all())
    if not process.any(not finite or (weights and bool(_sick_weights(gan))), gan.device):
        return
    folder = run / f"diagnosis-step-{gan.step:08d}-rank{process.rank}"
    now = {name: float(value) for name, value in values.items()}
    sick = _sick_weights(gan)
    samples = {"real_a": real_a.float().cpu().numpy(), "real_b": real_b.float().cpu().numpy()}
    facts = {
        "step": gan.step,
        "losses": {name: value if np.isfinite(value) else str(value) for name, value in now.items()},
        "precision": gan.precision,
        "weights not finite": sick,
        "samples": {
            name: {"min": float(x.min()), "max": float(x.max()), "std": float(x.std())} for name, x in samples.items()
        },
    }
    write_file(folder / "diagnosis.json", json.dumps(facts, indent=2))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, real_a=samples["real_a"], real_b=samples["real_b"])
    write_file(folder / "samples.npz", buffer.getvalue())
    broken = [name for name, value in sums.items() if not torch.isfinite(value)] or (["weights"] if sick else [])
    raise NotFiniteError(gan.step, ", ".join(broken) or "a loss in another process", folder)


def _sick_weights(gan: CycleGAN) -> list[str]:
    """Names of the parameters and buffers that hold a NaN or an infinity."""
    return [
        f"{name}.{key}"
        for name, network in gan.networks.items()
        for key, tensor in network.state_dict().items()
        if not torch.isfinite(tensor).all()
    ]
