"""Score scans against references case by case: masked figures, baselines, notes, and planes for the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.evaluation.anatomy import anatomy
from medcycle.evaluation.masked import basic, outside_mae, synthrad2023, synthrad2025
from medcycle.evaluation.pairing import Pair, find_pairs, on_grid_of
from medcycle.evaluation.result import COLUMNS, METRICS, Figures, Result, summary, write_result
from medcycle.volume import Volume

if TYPE_CHECKING:
    from medcycle.evaluation.pictures import CasePlanes

Progress = Callable[[int, int, str], None]

OF_TISSUE = ("mae_air", "mae_soft", "mae_bone", "dice_bone", "dice_air", "hd95_bone", "hd95_air")
MASK_VALUES = 256  # no label map of a body has more


def score_pairs(
    predictions: str | Path,
    references: str | Path,
    masks: str | Path | None,
    metrics: str,
    out: str | Path | None,
    inputs: str | Path | None,
    progress: Progress | None,
    *,
    baselines: Mapping[str, Callable[[Volume], Volume]] | None,
    resample_gaps: bool,
) -> Result:
    """As :func:`medcycle.evaluation.evaluate`, which checks the arguments, for the metrics of pairs of scans.

    Raises:
        ScanError: unreadable or unmatched files, other grids or units, an empty mask, a folder that cannot be written.
    """
    places = [Path(p) if p is not None else None for p in (predictions, references, masks, inputs)]
    pairs = find_pairs(Path(predictions), Path(references), places[2], places[3])
    scored: dict[str, Figures] = {}
    of_baselines: dict[str, list[Figures]] = {name: [] for name in baselines or {}}
    shown: dict[str, CasePlanes] = {}
    units: set[str] = set()
    notes: dict[str, list[str]] = {}  # what is to be known -> cases
    for done, pair in enumerate(pairs, 1):
        case = _read(pair, metrics, resample_gaps)
        units.add(case.reference.unit)
        scored[pair.name] = _score(case, case.prediction, metrics)
        for name, baseline in (baselines or {}).items():
            if case.input is None:
                raise ScanError(f"{pair.input}: baseline {name!r} needs an input on the grid of {pair.reference}")
            of_baselines[name].append(_score(case, baseline(case.input).array, metrics))
        if out is not None:
            _keep_extremes(shown, case, scored[pair.name]["mae"])
        for note in case.notes:
            notes.setdefault(note, []).append(pair.name)
        if progress is not None:
            progress(done, len(pairs), pair.name)
    if len(units) > 1:
        raise ScanError(f"{references}: the references mix units ({', '.join(sorted(units))}); score them apart")
    mean, std = summary(list(scored.values()))
    result = Result(
        metrics=metrics,
        cases=scored,
        mean=mean,
        std=std,
        baselines={name: summary(figures)[0] for name, figures in of_baselines.items()},
        unit="grey values" if units & {"uint8", "uint16"} else units.pop(),
        settings=_settings(places, metrics),
        notes=_gathered(notes) + _undefined(scored),
    )
    if out is None:
        return result
    from medcycle.evaluation.report import evaluation_page

    return write_result(result, Path(out), {"report.html": evaluation_page(result, shown)})


@dataclass(frozen=True)
class _Case:
    pair: Pair
    reference: Volume
    prediction: npt.NDArray[np.float32]  # (channel, *space), on the reference's grid
    inside: npt.NDArray[np.bool_]  # (*space)
    input: Volume | None  # on the reference's grid
    notes: list[str]


def _read(pair: Pair, metrics: str, resample_gaps: bool) -> _Case:
    """The images of one case on one grid, and everything that forbids to compare them."""
    from medcycle.io import read_volume

    read = partial(read_volume, resample_gaps=resample_gaps)
    unit = None if metrics == "basic" else "HU"
    reference, prediction = read(pair.reference, unit=unit), read(pair.prediction, unit=unit)
    for path, volume in ((pair.reference, reference), (pair.prediction, prediction)):
        if unit == "HU" and (volume.unit != "HU" or volume.channels != 1):
            raise ScanError(f"{path}: {metrics} scores one channel in HU, this is {volume.channels} in {volume.unit}")
    if {reference.unit, prediction.unit} == {"HU", "a.u."}:  # NIfTI does not tell HU from another scale; DICOM does
        reference, prediction = reference.replace(unit="HU"), prediction.replace(unit="HU")
    if reference.unit != prediction.unit:
        raise ScanError(
            f"{pair.prediction}: values in {prediction.unit}, the reference's in {reference.unit}. Convert one of them."
        )
    if reference.channels != prediction.channels:
        raise ScanError(
            f"{pair.prediction}: {prediction.channels} channels, the reference has {reference.channels}. Convert one."
        )
    notes: list[str] = []
    array = on_grid_of(reference, prediction, str(pair.prediction))
    if pair.mask is not None:
        mask = on_grid_of(reference, read(pair.mask), str(pair.mask))
        if len(np.unique(mask)) > MASK_VALUES:
            notes.append(f"The mask looks like an image (over {MASK_VALUES} different values): all above 0 was scored")
        inside: npt.NDArray[np.bool_] = np.any(mask > 0, axis=0)
        if not inside.any():
            raise ScanError(f"{pair.mask}: the mask is empty, no voxel of it is above 0. Give another mask.")
    elif metrics == "basic":
        inside = np.ones(reference.space, np.bool_)
        notes.append("No masks were given: scored over the whole images")
    else:
        inside = _body(reference, pair.reference)
        notes.append("No masks were given: scored inside the body found in each reference CT")
    source = None
    if pair.input is not None:
        source = read(pair.input)
        try:
            source = source.replace(array=on_grid_of(reference, source, str(pair.input)), affine=reference.affine)
        except ScanError:
            source = None
            notes.append("The input lies on another grid than the reference and is not shown")
    return _Case(pair, reference, array, inside, source, notes)


def _body(reference: Volume, path: Path) -> npt.NDArray[np.bool_]:
    from medcycle.prepare.foreground import find_foreground

    space = reference.space
    found = find_foreground(reference.array.reshape(1, *space, *[1] * (3 - len(space))), reference.affine, "ct")
    if not found.any():
        raise ScanError(f"{path}: no body (above about -500 HU) was found in this reference CT. Give masks.")
    return found.reshape(space)


def _score(case: _Case, prediction: npt.NDArray[np.float32], metrics: str) -> Figures:
    reference, inside = case.reference.array, case.inside
    if metrics == "basic":
        figures = basic(prediction, reference, inside, _data_range(case.reference, inside))
    elif metrics == "anatomy":
        figures = anatomy(prediction[0], reference[0], inside, case.reference.spacing)
    else:
        protocol = synthrad2023 if metrics == "synthrad2023" else synthrad2025
        figures = protocol(prediction[0], reference[0], inside)
    return figures | {"mae_outside": outside_mae(prediction, reference, inside)}


def _data_range(reference: Volume, inside: npt.NDArray[np.bool_]) -> float:
    """L of PSNR and SSIM under "basic": the unit's width, else what the reference spans inside the mask."""
    known = {"HU": 4095.0, "uint8": 255.0, "uint16": 65535.0}
    return known[reference.unit] if reference.unit in known else float(np.ptp(reference.array[:, inside]))


