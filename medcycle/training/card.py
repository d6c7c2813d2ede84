"""The card of a run's models: what they translate, what they have seen, what was measured, and what they cannot do."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medcycle.agreement import FIGURES, recorded_range
from medcycle.config import Config
from medcycle.training.cohorts import Cohort, Pairs
from medcycle.training.watch import KINDS

CARD = "MODEL_CARD.md"
PREFIXES = "validation_", "seen_"  # of the signs' columns; see whose_scans
SHOWN = {
    "cycle": "what comes back differs by {:.4f} (cycle error, mean; the whole range is 2)",
    "mind": "structure differs from the input's by {:.4f} (MIND distance, 0 the same to 1)",
    "kernel_distance": "image features lie {:.4f} from those of real ones (kernel distance, 0 for no difference)",
}
_WHAT = {"mr": "MR", "ct": "CT", "image": "pictures"}


def model_card(
    config: Config,
    cohorts: Mapping[str, Cohort],
    agreement: Mapping[str, dict[str, Any] | None],
    metrics: Mapping[str, str],
    facts: Mapping[str, str],
    pairs: Pairs | None = None,
) -> str:
    """The card as Markdown. It names domains and sites, never a file or a patient.

    Args:
        config: of the run.
        cohorts: by "a" and "b".
        agreement: by "a" and "b", the structure agreement of what is translated from there; see
            :func:`medcycle.agreement.agreement_range`.
        metrics: the newest figures, by their columns in metrics.csv.
        facts: what else is known of the training, in order.
        pairs: the registered pairs.
    """
    a, b = (cohorts[key].domain for key in "ab")
    scans = "image" not in (a.modality, b.modality)
    parts = [
        f"# {a.name} <-> {b.name}",
        f"Two networks trained together by medcycle, {_told(pairs)}: `{a.name}_to_{b.name}.safetensors` translates "
        f"{_WHAT[a.modality]} ({a.name}) into {_WHAT[b.modality]} ({b.name}), `{b.name}_to_{a.name}.safetensors` the "
        "other way. **Research use only**; not a medical device.",
        "## Data",
        _list(_data(cohorts[key]) for key in "ab"),
        "## Preparation",
        _list(_preparation(cohorts[key]) for key in "ab"),
        "## Training",
        _list(f"{name}: {value}" for name, value in (_training(config) | dict(facts)).items()),
        "## Measured",
        *_measured(config, cohorts, metrics, agreement),
        "## Limits",
        _list(_limits(config, cohorts, scans)),
    ]
    return "\n\n".join(parts) + "\n"


def last_figures(metrics: Path) -> dict[str, str]:
    """The step and the signs of the newest row of a metrics.csv that has any; empty if there is none."""
    try:
        with metrics.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        return {}
    for row in reversed(rows):
        found = {
            name: value
            for name, value in row.items()
            if name and value and name.startswith((*PREFIXES, "paired_mae", "alarm_"))
        }
        if found:
            return {"step": row.get("step") or "", **found}
    return {}


def whose_scans(cohorts: Mapping[str, Cohort]) -> str:
    """What the signs are measured on: held-out scans, where a domain has any."""
    without = [cohort.domain.name for cohort in cohorts.values() if not cohort.held_out]
    if not without:
        return "held-out scans"
    if len(without) == len(cohorts):
        return "scans that are trained on (none is held out)"
    return f"held-out scans, and scans of {without[0]} that are trained on (none is held out)"


def digest(values: Mapping[str, Any]) -> str:
    """A short name of a configuration's values, the same wherever its scans lie."""
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()


def _told(pairs: Pairs | None) -> str:
    if pairs is None or not pairs.training:
        return "without pairs"
    return f"with {_count(len(pairs.training), 'registered pair')} besides unpaired scans"


def _data(cohort: Cohort) -> str:
    patients = f" of {_count(cohort.patients, 'patient')}" if cohort.patients else ""
    sites = ", ".join(f"{site} ({n})" for site, n in sorted(cohort.sites.items()))
    return (
        f"{cohort.domain.name} ({_WHAT[cohort.domain.modality]}): trained on {_count(len(cohort.training), 'scan')}"
        f"{patients}; {len(cohort.held_out)} held out; {len(cohort.refused)} refused. "
        f"Sites: {sites or 'not known'}."
    )


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _preparation(cohort: Cohort) -> str:
    how = cohort.preparation
    facts = {"orientation": how.orientation or "each scan's own"}
    facts["spacing"] = " x ".join(f"{s:g}" if s else "own" for s in how.spacing) + " mm" if how.spacing else "own"
    if how.modality == "ct":
        facts["window"] = f"{how.window[0]:g} to {how.window[1]:g} HU"
        if how.stretch:
            facts["stretched"] = f"{how.stretch[0]:g} to {how.stretch[1]:g} HU"
    elif how.modality == "mr":
        facts["percentiles"] = f"{how.percentiles[0]:g} to {how.percentiles[1]:g}"
        facts |= {name: "yes" for name in ("invert", "cavities", "n4") if getattr(how, name)}
        facts |= {"floor": f"{how.floor:g}"} if how.floor > -1 else {}
        facts |= {"histogram": "standardized (Nyul)"} if how.landmarks else {}
    if how.modality != "image":
        facts["outside the body"] = "set to air" if how.foreground else "kept"
    return f"{cohort.domain.name}: " + ", ".join(f"{name} {value}" for name, value in facts.items()) + "."


