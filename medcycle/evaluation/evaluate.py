"""The one door to every measure: which metrics there are, and what each compares with what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from medcycle.errors import ConfigError
from medcycle.evaluation.result import METRICS, Result
from medcycle.volume import Volume

Progress = Callable[[int, int, str], None]

# What each takes beside the predictions, `out` and `progress`; the first of them has to be given.
PAIRED = ("references", "masks", "inputs", "baselines")
OPTIONS = {"references": "--reference", "masks": "--mask", "inputs": "--input", "weights": "--weights"}
TAKES = {"fid": ("references", "weights"), "cityscapes": ("references",), "flicker": ("inputs",)}


def evaluate(
    predictions: str | Path,
    references: str | Path | None = None,
    masks: str | Path | None = None,
    metrics: str = "synthrad2023",
    out: str | Path | None = None,
    inputs: str | Path | None = None,
    progress: Progress | None = None,
    *,
    baselines: Mapping[str, Callable[[Volume], Volume]] | None = None,
    resample_gaps: bool = False,
    weights: str | Path | None = None,
) -> Result:
    """Score predictions: against references of the same names and grids, as a set of pictures, as labels, as a clip.

    Args:
        predictions: a file, folder, pattern or CSV of scans; so are the next four.
        references: the truth; a case is a file name without endings. For "fid" real pictures, whatever their names.
        masks: where to score (above 0). Without: the whole picture for "basic", the body found in the reference CT
            for the SynthRAD protocols, which the notes then say.
        metrics: "synthrad2023", "synthrad2025", "anatomy" (all in HU) or "basic" for pairs of scans; "fid" (see
            :func:`medcycle.evaluation.distances.distances`), "cityscapes"
            (:func:`medcycle.evaluation.labels.score_labels`), "flicker"
            (:func:`medcycle.evaluation.flicker.score_flicker`, which takes `inputs` in place of references).
        out: folder for metrics.csv, metrics.json and, for pairs of scans, report.html.
        inputs: what was translated: shown in the report, and what `baselines` start from.
        progress: called with (cases done, cases, name) after each case.
        baselines: name -> function of the input scan, scored on the same cases (see `baselines.ct_baselines`).
        resample_gaps: accept DICOM series with missing or uneven slices, interpolated (see
            :func:`medcycle.io.read_volume`), as translating such a series leaves them.
        weights: for "fid": the TorchScript Inception file; without, it is fetched once, or a stand-in takes its place.

    Raises:
        ConfigError: unknown `metrics`; baselines without inputs; a folder that is missing, or that makes no difference.
        ModelError: `weights` is no such file.
        ScanError: unreadable or unmatched files, other grids or units, an empty mask, a folder that cannot be written.
    """
    if metrics not in METRICS:
        raise ConfigError(f"metrics: {metrics!r} is unknown; choose one of {', '.join(METRICS)}")
    given = {"references": references, "masks": masks, "inputs": inputs, "baselines": baselines, "weights": weights}
    takes = TAKES.get(metrics, PAIRED)
    unused = [name for name, value in given.items() if value is not None and name not in takes]
    if unused:
        listed = " and ".join(map(_named, takes))
        raise ConfigError(f"{', '.join(map(_named, unused))}: metrics {metrics} takes {listed}; leave the rest out")
    if baselines and inputs is None:
        raise ConfigError("baselines: they are made from the input scans; give their folder as `inputs` too")
    if metrics == "flicker":
        from medcycle.evaluation.flicker import score_flicker

        return score_flicker(predictions, _needed("inputs", inputs, metrics), out, progress)
    references = _needed("references", references, metrics)
    if metrics == "fid":
        from medcycle.evaluation.distances import distances

        return distances(predictions, references, weights, out, progress)
    if metrics == "cityscapes":
        from medcycle.evaluation.labels import score_labels

        return score_labels(predictions, references, out, progress)
    from medcycle.evaluation.paired import score_pairs

    return score_pairs(
        predictions,
        references,
        masks,
        metrics,
        out,
        inputs,
        progress,
        baselines=baselines,
        resample_gaps=resample_gaps,
    )


def _named(argument: str) -> str:
    """As the command line calls it too."""
    return f"{argument} ({OPTIONS[argument]})" if argument in OPTIONS else argument


def _needed(name: str, place: str | Path | None, metrics: str) -> str | Path:
    if place is None:
        raise ConfigError(f"{_named(name)}: metrics {metrics} compares with them; give their folder")
    return place
