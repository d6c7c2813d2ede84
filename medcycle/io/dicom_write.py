"""A Volume as a derived DICOM series: one file a slice, valid to dciodvfy and dcentvfy, marked as synthetic.

Patient, study and frame of reference are those of the scan it was made from, unless it is de-identified; series and
instances are new. Nothing of the source is copied that could be untrue of the new values: the windows of an MR, private
tags, dose.
"""

from __future__ import annotations

import datetime
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError
from medcycle.io.dicom_copy import ascii_text, printable
from medcycle.io.dicom_dataset import WRITER, Making, Stored, common_attributes, instance, with_meta
from medcycle.io.dicom_deidentify import deidentify as without_patient
from medcycle.io.dicom_deidentify import hashed_uid
from medcycle.io.dicom_record import ModelRecord, version
from medcycle.io.dicom_series import is_dicom, read_header
from medcycle.io.dicom_sources import Sources, find_sources
from medcycle.io.dicom_stack import planes_at
from medcycle.io.files import staged
from medcycle.volume import Volume

_MODALITY = {"HU": "CT", "a.u.": "MR"}
_INT16 = (-32768, 32767)
_WIDE = 1000.0  # a range of "a.u." values that whole numbers resolve well enough: 0.05 %


def write_dicom_series(
    volume: Volume,
    folder: str | Path,
    *,
    like: Volume | None = None,
    description: str = "",
    model: ModelRecord | None = None,
    window: tuple[float, float] | None = None,
    deidentify: bool = False,
    deterministic: bool = False,
) -> Path:
    """Write a scan as a DICOM series into a folder of its own; it appears whole or not at all.

    Args:
        volume: one channel, unit "HU" (written as CT) or "a.u." (written as MR); a 2D Volume becomes one slice.
        folder: a new or empty folder, or one that holds nothing but a series written by medcycle, which is replaced.
        like: the scan it was made from. If it was read from DICOM, the new series joins its patient, study and frame of
            reference, and, where both grids are the same, takes the very positions and names its source images; planes
            that were interpolated into its gaps are left out. A scan whose gantry tilt was straightened has another
            grid than its images.
            Otherwise a new study is made of a patient called medcycle^unknown, whose ID is the folder's name.
        description: Series Description and Derivation Description; the notice "NOT FOR CLINICAL USE" is added.
        model: what made the values, for Contributing Equipment Sequence and Derivation Description.
        window: HU are clamped to this range, which the series declares (Smallest and Largest Pixel Value in Series),
            and a warning tells the share that was; None: the range of 16 bits.
        deidentify: leave out patient, staff, institution, dates and links to the originals, after the Basic
            Application Level Confidentiality Profile (PS3.15 annex E): see :mod:`medcycle.io.dicom_deidentify`. The
            description is replaced by a general one. Pixels stay: faces, burned-in text.
        deterministic: make UIDs from the source's, the model and the values, and tell no time but the source's, so that
            the same call writes the same bytes.

    Returns:
        The folder. HU are kept to 0.5; "a.u." as whole numbers too if they span 1000 or more (as scanners store MR),
        else with a rescale slope, to 1/131070 of their range.

    Raises:
        ScanError: several channels, a sheared grid, a unit with no modality, sources gone, or no way to write there;
            both `deidentify` and `deterministic`.
    """
    folder = Path(folder)
    modality = _check(volume, folder, deidentify and deterministic)
    sources = find_sources(like, volume)
    if any(source.path.resolve().parent == folder.resolve() for source in sources.headers):
        raise ScanError(
            f"{folder}: the scan this was made from lies there and would be replaced. Choose another folder."
        )
    array = volume.array[..., None] if volume.array.ndim == 3 else volume.array
    array = planes_at(array, np.arange(array.shape[3], dtype=np.float64), sources.places)
    gapped = not np.allclose(np.diff(sources.places), 1)
    if gapped:
        warnings.warn(
            f"{folder}: the series has the {len(sources.places)} acquired positions, which are not evenly spaced; "
            "readers that take them for even misplace its slices. Write .nii.gz or .mha for the whole even grid.",
            stacklevel=2,
        )
    stored = _quantize(array[0], modality, window)
    if stored.clamped and stored.allowed:
        warnings.warn(f"{folder}: {clamped(stored.clamped, stored.allowed)}", stacklevel=2)
    model = model or ModelRecord()
    if deidentify:  # a model's name may be that of a hospital
        description = f"{'synthetic CT' if modality == 'CT' else 'derived MR'} (medcycle)"
        model = ModelRecord(checksum=model.checksum, version=model.version)
    making = Making(
        modality=modality,
        patient=printable(folder.resolve().name).encode()[:64].decode(errors="ignore"),
        sources=sources.headers,
        resampled=sources.resampled,
        description=ascii_text(description),
        model=model,
        now=None if deterministic else datetime.datetime.now(),
        uid=_uids(volume, stored, sources, description, model, folder.name) if deterministic else _random_uid,
    )
    patient = sources.patient() if sources.headers else str(folder.resolve())
    common = common_attributes(making, volume, stored)
    with staged(folder) as target:
        target.mkdir()
        for n, (place, plane) in enumerate(zip(sources.places, sources.planes, strict=True)):
            data = instance(common, making, volume, stored, n, float(place), plane)
            if gapped:
                del data.SpacingBetweenSlices  # true between no two slices, or not between all
            if deidentify:
                without_patient(data, patient)
            with_meta(data).save_as(target / f"{n + 1:04d}.dcm", enforce_file_format=True)
    return folder