def _training(config: Config) -> dict[str, str]:
    size = " x ".join(map(str, config.sample.size))
    losses = config.loss.model_dump(exclude=set() if config.loss.adversarial == "wgan-gp" else {"gradient_penalty"})
    guess = config.loss.contrast
    within = "by the end" if guess.steps is None else f"within {guess.steps} steps"
    losses["contrast"] = f"{guess.weight:g} (falling to 0 {within})" if guess.weight else 0
    losses |= {} if config.pairs is None or config.pairs.path is None else {"pairs": config.pairs.weight}
    return {
        "Samples": f"{size} voxels" + (f", {config.sample.axes} planes" if len(config.sample.size) == 2 else ""),
        "Losses": ", ".join(f"{name} {_plain(value)}" for name, value in losses.items() if value),
        "Optimizer": f"Adam, learning rate {config.train.learning_rate:g}; image buffer of {config.train.pool}; "
        f"moving average of weights {config.train.ema or 'off'}",
    }


def _plain(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    on = [f"{name} {weight}" for name, weight in value.items() if weight]
    return f"({', '.join(on) or 'off'})"


def _measured(
    config: Config,
    cohorts: Mapping[str, Cohort],
    metrics: Mapping[str, str],
    agreement: Mapping[str, dict[str, Any] | None],
) -> list[str]:
    parts = []
    found = {
        name.removeprefix(prefix): value
        for prefix in PREFIXES
        for name, value in metrics.items()
        if name.startswith(prefix)
    }
    if found:
        parts += [f"At step {metrics['step']}, on {whose_scans(cohorts)}:", _list(_signs(config, cohorts, found))]
    paired = [
        f"{way}: {float(metrics[key]):.4g} {cohorts[target].preparation.unit()}"
        for _, target, way in _ways(cohorts)
        if (key := f"paired_mae_{target}") in metrics
    ]
    if paired:
        parts += ["Mean absolute error in the body, on registered pairs that were not trained on:", _list(paired)]
    alarms = [kind.title for kind in KINDS if float(metrics.get(f"alarm_{kind.key}", 0))]
    if alarms:
        parts.append(f"**Alarm, not over at the end: {', '.join(alarms)}.** Do not use these models.")
    ranges = _ranges(cohorts, agreement)
    if ranges:
        parts += ["Structure agreement, with which `medcycle translate` compares every scan:", _list(ranges)]
    if not parts:
        parts.append("Nothing.")
    if not paired:
        parts.append("How right the values are was not measured: `medcycle evaluate`, on paired scans of your own.")
    return parts


def _ways(cohorts: Mapping[str, Cohort]) -> list[tuple[str, str, str]]:
    """Source, target and words of both directions, as ("a", "b", "mr to ct")."""
    names = {key: cohort.domain.name for key, cohort in cohorts.items()}
    return [(source, target, f"{names[source]} to {names[target]}") for source, target in (("a", "b"), ("b", "a"))]


def _signs(config: Config, cohorts: Mapping[str, Cohort], figures: Mapping[str, str]) -> list[str]:
    """What a reader can use of the signs; metrics.csv has them all."""
    lines = []
    for source, target, way in _ways(cohorts):
        keys = {name: f"{name}_{source if name == 'cycle' else target}" for name in SHOWN}
        told = [SHOWN[name].format(float(figures[key])) for name, key in keys.items() if key in figures]
        lines += [f"{way}: {'; '.join(told)}"] if told else []
    if "score" in figures:
        lines.append(f"score by which `best` is kept ({config.train.best}; low is good): {float(figures['score']):.3f}")
    return lines


def _ranges(cohorts: Mapping[str, Cohort], agreement: Mapping[str, dict[str, Any] | None]) -> list[str]:
    """The usual structure agreement of each direction that has any."""
    lines = []
    for source, _, way in _ways(cohorts):
        record = agreement.get(source)
        usual = recorded_range({"agreement": record})
        if record is not None and usual is not None:
            ends = ", ".join(f"{title} {usual[name][0]:.3f} to {usual[name][1]:.3f}" for name, title in FIGURES.items())
            lines.append(
                f"From {way}: {ends} (5th to 95th percentile of {record['samples']} samples of {record['of']})."
            )
    return lines


def _limits(config: Config, cohorts: Mapping[str, Cohort], scans: bool) -> list[str]:
    if not scans:
        return ["It knows pictures like those of its training; of others it makes anything."]
    limits = [
        "It can hallucinate: what it makes looks right where it is wrong; lesions may vanish or be invented. Only a "
        "comparison with the truth shows that; the structure agreement and the residual map of `medcycle translate` "
        "point at scans to look at, no more.",
        "It knows the body region, contrasts (sequence, contrast agent, energy), devices, ages and diseases of its "
        "training scans. It was not trained on any other, and does not notice when it is given one.",
    ]
    windows = {c.preparation.window for c in cohorts.values() if c.preparation.modality == "ct"}
    limits += [f"HU outside {low:g} to {high:g} are clamped: metal is not told from bone." for low, high in windows]
    if any(cohort.preparation.modality == "mr" for cohort in cohorts.values()):
        limits.append(
            "MR intensities are arbitrary: they are scaled by each scan's percentiles, and mean nothing alone."
        )
    few = [cohort.domain.name for cohort in cohorts.values() if len(cohort.training) < 20]
    if few:
        limits.append(f"It has seen few scans ({', '.join(few)}: under 20).")
    if len(config.sample.size) == 2 and config.sample.axes != "all" and not config.sample.context:
        limits.append("Planes are translated one by one: values may jump from one to the next.")
    return limits


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