def _keep_extremes(shown: dict[str, CasePlanes], case: _Case, error: float) -> None:
    """Keep the planes of the first, the best and the worst case so far, by MAE; never those of a whole cohort."""
    from medcycle.evaluation.pictures import case_planes

    kinds = ["first"] if "first" not in shown else []
    kinds += ["best"] if "best" not in shown or error < shown["best"].score else []
    kinds += ["worst"] if "worst" not in shown or error > shown["worst"].score else []
    if kinds:
        source = case.input.array if case.input is not None else None
        planes = case_planes(case.pair.name, error, case.reference, case.prediction, case.inside, source)
        shown.update(dict.fromkeys(kinds, planes))


def _settings(places: list[Path | None], metrics: str) -> dict[str, str]:
    names = ("predictions", "references", "masks", "inputs")
    settings = {name: str(place) for name, place in zip(names, places, strict=True) if place is not None}
    if metrics == "basic":
        settings["data range"] = "HU 4095, 8 bits 255, 16 bits 65535, else the reference's span inside the mask"
    return settings | {"definition": METRICS[metrics]}


def _gathered(notes: dict[str, list[str]]) -> list[str]:
    """Each note once, with the cases that it is about."""
    return [f"{what} ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})." for what, names in notes.items()]


def _undefined(cases: Mapping[str, Figures]) -> list[str]:
    """One note for every figure that is left out of a mean."""
    notes = []
    for key in next(iter(cases.values())):
        names = [name for name, figures in cases.items() if math.isnan(figures[key])]
        if names and key != "mae_outside":
            why = "too few voxels for a 7-voxel window inside the mask, or a constant reference"
            if key in OF_TISSUE:
                why = "no such tissue in the reference, or none in the prediction to measure a distance to"
            notes.append(f"{COLUMNS[key].label} is not defined for {', '.join(names)} ({why}); the mean leaves it out.")
    equal = [name for name, figures in cases.items() if math.isinf(figures.get("psnr", 0.0))]
    if equal:
        notes.append(f"PSNR is infinite for {', '.join(equal)} (no error at all); the mean leaves it out.")
    return notes