def clamped(share: float, window: tuple[float, float]) -> str:
    """What is said of HU beyond a window: "0.3 % of the voxels were clamped to [-1024, 3071] HU"."""
    percent = f"{100 * share:.3g}" if share >= 1e-4 else "less than 0.01"
    return f"{percent} % of the voxels were clamped to [{window[0]:g}, {window[1]:g}] HU"


def asks_for_series(path: str | Path) -> bool:
    """Whether an output's name means a DICOM series: no ending, a trailing slash, or a folder that is there."""
    return str(path).endswith("/") or Path(path).is_dir() or not Path(path).suffix


# --- Checks -----------------------------------------------------------------------------------------------------------


def _check(volume: Volume, folder: Path, both: bool) -> str:
    """The modality, if the volume can be written into the folder."""
    if both:
        raise ScanError(
            f"{folder}: deterministic UIDs are made from the originals', so whoever has these can tell what belongs to "
            "them, which a de-identified series must not allow. Ask for one of the two."
        )
    modality = _MODALITY.get(volume.unit)
    if modality is None or volume.channels != 1:
        raise ScanError(
            f"{folder}: {volume.channels} channels in {volume.unit} cannot be written as DICOM; CT takes one channel "
            "in HU, MR one in a.u. Pictures: write .png."
        )
    _check_right_angles(volume, folder)
    _check_ours(folder)
    return modality


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


# --- Values and names -------------------------------------------------------------------------------------------------


def _quantize(array: npt.NDArray[np.float32], modality: str, window: tuple[float, float] | None) -> Stored:
    """16-bit pixels: HU as whole numbers; MR too if whole or of a wide range, else stretched over 16 bits by a slope.

    A rescale is foreign to the MR image class (many readers ignore it), so it is used only where rounding would hurt.
    """
    if modality == "CT":
        low, high = window or _INT16
        allowed = max(_INT16[0], int(np.ceil(low))), min(_INT16[1], int(np.floor(high)))
        rounded = np.rint(array)
        beyond = (rounded < allowed[0]) | (rounded > allowed[1])
        return Stored(np.clip(rounded, *allowed).astype(np.int16), 1.0, 0.0, allowed, float(beyond.mean()))
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


def _random_uid(name: str) -> str:
    from pydicom.uid import generate_uid

    return str(generate_uid(None))


def _uids(
    volume: Volume, stored: Stored, sources: Sources, description: str, model: ModelRecord, name: str
) -> Callable[[str], str]:
    """UIDs that are a function of all that the files will hold: other content never gets the same name."""
    digest = hashlib.blake2b(digest_size=16)
    for header in sources.headers:
        digest.update(f"{header.text('StudyInstanceUID')} {header.text('SOPInstanceUID')} ".encode())
    texts = (*((name,) if not sources.headers else ()), description, model.sentence(), version())
    digest.update("\0".join(texts).encode())
    for array in (volume.affine, sources.places, stored.array):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(f"{stored.array.shape} {stored.slope} {stored.intercept} {stored.allowed}".encode())
    seed = digest.hexdigest()
    return lambda part: hashed_uid(seed, part)
