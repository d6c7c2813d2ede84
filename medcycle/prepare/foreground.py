"""Where the body is: a solid mask, from CT by its HU and from MR by a threshold that adapts to noise and scale."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Affine = npt.NDArray[np.float64]

BODY_HU = -500.0  # between air (-1000) and fat (-100): half way up the edge of the skin
WORKING_MM = 2.0  # the mask is found on blocks of about this size: 8 times fewer voxels at 1 mm, same outline to 1 mm
CLOSING_MM = 6.0  # bridges bone and air behind thin skin (sinuses, ear canals)
MARGIN_MM = 2.0  # the outer edge of the skin, part air, is kept too
DARK_SHARE = 0.2  # of the median brightness of MR tissue: what is darker is air or bone
NOISE_SIGMA = 0.5  # blocks; smoothing of a noisy MR before its threshold
DARK = 0.15  # of the range: darker than any skin
EDGE = 0.4  # of the tissue beside it: less than half, as skin is no sharp edge either (half way would cut into it)
SMOOTH_MM = 1.6  # before a scan is compared with the background's noise
NOISE_SHARE = 1.6  # of the background's mean: less than that is noise (bone has some signal: 2.5 times in the heads)
EDGE_SHARE = 2.0  # likewise of single voxels: 96 % of Rayleigh noise is less
CAVITY_MM = 3.0  # a ball of this radius fits into air cavities, not into compact bone
RIM_MM = 8.0  # how deep the air may reach that the closing and the margin took in
KEEP_SHARE = 0.05  # components smaller than this share of the largest are specks (noise, cables)
CORE_MM = 6.0  # what a ball of this radius does not fit into is thin: table tops, head holders, but ears too
PLATE_MM = 80.0  # a thin part this long along two axes is no ear and no nose, but a plate or a shell
PLATE_SHARE = 0.8  # of a frame smaller than that
AWAY_MM = 10.0  # plates lie this far from the body on average; thin parts of a face or neck hug it
HOLLOW_MM = 20.0  # a ball of this radius fits into lungs and skulls, but not between a body and what it lies on


def find_foreground(array: Floats, affine: Affine, modality: str, threshold: float | None = None) -> Mask:
    """The body as a solid mask: bone, sinuses and everything else inside the skin count as body.

    CT: above -500 HU, without the table or head holder. MR: above a share of the tissue's brightness and above the
    noise of the background. Then specks are dropped, gaps closed, holes filled in 3D and in every axial plane (air
    spaces that open outwards elsewhere).

    Args:
        array: (channel, i, j, k) in HU (ct) or arbitrary units (mr); channels are averaged.
        affine: voxel -> RAS+ mm; says how large voxels are and which axis runs head to foot.
        modality: "ct" or "mr".
        threshold: the value above which a voxel is tissue; None finds it as said.

    Returns:
        bool (i, j, k); empty where there is no body (a constant image, or only air).
    """
    values = array.mean(axis=0) if len(array) > 1 else array[0]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    factors = np.maximum(np.rint(WORKING_MM / spacing), 1).astype(int)
    axial = int(np.argmax(np.abs(affine[2, :3]) / spacing))
    coarse, size = _block_mean(values, factors), spacing * factors
    if threshold is None and modality == "mr":
        tissue = _mr_tissue(coarse)
    else:
        tissue = coarse > (BODY_HU if threshold is None else threshold)
    if tissue.all() or not tissue.any():
        return np.full(values.shape, bool(tissue.any() and np.ptp(values) > 0))
    parts = _large_parts(_without_table(tissue, size, axial) if modality == "ct" else tissue)
    body = _grow(_solid(parts, size, axial), MARGIN_MM, size)
    for axis, factor in enumerate(factors):
        body = np.repeat(body, factor, axis=axis)
    return np.ascontiguousarray(body[tuple(slice(n) for n in values.shape)])


def without_air_rim(mask: Mask, signal: Floats, affine: Affine) -> Mask:
    """The body of an MR without the air that closing and margin took in: dark voxels that reach in from outside.

    Bone is as dark, but the skin lies between it and the air; no more than the outermost RIM_MM are looked at, so that
    nothing leaks in through nose and ears. Of what is left, the outermost voxels go that hold more air than tissue.

    Args:
        mask: (i, j, k), as :func:`find_foreground` gives it.
        signal: (i, j, k), from 0, air, to about 1.
        affine: voxel -> RAS+ mm.
    """
    from scipy import ndimage

    rim = _grow(~mask, RIM_MM, np.linalg.norm(affine[:3, :3], axis=0))
    outside = ndimage.binary_propagation(~mask, mask=~mask | (rim & (signal < DARK)))
    around = ndimage.generate_binary_structure(3, 3)
    edge = ndimage.binary_dilation(outside, around) & (signal < EDGE * ndimage.maximum_filter(signal, footprint=around))
    body: Mask = ~(outside | edge)
    return body


def cavities(signal: Floats, mask: Mask, affine: Affine) -> Mask:
    """Air inside the body of an MR: as dark as the noise of the background, and thicker than compact bone.

    Bone in an MR is hardly brighter than air, but its plates are thin; sinuses, the nose and the throat are not. Where
    the background holds no noise (scans cut out, or filtered) nothing is found.

    Args:
        signal: (i, j, k), from 0, air, in any scale.
        mask: (i, j, k), the body.
        affine: voxel -> RAS+ mm.
    """
    from scipy import ndimage

    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    widths = [SMOOTH_MM / s if n > 1 else 0 for s, n in zip(spacing, signal.shape, strict=True)]
    smooth = ndimage.gaussian_filter(signal, widths)
    background = ~_grow(mask, RIM_MM, spacing)
    if not background.any():
        return np.zeros_like(mask)
    noise = float(smooth[background].mean())
    dark = smooth < NOISE_SHARE * noise
    thick = dark & _grow(~_grow(mask & ~dark, CAVITY_MM, spacing), CAVITY_MM, spacing) & mask
    # Smoothing has brightened the cavity's edge: what is plainly dark there belongs to it.
    air: Mask = thick | (mask & _grow(thick, 2 * SMOOTH_MM, spacing) & (signal < EDGE_SHARE * noise))
    return air


def _mr_tissue(values: Floats) -> Mask:
    """Where an MR is tissue: above a share of the tissue's own brightness, and above the background's noise.

    Otsu's threshold (IEEE Trans. SMC 1979) finds bright tissue; dark tissue (CSF, muscle far from the coil) lies below
    it, so the threshold is a share of the bright tissue's median. Where noise reaches that high, the image is smoothed
    first, and the threshold raised to the background's mean and 3.5 times its spread.
    """
    from scipy import ndimage

    base, top = (float(v) for v in np.percentile(values, (0.1, 99.5)))  # single odd voxels do not set the scale
    if top <= base:  # a few bright voxels at most
        return values > base
    scaled = np.clip((values - base) / (top - base), 0, 1)
    threshold, noise = _levels(scaled)
    if noise > threshold:
        scaled = ndimage.gaussian_filter(scaled, [NOISE_SIGMA if n > 1 else 0 for n in scaled.shape])
        threshold, noise = _levels(scaled)
    tissue: Mask = scaled > max(threshold, noise)
    return tissue


def _levels(scaled: Floats) -> tuple[float, float]:
    """The share of the tissue's brightness that is still tissue, and the level that background noise stays under."""
    bright = float(np.median(scaled[scaled > _otsu(scaled)]))
    threshold = DARK_SHARE * bright
    noise = 0.0
    for _ in range(3):  # the background is what lies under the threshold, which depends on the background
        background = scaled[scaled <= max(threshold, noise)]
        noise = min(float(background.mean() + 3.5 * background.std()), 0.5 * bright) if background.size else 0.0
    return threshold, noise


