"""Which files belong to one case, and whether they lie on one grid: no figure is worth anything before that."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.volume import Volume

GRID_TOLERANCE = 1e-3  # mm, on every entry of the affine
PICTURE_UNITS = ("uint8", "uint16")


@dataclass(frozen=True)
class Pair:
    """The files of one case; its name is their file name without endings."""

    name: str
    prediction: Path
    reference: Path
    mask: Path | None
    input: Path | None


def find_pairs(predictions: Path, references: Path, masks: Path | None, inputs: Path | None) -> list[Pair]:
    """Match scans by name (one prediction and one reference, each named itself, match whatever their names).

    Every prediction needs a reference and every reference a prediction, so that no case drops out of a mean unseen;
    masks and inputs of other cases are passed over.

    Raises:
        ScanError: names without a partner (all of them listed), or the same name twice in a folder.
    """
    found, truth = _by_name(predictions, "prediction"), _by_name(references, "reference")
    one = list(found.values()) == [predictions]  # a file, or the folder of one DICOM series
    if one and list(truth.values()) == [references]:
        truth = dict(zip(found, truth.values(), strict=True))
    _same_names(found, truth, f"predictions in {predictions}", f"reference in {references}")
    _same_names(truth, found, f"references in {references}", f"prediction in {predictions}")
    partners: list[dict[str, Path]] = []
    for where, what in ((masks, "mask"), (inputs, "input")):
        partner = _by_name(where, what) if where is not None else {}
        if where is not None:
            if one and list(partner.values()) == [where]:
                partner = dict(zip(found, partner.values(), strict=True))
            _same_names(found, partner, f"predictions in {predictions}", f"{what} in {where}")
        partners.append(partner)
    return [Pair(n, found[n], truth[n], partners[0].get(n), partners[1].get(n)) for n in found]


def _by_name(where: Path, what: str) -> dict[str, Path]:
    from medcycle.io import find_scans, scan_name

    scans = find_scans(where)
    names = [scan_name(scan) for scan in scans]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ScanError(
            f"{where}: more than one {what} is called {_listed(twice)} (names are compared without endings and "
            "folders). Give a folder or a pattern that holds each case once."
        )
    return dict(zip(names, scans, strict=True))


def _same_names(wanted: dict[str, Path], given: dict[str, Path], which: str, partner: str) -> None:
    missing = [name for name in wanted if name not in given]
    if missing:
        raise ScanError(
            f"{len(missing)} of {len(wanted)} {which} have no {partner}: {_listed(missing)}. There are: "
            f"{_listed(list(given))}. Rename the files (compared without endings), or give folders, patterns or a CSV "
            "that hold the same cases."
        )


def _listed(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def on_grid_of(reference: Volume, volume: Volume, what: str) -> npt.NDArray[np.float32]:
    """The array (channel, *space) of `volume` in the voxel order of `reference`.

    Flipped or permuted axes (a DICOM series against a NIfTI file of the same head) are put right exactly; nothing is
    ever resampled. Pictures have no place in a patient: only their sizes count.

    Raises:
        ScanError: if the voxels do not coincide.
    """
    if _same_grid(reference, volume):
        return volume.array
    if len(reference.space) == len(volume.space) == 3:
        from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

        turn = ornt_transform(io_orientation(volume.affine), io_orientation(reference.affine))
        array = np.stack([apply_orientation(channel, turn) for channel in volume.array])
        turned = volume.replace(array=array, affine=volume.affine @ inv_ornt_aff(turn, volume.space))
        if _same_grid(reference, turned):
            return turned.array
    raise ScanError(
        f"{what} lies on another grid than its reference: {_described(volume)} against {_described(reference)}. "
        "Nothing is resampled here: a resampled image scores differently. Bring it to the reference's grid first."
    )


def _same_grid(a: Volume, b: Volume) -> bool:
    if a.space != b.space:
        return False
    pictures = a.unit in PICTURE_UNITS and b.unit in PICTURE_UNITS
    return pictures or bool(np.abs(a.affine - b.affine).max() <= GRID_TOLERANCE)


def _described(volume: Volume) -> str:
    spacing = " x ".join(f"{s:.4g}" for s in volume.spacing)
    origin = ", ".join(f"{x:.3f}" for x in volume.affine[:3, 3])
    return f"{' x '.join(map(str, volume.space))} voxels of {spacing} mm, {volume.orientation}, first at ({origin}) mm"
