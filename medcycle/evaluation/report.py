"""Self-contained HTML reports: pictures first, then figures; no script, no link, nothing fetched.

Every text enters through Jinja's autoescape, and a content security policy in the page forbids whatever could reach
outside, so a file name or a header can never become markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcycle.evaluation.pictures import (
    CasePlanes,
    bar_png,
    curve_png,
    data_uri,
    error_limit,
    error_png,
    grey_png,
    grey_window,
)
from medcycle.evaluation.result import COLUMNS, Result, text
from medcycle.io.files import write_file

TEMPLATES = Path(__file__).parent / "templates"
PANELS = {"input": "Input", "prediction": "Prediction", "reference": "Reference", "error": "Absolute error"}
TICKS = 5


def evaluation_page(result: Result, shown: Mapping[str, CasePlanes]) -> str:
    """The report of an evaluation as HTML.

    Args:
        result: the figures.
        shown: "first", "best" and "worst" -> planes of that case.
    """
    kinds: dict[str, list[str]] = {}
    for kind, case in shown.items():
        kinds.setdefault(case.name, []).append(kind)
    cases = {case.name: case for case in shown.values()}
    limit = error_limit(list(cases.values())) or 1.0
    unit = result.unit
    tabs = [_tab(case, " and ".join(kinds[name]), limit, unit, len(result.cases)) for name, case in cases.items()]
    return render(
        "evaluation.html",
        title="Evaluation",
        metrics=result.metrics,
        count=len(result.cases),
        cards=_cards(result),
        tabs=tabs,
        header=result.header(),
        rows=result.rows(),
        cases=len(result.cases),
        settings=result.settings,
        notes=result.notes,
    )


def _cards(result: Result) -> list[dict[str, str]]:
    """The mean of each figure, large."""
    cards = []
    for key in result.columns:
        mean, column = result.mean[key], COLUMNS[key]
        spread = text(key, result.std[key])
        cards.append(
            {
                "label": column.label,
                "value": text(key, mean),
                "spread": "" if spread == "n/a" else f"± {spread}",
                "unit": result.unit if column.unit == "*" else column.unit,
                "better": {"lower": "lower is better", "higher": "higher is better", "zero": "best at 0"}[
                    column.better
                ],
            }
        )
    return cards


def _tab(case: CasePlanes, kind: str, limit: float, unit: str, count: int) -> dict[str, Any]:
    """One case of the picture browser: rows of panels and the scales of their colour bars."""
    names = [name for name in PANELS if name in case.planes[0][1]]
    rows = []
    for direction, planes in case.planes:
        panels = []
        for name in names:
            if name == "error":
                png = error_png(planes[name], limit, planes["mask"])
            else:
                png = grey_png(planes[name], grey_window(case, name))
            panels.append({"src": data_uri(png), "alt": f"{PANELS[name]} of {case.name}, {direction}"})
        rows.append({"direction": direction, "panels": panels})
    return {
        "name": case.name,
        "kind": kind if count > 1 else "",
        "score": f"MAE {text('mae', case.score)} {unit}",
        "columns": [PANELS[name] for name in names],
        "rows": rows,
        "grey": _bar(False, *grey_window(case, "reference"), unit),
        "error": _bar(True, 0.0, limit, unit),
    }


def _bar(error: bool, low: float, high: float, unit: str) -> dict[str, Any]:
    ticks = [high - (high - low) * step / (TICKS - 1) for step in range(TICKS)]
    return {"src": data_uri(bar_png(error)), "unit": unit, "ticks": [f"{tick:.4g}" for tick in ticks]}


def write_training_report(
    path: str | Path,
    title: str,
    pictures: Sequence[tuple[str, bytes]],
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    facts: Mapping[str, str],
    alarms: Sequence[tuple[str, int, int | None, str, str]] | None = None,
) -> Path:
    """Write the report of a training run.

    Args:
        path: the HTML file, put in place whole.
        title: of the page.
        pictures: (caption, PNG file content) of previews, the most telling first.
        curves: name -> (steps, values); values that are not finite leave gaps.
        facts: what to know of the run, as printed (settings, time, device, ...).
        alarms: (title, first step, step it ended at or None, what was found, what to do); None leaves the section out.

    Raises:
        ScanError: when the file cannot be written.
    """
    page = render(
        "training.html",
        title=title,
        pictures=[{"caption": caption, "src": data_uri(png)} for caption, png in pictures],
        curves=[
            {"name": name, "src": data_uri(curve_png(name, steps, values))} for name, (steps, values) in curves.items()
        ],
        facts=facts,
        alarms=None
        if alarms is None
        else [
            {
                "title": title,
                "when": f"from step {begin} " + ("on" if end is None else f"to {end}"),
                "found": found,
                "advice": advice,
            }
            for title, begin, end, found, advice in alarms
        ],
    )
    write_file(Path(path), page)
    return Path(path)


def render(template: str, **values: Any) -> str:
    """A page from a template of this room, every value escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
