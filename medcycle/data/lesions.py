"""Heads with lesions whose place is known, for the test of Cohen 2018: does a translation remove or invent them?

Cohen 2018 (Distribution matching losses can hallucinate features in medical image translation): where the training
scans of only one domain have lesions, a translation that matches distributions takes lesions away or adds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medcycle.data.painting import render_ct, render_mr
from medcycle.data.phantom import Labels, Mask, Tissue, make_head
from medcycle.errors import ScanError
from medcycle.volume import Volume

RADII = (6.0, 14.0)  # mm, of the smallest and the largest lesion (of a sphere of the same volume)
STRETCH = 1.25  # a lesion's axes are up to this much longer or shorter than its radius
CLEARANCE = 7.0  # mm of brain tissue between two lesions
DEPTH = 4.0  # mm of brain tissue from a lesion to bone and to the ventricles
LESIONS = (Tissue.CYST, Tissue.BLEED)
HEALTHY, ILL = "healthy", "lesions"  # ends of the folders' names


def brain_mask(labels: Labels) -> Mask:
    """The brain with its fluid and its lesions: where lesions are looked for."""
    inside = (Tissue.CEREBROSPINAL_FLUID, Tissue.GREY_MATTER, Tissue.WHITE_MATTER, *LESIONS)
    mask: Mask = np.isin(labels, inside)
    return mask


def add_lesions(
    labels: Labels, seed: int, count: int, *, spacing: float = 2.4, tissues: Sequence[Tissue] = LESIONS
) -> tuple[Labels, Labels]:
    """Paint ellipsoids into grey and white matter.

    Args:
        labels: from :func:`make_head`, shape (i, j, k); not changed.
        seed: of places, sizes (6 to 14 mm) and shapes.
        count: how many. The largest is placed first; what finds no place of its size is tried smaller, down to 6 mm.
        spacing: of the labels' grid, mm.
        tissues: what they are made of, in turn.

    Returns:
        The head with its lesions, and int16 numbers 1 ... count of the lesions in their places, 0 elsewhere.

    Raises:
        ScanError: there is no room for so many.
    """
    from scipy.ndimage import binary_closing, distance_transform_edt

    rng = np.random.default_rng([seed, 3])
    painted, numbers = labels.copy(), np.zeros_like(labels)
    matter = np.isin(labels, (Tissue.GREY_MATTER, Tissue.WHITE_MATTER))
    solid = binary_closing(np.pad(matter, 2))  # sulci are closed, ventricles stay open
    depth = distance_transform_edt(solid, sampling=spacing)[2:-2, 2:-2, 2:-2]
    grid = np.indices(labels.shape, dtype=np.float32) * np.float32(spacing)
    for number, radius in enumerate(sorted(rng.uniform(*RADII, count), reverse=True), 1):
        clear = distance_transform_edt(numbers == 0, sampling=spacing) if numbers.any() else np.inf
        stretch = rng.uniform(1 / STRETCH, STRETCH, 3)
        stretch /= stretch.prod() ** (1 / 3)
        while True:
            reach = radius * stretch.max()
            room = np.argwhere(matter & (depth >= reach + DEPTH) & (clear >= reach + CLEARANCE))
            if len(room):
                break
            radius *= 0.9
            if radius < RADII[0]:
                raise ScanError(f"no room for {count} lesions in this head (seed {seed}); expected fewer")
        centre = room[rng.integers(len(room))] * spacing
        inside = sum(((grid[n] - centre[n]) / (radius * stretch[n])) ** 2 for n in range(3)) <= 1
        painted[inside], numbers[inside] = tissues[(number + seed) % len(tissues)], number
    return painted, numbers


def write_lesion_cohort(
    folder: str | Path,
    *,
    heads: tuple[int, int, int] = (6, 6, 8),
    lesions: int = 4,
    shape: tuple[int, int, int] = (64, 72, 32),
    spacing: float = 3.0,
    seed: int = 0,
    contrast: str = "t2",
    tissues: Sequence[Tissue] = LESIONS,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Write heads twice, as they are and with lesions; all else, noise included, is the same in both.

        train/mr-healthy/head01.nii.gz, ...   train/mr-lesions/     the same heads
        train/ct-healthy/head07.nii.gz, ...   train/ct-lesions/     other heads
        test/mr-healthy, test/mr-lesions, test/ct-healthy, test/ct-lesions   head13.nii.gz, ...: unseen heads, all four
        test/numbers (of the lesions, 0 elsewhere), test/tissues (of the healthy head)

    Args:
        folder: made where missing; scans of the same names in it are replaced.
        heads: how many to train on as MR, as CT, and to test on.
        lesions: in each head that has any.
        shape: voxels (i, j, k); the default holds the brain above the base of the skull.
        spacing: isotropic voxel size, mm.
        seed: of the whole cohort.
        contrast: of the MR, "t1" or "t2".
        tissues: what the lesions are made of, in turn.
        progress: called with (heads written, of how many, name).

    Returns:
        The folder.

    Raises:
        ScanError: fewer than one head in a part or one lesion a head, no room for them, or an unwritable folder.
    """
    from medcycle.io import write_volume

    if min(*heads, lesions) < 1:
        raise ScanError(f"{folder}: {heads} heads with {lesions} lesions each; expected at least one of each")
    root = Path(folder)
    parts = ["mr"] * heads[0] + ["ct"] * heads[1] + ["test"] * heads[2]
    for index, part in enumerate(parts):
        name = f"head{index + 1:02d}.nii.gz"
        own = int(np.random.default_rng([seed, index]).integers(2**31))
        healthy = make_head(own, shape, spacing)
        ill, numbers = add_lesions(healthy, own, lesions, spacing=spacing, tissues=tissues)
        place = root / ("test" if part == "test" else "train")
        for labels, end in ((healthy, HEALTHY), (ill, ILL)):
            if part in ("mr", "test"):
                mr = render_mr(labels, own, spacing=spacing, contrast=contrast)
                write_volume(mr, place / f"mr-{end}" / name)
            if part in ("ct", "test"):
                write_volume(render_ct(labels, own, spacing=spacing), place / f"ct-{end}" / name)
        if part == "test":
            affine = render_ct(healthy, own, spacing=spacing).affine
            for kind, values in (("numbers", numbers), ("tissues", healthy)):
                write_volume(Volume(values[None].astype(np.float32), affine, unit="uint8"), place / kind / name)
        if progress is not None:
            progress(index + 1, len(parts), name)
    return root