def _otsu(scaled: Floats) -> float:
    """The threshold in [0, 1] with the largest variance between the two classes."""
    counts, edges = np.histogram(scaled, bins=256, range=(0, 1))
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    total = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total[:-1] / below - (total[-1] - total[:-1]) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between))])


def _block_mean(values: Floats, factors: npt.NDArray[np.int_]) -> Floats:
    """The mean of blocks of `factors` voxels; the last block of an axis is filled up with its edge."""
    if (factors == 1).all():
        return values
    pad = [(0, -n % f) for n, f in zip(values.shape, factors, strict=True)]
    padded = np.pad(values, pad, mode="edge")
    blocks = padded.reshape([x for n, f in zip(padded.shape, factors, strict=True) for x in (n // f, f)])
    result: Floats = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    return result


def _large_parts(mask: Mask) -> Mask:
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept: Mask = (sizes >= max(KEEP_SHARE * sizes.max(), 1))[labels]
    return kept


def _without_table(tissue: Mask, spacing: npt.NDArray[np.float64], axial: int) -> Mask:
    """CT tissue without the table top or head holder, whether the body touches it or not.

    An opening tells the thick from the thin. Of what is thin and outside, connected pieces that are long along two axes
    are plates and shells and go, with whatever smaller thick part hangs on them alone (a rail); ears, noses and fingers
    stay, and so does the wall of a wide hollow (a chest, an empty skull).
    """
    from scipy import ndimage

    core = ~_grow(~tissue, CORE_MM, spacing)
    solid = _solid(_grow(_large_parts(core), CORE_MM, spacing) & tissue, spacing, axial)
    away = ndimage.distance_transform_edt(~solid, sampling=spacing) if solid.any() else np.full(tissue.shape, np.inf)
    labels, _ = ndimage.label(tissue & ~solid, ndimage.generate_binary_structure(3, 3))
    limits = np.minimum(PLATE_MM, PLATE_SHARE * np.array(tissue.shape) * spacing)
    kept = tissue
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        extent = np.array([part.stop - part.start for part in box]) * spacing
        if (extent >= limits).sum() < 2:
            continue
        piece = labels == number
        if away[piece].mean() < AWAY_MM:
            continue
        rest = kept & ~piece
        hollow = _solid(kept, spacing, axial) & ~_solid(rest, spacing, axial) & ~piece
        if _grow(~hollow, HOLLOW_MM, spacing).all():
            kept = rest
    return kept if kept.any() else tissue


def _solid(mask: Mask, spacing: npt.NDArray[np.float64], axial: int) -> Mask:
    """Closed by CLOSING_MM, holes filled in 3D and in every axial plane."""
    return _fill(_fill(_close(mask, CLOSING_MM, spacing), None), axial)


def _fill(mask: Mask, axis: int | None) -> Mask:
    """Holes filled: what is not connected to the border (of each plane across `axis`, or of the whole for None)."""
    from scipy import ndimage

    structure = ndimage.generate_binary_structure(3, 1)
    open_axes = [a for a in range(3) if a != axis and (mask.shape[a] > 1 or axis is not None)]
    if axis is not None:
        structure[tuple(slice(None) if a != axis else [0, 2] for a in range(3))] = False
    labels, count = ndimage.label(~mask, structure)
    outside = np.zeros(count + 1, dtype=bool)
    for a in open_axes:
        outside[np.take(labels, (0, -1), axis=a)] = True
    outside[0] = False
    result: Mask = ~outside[labels]
    return result


def _grow(mask: Mask, millimetres: float, spacing: npt.NDArray[np.float64]) -> Mask:
    """Dilated by about a ball: steps of one voxel, over faces and edges in turn, along the axes still short."""
    from scipy import ndimage

    reach = np.rint(millimetres / spacing).astype(int)
    steps = int(reach.max())
    for step in range(steps):
        structure = ndimage.generate_binary_structure(3, 1 + step % 2)
        for axis in range(3):
            if reach[axis] * (step + 1) // steps == reach[axis] * step // steps:
                structure[tuple([0, 2] if a == axis else slice(None) for a in range(3))] = False
        mask = ndimage.binary_dilation(mask, structure)
    return mask


def _close(mask: Mask, millimetres: float, spacing: npt.NDArray[np.float64]) -> Mask:
    """Dilated and eroded again; what lies beyond the frame erodes nothing (a neck cut off by the frame stays)."""
    closed: Mask = mask | ~_grow(~_grow(mask, millimetres, spacing), millimetres, spacing)
    return closed
