"""Label maps painted as MR and as CT on one grid: a translated MR can be scored voxel by voxel in HU.

What makes MR to CT hard is in them: bone is dark in MR, like air, and bright in CT; fat is bright in T1 and dark in
CT. No function of intensity alone can turn one into the other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medcycle.data.phantom import Labels, Tissue, body_mask, make_head
from medcycle.errors import ConfigError, ScanError
from medcycle.volume import Volume

# tissue: (HU, its standard deviation between heads, T1 signal, T2 signal); typical values, signals relative
APPEARANCE = {
    Tissue.AIR: (-1000, 0, 0.00, 0.00),
    Tissue.SKIN: (20, 10, 0.62, 0.40),
    Tissue.FAT: (-95, 5, 1.00, 0.75),
    Tissue.MUSCLE: (55, 3, 0.50, 0.28),
    Tissue.CORTICAL_BONE: (1150, 90, 0.06, 0.04),
    Tissue.CANCELLOUS_BONE: (380, 50, 0.70, 0.50),
    Tissue.CEREBROSPINAL_FLUID: (8, 2, 0.20, 1.00),
    Tissue.GREY_MATTER: (38, 1, 0.65, 0.58),
    Tissue.WHITE_MATTER: (30, 1, 0.90, 0.40),
    Tissue.EYE: (12, 2, 0.25, 0.95),
    Tissue.MUCOSA: (40, 4, 0.55, 0.80),
    Tissue.CAVITY: (-1000, 0, 0.00, 0.00),
    Tissue.CYST: (2, 3, 0.30, 0.95),  # fluid, as in an old infarct: 30 HU under the brain round it
    Tissue.BLEED: (72, 4, 0.45, 0.18),  # acute (deoxyhaemoglobin, dark in T2): 40 HU above it
}
CONTRASTS = {"t1": 2, "t2": 3}  # column of APPEARANCE
POINT_SPREAD = 0.6  # standard deviation in voxels: tissues share their border voxels


def render_mr(
    labels: Labels, seed: int, *, spacing: float = 2.4, contrast: str = "t1", bias: float = 0.25, noise: float = 0.02
) -> Volume:
    """The head as MR of an arbitrary scale.

    Args:
        labels: from :func:`make_head`, shape (i, j, k).
        seed: of the scanner: gain, bias field and noise.
        spacing: of the labels' grid, mm.
        contrast: "t1" or "t2".
        bias: largest deviation from 1 of the smooth gain of the receiving coil.
        noise: of each quadrature channel, relative to fat in T1; the magnitude of both is Rician.

    Raises:
        ConfigError: an unknown contrast.
    """
    from scipy import ndimage

    if contrast not in CONTRASTS:
        raise ConfigError(f"contrast: {contrast!r}; allowed are {', '.join(CONTRASTS)}")
    rng = np.random.default_rng([seed, 1])
    table = np.array([row[CONTRASTS[contrast]] for row in APPEARANCE.values()])
    signal = _paint(labels, table * (1 + 0.03 * rng.standard_normal(table.size)))
    coarse = rng.uniform(1 - bias, 1 + bias, (4, 4, 4))
    at = np.meshgrid(*(np.linspace(0, 3, n) for n in labels.shape), indexing="ij")
    gain = ndimage.map_coordinates(coarse, at, order=3, mode="nearest")
    channels = noise * rng.standard_normal((2, *labels.shape), dtype=np.float32)
    magnitude = np.hypot(signal * gain + channels[0], channels[1]) * rng.uniform(400, 1600)
    return Volume(magnitude[None], _affine(labels, spacing), unit="a.u.")


def render_ct(labels: Labels, seed: int, *, spacing: float = 2.4, noise: float = 12.0) -> Volume:
    """The head as CT in HU.

    Args:
        labels: from :func:`make_head`, shape (i, j, k).
        seed: of the density of its tissues and the noise.
        spacing: of the labels' grid, mm.
        noise: standard deviation in HU.
    """
    from scipy import ndimage

    rng = np.random.default_rng([seed, 2])
    table = np.array([hu + spread * rng.standard_normal() for hu, spread, _, _ in APPEARANCE.values()])
    texture = ndimage.gaussian_filter(rng.standard_normal(labels.shape, dtype=np.float32), 1)
    bone = (labels == Tissue.CORTICAL_BONE) | (labels == Tissue.CANCELLOUS_BONE)
    ct = _paint(labels, table, extra=np.where(bone, 120 * texture / texture.std(), 0))
    ct += noise * rng.standard_normal(labels.shape, dtype=np.float32)
    return Volume(np.clip(ct, -1024, 3071)[None], _affine(labels, spacing), unit="HU")


def write_cohort(
    folder: str | Path,
    *,
    heads: tuple[int, int, int] = (4, 4, 2),
    shape: tuple[int, int, int] = (64, 64, 48),
    spacing: float = 3.6,
    seed: int = 0,
    contrast: str = "t1",
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Write an unpaired cohort with a paired test set.

        train/mr/head01.nii.gz, head02/ (a DICOM series), ...    test/mr/head09.nii.gz, ...   test/ct/, test/mask/
        train/ct/head05.nii.gz, head06/, ... (other heads)       test/mr_dicom/head09/, ...

    Args:
        folder: made where missing; scans of the same names in it are replaced.
        heads: how many to train on as MR, as CT, and to test on as both.
        shape: voxels (i, j, k) of every scan.
        spacing: isotropic voxel size, mm.
        seed: of the whole cohort; each head has its own stream, whatever the numbers of heads.
        contrast: of the MR, "t1" or "t2".
        progress: called with (scans written, of how many, name).

    Returns:
        The folder.

    Raises:
        ScanError: fewer than one head in a part, or the folder cannot be written.
    """
    from medcycle.io import write_volume

    if min(heads) < 1:
        raise ScanError(f"{folder}: a cohort of {heads} heads; expected at least one MR, one CT and one test head")
    root = Path(folder)
    parts = ["mr"] * heads[0] + ["ct"] * heads[1] + ["test"] * heads[2]
    for index, part in enumerate(parts):
        name = f"head{index + 1:02d}"
        own = int(np.random.default_rng([seed, index]).integers(2**31))
        labels = make_head(own, shape, spacing)
        mr, ct = render_mr(labels, own, spacing=spacing, contrast=contrast), render_ct(labels, own, spacing=spacing)
        if part == "test":
            mask = Volume(body_mask(labels)[None].astype(np.float32), mr.affine, unit="uint8")
            for kind, volume in (("mr", mr), ("ct", ct), ("mask", mask)):
                write_volume(volume, root / "test" / kind / f"{name}.nii.gz")
            write_volume(mr, root / "test" / "mr_dicom" / name)
        else:
            write_volume(mr if part == "mr" else ct, root / "train" / part / (name if index % 2 else f"{name}.nii.gz"))
        if progress is not None:
            progress(index + 1, len(parts), name)
    return root


def _paint(
    labels: Labels, table: npt.NDArray[np.float64], extra: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Every tissue's value, plus `extra`, seen through the scanner's point spread."""
    from scipy import ndimage

    values = table.astype(np.float32)[labels]
    blurred: npt.NDArray[np.float32] = ndimage.gaussian_filter(
        values if extra is None else values + extra, POINT_SPREAD
    )
    return blurred


def _affine(labels: Labels, spacing: float) -> npt.NDArray[np.float64]:
    """RAS+, the grid centred on the origin."""
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [-spacing * (n - 1) / 2 for n in labels.shape]
    return affine
