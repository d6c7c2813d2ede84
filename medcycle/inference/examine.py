"""A translation with what can be told of it without a reference: structure agreement, and what the way back changes."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medcycle.agreement import recorded_range
from medcycle.data.unpaired import ALL, AXES
from medcycle.errors import ModelError
from medcycle.inference.fusion import fused
from medcycle.inference.quality import Quality, scan_agreement
from medcycle.inference.sliding import Array, Progress
from medcycle.model import find_opposite, load_model
from medcycle.prepare import Prepared
from medcycle.volume import Volume

if TYPE_CHECKING:
    from medcycle.inference.translator import Translator


@dataclass(frozen=True, eq=False)
class Examined:
    """A translated scan, and what can be said of it.

    Attributes:
        volume: the translation, as :meth:`Translator.translate` gives it.
        quality: its figures.
        residual: |F(G(x)) - x| on the scan's grid in its unit, if it was asked for.
    """

    volume: Volume
    quality: Quality
    residual: Volume | None = None


def examine(
    translator: Translator, volume: Volume, progress: Progress | None = None, *, residual: bool = False
) -> Examined:
    """As :meth:`Translator.examine`, which is the way to call it."""
    opposite = translator.opposite if residual else None
    translator.warn_of(volume)
    volumes, every = translator.prepared([volume])
    directions = translator.directions(volumes, every, progress)
    volume, prepared, made = volumes[0], every[0], fused(directions)[0]
    model = translator.model
    found = usual = None
    if not translator.pictures:
        # A model of all directions knows the range of axial planes, before they are fused with others.
        of_all, axial = model.sample["axes"] == ALL, AXES["axial"]
        axis = axial if axial in directions else next(iter(directions))
        found = scan_agreement(prepared.array, directions[axis][0], axis, model.sample["size"])
        usual = None if of_all and axis != axial else recorded_range(model.provenance)
    back = error = None
    if opposite is not None:
        seen = np.where(prepared.foreground, made, np.float32(-1)) if translator.masked else made
        again = opposite.over(volumes, [replace(prepared, array=seen)], progress)[0]
        back, error = _residual(translator, volume, prepared, again), _error(prepared, again)
    return Examined(translator.restored(volume, prepared, made), Quality(found, usual, error), back)


def _residual(translator: Translator, volume: Volume, prepared: Prepared, again: Array) -> Volume:
    """|again - prepared| on the scan's grid in its own unit."""
    foreground = prepared.foreground if translator.masked else None
    first, last = (
        translator.model.source.preparation.restore(array, prepared.state, foreground=foreground, own_scale=True)
        for array in (prepared.array, again)
    )
    return last.replace(array=np.abs(last.array - first.array), source=volume.source)


def _error(prepared: Prepared, again: Array) -> float | None:
    """Mean |again - prepared| over the body."""
    body = prepared.foreground
    return float(np.abs(again - prepared.array)[:, body].mean()) if body.any() else None


def opposite_of(translator: Translator) -> Translator:
    """As :attr:`Translator.opposite`, which is the way to ask for it."""
    mine = translator.model
    if translator.origin is None:
        raise ModelError(
            f"the model from {mine.source.name!r} to {mine.target.name!r} was not loaded from a file, so no opposite "
            "model lies beside it. Set Translator.opposite to the translator back."
        )
    file = find_opposite(translator.origin, mine)
    theirs = load_model(file)
    if (mine.source, mine.target, mine.sample) != (theirs.target, theirs.source, theirs.sample):
        raise ModelError(
            f"{file}: not the opposite of {translator.origin.name}: their domains, preparations or samples differ, so "
            "they are of two runs. Take both from one run folder."
        )
    back = copy.copy(translator)  # all that it was told: device, precision, ...
    back.__dict__.pop("record", None)
    back.model, back.origin = theirs, file
    theirs.network.to(translator.device).eval()
    return back
