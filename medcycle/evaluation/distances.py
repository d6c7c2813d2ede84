"""How far a folder of translated pictures lies from a folder of real ones: no picture needs a partner."""

from __future__ import annotations

import math
from pathlib import Path

from medcycle.errors import ModelError, ScanError
from medcycle.evaluation.features import Extractor, Features, Progress, StandIn, features_of_folder, inception
from medcycle.evaluation.frechet import (
    KID_SUBSETS,
    frechet_distance,
    inception_score,
    kernel_distance,
    kid_subset_size,
)
from medcycle.evaluation.result import COLUMNS, METRICS, Figures, Result, summary, write_result

IS_PARTS = 10


def distances(
    predictions: str | Path,
    references: str | Path,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Result:
    """FID, KID and Inception score of a folder of 8-bit pictures against another.

    Args:
        predictions: a folder, pattern or CSV of pictures; so is the next.
        references: real pictures of the target domain.
        weights: the TorchScript Inception file. None: fetched once into a cache; where that fails, the notes say so
            and the distances are those of a stand-in network, under its name.
        out: folder for metrics.csv and metrics.json.
        progress: called with (pictures done, pictures, name), for one folder after the other.
        device: a torch device for the network.

    Raises:
        ModelError: `weights` is no such network.
        ScanError: fewer than two pictures, or one that is not of 8 bits; a folder that cannot be written.
    """
    notes: list[str] = []
    extractor: Extractor
    try:
        extractor = inception(weights, device=device)
    except ModelError as error:
        if weights is not None:
            raise
        extractor = StandIn(device)
        notes.append(
            f"There is no Inception network here, so neither FID, KID nor IS: {error} The distances are those of "
            f"{extractor.name}, to be compared with each other and with nothing published."
        )
    found, truth = (features_of_folder(where, extractor, progress=progress) for where in (predictions, references))
    for where, features in ((predictions, found), (references, truth)):
        if len(features.names) < 2:
            raise ScanError(f"{where}: {len(features.names)} picture; distances need at least 2 in each folder")
    figures = compare(found, truth, extractor)
    notes.insert(0, counts_note(len(found.names), len(truth.names), extractor))
    if math.isnan(figures.get("inception_score", 0.0)):
        notes.append(f"IS is not defined for fewer than {IS_PARTS} pictures: it is taken over {IS_PARTS} parts.")
    mean, std = summary([figures])
    named = {key: f"{COLUMNS[key].label} ({extractor.name})" for key in figures if not extractor.is_inception}
    result = Result(
        metrics="fid" if extractor.is_inception else f"distances ({extractor.name})",
        cases={Path(predictions).name or str(predictions): figures},
        mean=mean,
        std=std,
        unit="",
        labels=named,
        settings={
            "predictions": str(predictions),
            "references": str(references),
            "network": extractor.name,
            "pictures": f"{len(found.names)} against {len(truth.names)}",
            "subsets": f"{KID_SUBSETS} of {kid_subset_size(len(found.names), len(truth.names))}",
            "definition": METRICS["fid"],
        },
        notes=notes,
    )
    return result if out is None else write_result(result, Path(out))


def compare(predictions: Features, references: Features, extractor: Extractor) -> Figures:
    """The distances of two sets of features, by the names that `extractor` earns them.

    Returns:
        "fid", "kid", "kid_sd", "inception_score" and "inception_score_sd" (of the predictions) with the Inception
        network; "frechet_distance", "kernel_distance" and "kernel_distance_sd" with any other. The spread is left out
        where every subset is a whole set.

    Raises:
        ScanError: as :func:`medcycle.evaluation.frechet.frechet_distance`.
    """
    frechet = frechet_distance(predictions.features, references.features)
    kernel, spread = kernel_distance(predictions.features, references.features)
    of_kernel = {} if math.isnan(spread) else {"kid_sd" if extractor.is_inception else "kernel_distance_sd": spread}
    if not extractor.is_inception:
        return {"frechet_distance": frechet, "kernel_distance": kernel, **of_kernel}
    score = math.nan, math.nan
    if predictions.probabilities is not None and len(predictions.names) >= IS_PARTS:
        score = inception_score(predictions.probabilities, IS_PARTS)
    of_score = {"inception_score": score[0], "inception_score_sd": score[1]}
    return {"fid": frechet, "kid": kernel, **of_kernel, **of_score}


def counts_note(n: int, m: int, extractor: Extractor) -> str:
    """What figures of `n` pictures against `m` may be compared with."""
    frechet, kernel = ("FID", "KID") if extractor.is_inception else ("The Fréchet distance", "the kernel distance")
    size = kid_subset_size(n, m)
    over = "that of all of them" if size == n == m else f"the mean over {KID_SUBSETS} subsets of {size}"
    return (
        f"{n} pictures against {m}; {kernel} is {over}. "
        f"{frechet} falls with the number of pictures: compare it only with figures of as many."
    )
