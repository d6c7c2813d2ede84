"""A Volume as a derived DICOM series: one file a slice, valid to dciodvfy and dcentvfy, marked as synthetic.

Patient, study and frame of reference are those of the scan it was made from; series and instances are new. Nothing
else of the source is copied that could be untrue of the new values (windows, private tags, dose).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.io.dicom_dataset import WRITER, Stored, add_pixel_module, common_attributes, instance
from medcycle.io.dicom_series import Header, is_dicom, read_header
from medcycle.io.dicom_stack import planes_at
from medcycle.io.files import staged
from medcycle.volume import Volume

_MODALITY = {"HU": "CT", "a.u.": "MR"}
_WIDE = 1000.0  # a range of "a.u." values that whole numbers resolve well enough: 0.05 %


def write_dicom_series(
    volume: Volume,
    folder: str | Path,
    *,
    like: Volume | None = None,
    description: str = "",
) -> Path:
    """Write a scan as a DICOM series into a folder of its own; it appears whole or not at all.

    Args:
        volume: one channel, unit "HU" (written as CT) or "a.u." (written as MR); a 2D Volume becomes one slice.
        folder: a new or empty folder, or one that holds nothing but a series written by medcycle, which is replaced.
        like: the scan it was made from. If it was read from DICOM, the new series joins its patient, study and frame of
            reference, and, where both grids are the same, takes the very positions and names its source images; planes
            that were interpolated into its gaps are left out.
            Otherwise a new study is made of a patient called medcycle^phantom, whose ID is the folder's name.
        description: Series Description and Derivation Description; the notice "NOT FOR CLINICAL USE" is added.

    Returns:
        The folder. HU are kept to 0.5; "a.u." as whole numbers too if they span 1000 or more (as scanners store MR),
        else with a rescale slope, to 1/131070 of their range.

    Raises:
        ScanError: several channels, a sheared grid, a unit with no modality, sources gone, or no way to write there.
    """
    folder = Path(folder)
    array = volume.array[..., None] if volume.array.ndim == 3 else volume.array
    modality = _MODALITY.get(volume.unit)
    if modality is None or volume.channels != 1:
        raise ScanError(
            f"{folder}: {volume.channels} channels in {volume.unit} cannot be written as DICOM; CT takes one channel "
            "in HU, MR one in a.u. Pictures: write .png."
        )
    _check_right_angles(volume, folder)
    _check_ours(folder)
    sources = _sources(like)
    if any(source.path.resolve().parent == folder.resolve() for source in sources):
        raise ScanError(
            f"{folder}: the scan this was made from lies there and would be replaced. Choose another folder."
        )
    places = np.arange(array.shape[3], dtype=np.float64)
    planes: list[Header | None] = [None] * len(places)
    if like is not None and sources and _same_grid(volume, like):
        acquired = np.array(like.source.get("places", places), dtype=np.float64)
        array, places = planes_at(array, places, acquired), acquired
        planes = [*sources] if len(sources) == len(places) else [None] * len(places)
    stored = _quantize(array[0], modality)
    common = common_attributes(sources, modality, folder, description)
    add_pixel_module(common, volume, modality, sources)
    with staged(folder) as target:
        target.mkdir()
        for n, (place, source) in enumerate(zip(places, planes, strict=True)):
            data = instance(common, volume, stored, n, float(place), source, modality)
            data.save_as(target / f"{n + 1:04d}.dcm", enforce_file_format=True)
    return folder


# --- Checks -----------------------------------------------------------------------------------------------------------


def _check_right_angles(volume: Volume, folder: Path) -> None:
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    if abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        raise ScanError(
            f"{folder}: the scan's axes are not at right angles (sheared), which DICOM slices cannot say. Resample it "
            "to a right-angled grid, or write .nii.gz."
        )


def _check_ours(folder: Path) -> None:
    """Refuse to replace anything but an empty folder or a series of our own."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ScanError(f"{folder}: is a file; a DICOM series needs a folder. Choose another name.")
    for file in folder.iterdir():
        ours = file.is_file() and is_dicom(file)
        if ours:
            meta = getattr(read_header(file).data, "file_meta", {})
            ours = str(meta.get("ImplementationVersionName", "")).startswith(WRITER)
        if not ours:
            raise ScanError(
                f"{folder}: already holds {file.name}, which medcycle did not write; nothing was changed. Choose a new "
                "or empty folder."
            )


def _sources(like: Volume | None) -> list[Header]:
    """The headers of the slices that `like` was read from, in the order of its places; none if it is no DICOM."""
    if like is None or like.source.get("format") != "dicom":
        return []
    files = [Path(file) for file in like.source.get("files", [])]
    if len(set(files)) < len(files):  # frames of one file: it tells the patient and study, not the planes
        return [read_header(files[0])]
    return [read_header(file) for file in files]


def _same_grid(volume: Volume, like: Volume) -> bool:
    return volume.space == like.space and bool(np.allclose(volume.affine, like.affine, rtol=0, atol=1e-3))


def _quantize(array: npt.NDArray[np.float32], modality: str) -> Stored:
    """16-bit pixels: HU as whole numbers; MR too if whole or of a wide range, else stretched over 16 bits by a slope.

    A rescale is foreign to the MR image class (many readers ignore it), so it is used only where rounding would hurt.
    """
    if modality == "CT":
        return Stored(np.clip(np.rint(array), -32768, 32767).astype(np.int16), 1.0, 0.0)
    low, high = float(array.min()), float(array.max())
    kind = np.int16 if low < -0.5 else np.uint16
    rounded = np.rint(array)
    fits = np.iinfo(kind).min <= rounded.min() and rounded.max() <= np.iinfo(kind).max
    if fits and (high - low >= _WIDE or np.array_equal(array, rounded)):
        return Stored(rounded.astype(kind), None, 0.0)
    slope = float(f"{(high - low) / 65535 or 1.0:.9e}")  # a decimal string of DICOM has 16 characters
    intercept = float(f"{low:.8e}")
    values = np.rint((array.astype(np.float64) - intercept) / slope)
    return Stored(np.clip(values, 0, 65535).astype(np.uint16), slope, intercept)
