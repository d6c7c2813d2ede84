"""Procedural heads: anatomy as implicit surfaces in millimetres, so that any grid can be cut from the same head.

A head is drawn once (:class:`Phantom`: size, shape, tilt, thickness of skull and fat, ventricles, folds) and turned
into a map of tissues on any grid. Typical, not real: for demonstrations and tests, where the truth must be known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from medcycle.data.shapes import Field, Space, Triple, join

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int16]


class Tissue(IntEnum):
    """The values of a label map. AIR is outside the head; CAVITY is air inside it; lesions are added to a head."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    CORTICAL_BONE = 4
    CANCELLOUS_BONE = 5
    CEREBROSPINAL_FLUID = 6
    GREY_MATTER = 7
    WHITE_MATTER = 8
    EYE = 9
    MUCOSA = 10
    CAVITY = 11
    CYST = 12
    BLEED = 13


@dataclass(frozen=True)
class Phantom:
    """One head's anatomy. Lengths in mm, angles in radians; x to the Right, y Anterior, z Superior.

    Attributes:
        scale: size along x, y, z relative to a typical adult head (148 x 184 mm at its widest).
        angles: tilt about x (nod), y (lean) and z (turn).
        shift: of the head's centre in the grid, mm.
        skull, scalp, fat: mean thickness of the vault, of what lies over it, and of the fat under the skin, mm.
        ventricles: their size relative to typical.
        nose: how far it sticks out relative to typical.
        texture: seed of the folds of the cortex and of every other irregularity.
    """

    scale: Triple
    angles: Triple
    shift: Triple
    skull: float
    scalp: float
    fat: float
    ventricles: float
    nose: float
    texture: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Phantom:
        """A random head of ordinary proportions."""
        whole = rng.uniform(0.94, 1.04)
        scale = whole * rng.uniform(0.95, 1.05, 3)
        angles = np.deg2rad(rng.uniform((-8, -5, -6), (8, 5, 6)))
        shift = rng.uniform(-4, 4, 3)
        skull, scalp, fat = rng.uniform(6.0, 9.0), rng.uniform(5.5, 7.5), rng.uniform(2.5, 5.0)
        ventricles, nose = rng.uniform(0.8, 1.5), rng.uniform(0.8, 1.2)
        texture = int(rng.integers(2**31))
        return cls(_triple(scale), _triple(angles), _triple(shift), skull, scalp, fat, ventricles, nose, texture)

    def labels(self, shape: Sequence[int], spacing: float) -> Labels:
        """The tissues on a grid (i to the Right, j Anterior, k Superior) with the vertex near its top.

        Args:
            shape: voxels (i, j, k). 240 mm hold a whole head in i and j; what k cannot hold is cut off at the neck.
            spacing: isotropic voxel size in mm.

        Returns:
            int16 values of :class:`Tissue`, shape (i, j, k).
        """
        space = Space.of(shape, spacing, self.scale, self.angles, self.shift, self.texture)
        outside, cranium = _surface(self, space)
        labels = np.zeros(tuple(shape), np.int16)
        _soft_tissue(self, space, labels, outside)
        _spine(space, labels, outside)
        _face_bones(space, labels, outside)
        cavity, vault = _skull(self, space, labels, cranium, outside)
        _brain(self, space, labels, cavity)
        _orbits(space, labels, outside, cavity)
        _airways(space, labels, outside, cavity, vault)
        return labels


def make_head(seed: int, shape: Sequence[int] = (96, 96, 80), spacing: float = 2.4) -> Labels:
    """The label map of the head with this seed: :meth:`Phantom.draw`, then :meth:`Phantom.labels`."""
    return Phantom.draw(np.random.default_rng(seed)).labels(shape, spacing)


def body_mask(labels: Labels) -> Mask:
    """The head with the air cavities inside it: where metrics are taken."""
    mask: Mask = labels != Tissue.AIR
    return mask


def _triple(values: npt.NDArray[np.float64]) -> Triple:
    x, y, z = (float(v) for v in values)
    return x, y, z


# The parts of the head, outermost first; each paints over what was there. ------------------------------------------


def _surface(phantom: Phantom, space: Space) -> tuple[Field, Field]:
    """Distances to the skin and to the cranium's part of it."""
    cranium = space.ellipsoid(0, 0, 0, (74, 92, 84))
    face = join(space.ellipsoid(0, 38, -52, (56, 50, 66)), space.ellipsoid(0, 42, -92, (46, 46, 30)), 12)
    neck = np.maximum(space.column(-22, (54, 58)), space.z + 45)
    outside = join(join(cranium, face, 14), neck, 14)
    outside = join(outside, space.ellipsoid(0, 84 + 4 * phantom.nose, -44, (12, 18 * phantom.nose, 20)), 8)
    return join(outside, space.ellipsoid(74, -8, -24, (7, 15, 21)), 10), cranium


def _soft_tissue(phantom: Phantom, space: Space, labels: Labels, outside: Field) -> None:
    """Skin over fat over muscle; strands of fat between the muscles."""
    skin = np.float32(2.4)
    labels[outside < 0] = Tissue.MUSCLE
    fat = -outside < skin + phantom.fat * np.clip(1 + 0.4 * space.noise(10, 30), 0.3, 2)
    labels[(outside < 0) & (fat | (space.noise(11, 12) > 0.9))] = Tissue.FAT
    labels[(outside < 0) & (outside > -skin)] = Tissue.SKIN


def _bone(labels: Labels, where: Field, inside: Mask, cortex: float = 2.2) -> None:
    """A bone with a dense cortex of this many mm round a spongy core."""
    labels[(where < 0) & inside] = Tissue.CORTICAL_BONE
    labels[(where < -cortex) & inside] = Tissue.CANCELLOUS_BONE


def _spine(space: Space, labels: Labels, outside: Field) -> None:
    """Vertebrae with discs, and the canal with the cord."""
    below = (space.z < -66) & (outside < -8)
    disc = np.mod(space.z, 19) < 4
    _bone(labels, np.minimum(space.column(-14, (13, 11)), space.column(-38, (20, 19))), below & ~disc)
    labels[(space.column(-14, (12, 10)) < 0) & below & disc] = Tissue.MUCOSA


def _face_bones(space: Space, labels: Labels, outside: Field) -> None:
    """Mandible, teeth, maxilla with the hard palate, and the cheek bones."""
    deep = outside < -5
    front = space.y > 12
    jaw = np.maximum(np.abs(space.column(32, (41, 46))) - 5, np.abs(space.z + 102) - 10)
    _bone(labels, jaw, deep & front)
    _bone(labels, space.ellipsoid(43, 14, -74, (5, 14, 30)), deep)
    arch = np.abs(space.column(42, (26, 33))) - 5
    _bone(labels, np.maximum(arch, np.abs(space.z + 68) - 7), deep & (space.y > 35))
    labels[(arch < -1) & (np.abs(space.z + 82) < 8) & (space.y > 35) & deep] = Tissue.CORTICAL_BONE
    _bone(labels, space.ellipsoid(0, 50, -70, (25, 28, 3)), deep)
    _bone(labels, np.maximum(np.abs(space.column(28, (60, 44))) - 3.5, np.abs(space.z + 48) - 5), deep & front)
    _bone(labels, space.ellipsoid(44, 52, -52, (11, 10, 11)), deep)


def _skull(phantom: Phantom, space: Space, labels: Labels, cranium: Field, outside: Field) -> tuple[Field, Field]:
    """The vault in three layers and the base; returns the distance to the cranial cavity and the bone's thickness."""
    temple: Field = np.exp(-(((space.y - 25) / 26) ** 2) - ((space.z + 14) / 28) ** 2) * (space.side > 30).astype(
        np.float32
    )
    scalp = phantom.scalp + 7 * temple
    thickness = phantom.skull * (1 + 0.15 * space.noise(20, 35)) * (1 - 0.35 * temple)
    floor = (-46 + 17 * np.tanh((space.y - 8) / 22) - space.z) * np.float32(0.85)  # front, middle and back fossa
    cavity = -join(-(cranium + scalp + thickness), -floor, 8)
    base = floor > cranium + scalp + thickness - 4
    bone = (cavity > 0) & (cavity < thickness) & (outside < -3)
    labels[bone] = Tissue.CORTICAL_BONE
    spongy = (cavity > 0.3 * thickness) & (cavity < 0.68 * thickness) & (space.noise(21, 10) > -0.6)
    labels[bone & spongy & ~base] = Tissue.CANCELLOUS_BONE
    labels[bone & base & (space.noise(22, 8) > 0.8)] = Tissue.CANCELLOUS_BONE
    _bone(labels, space.ellipsoid(38, -14, -48, (22, 12, 12)), cavity > 0, cortex=6)
    mastoid = (space.ellipsoid(52, -22, -56, (10, 13, 17)) < 0) & (cavity > 0) & (outside < -4)
    labels[mastoid] = np.where(space.noise(23, 5) > 0.2, Tissue.CAVITY, Tissue.CORTICAL_BONE)[mastoid]
    opening = (space.column(-36, (12, 11)) < 0) & (space.z < -40) & (outside < -8)
    labels[opening & (cavity > 0)] = Tissue.CEREBROSPINAL_FLUID
    labels[(space.column(-36, (6, 5)) < 0) & opening & (cavity > 0)] = Tissue.WHITE_MATTER
    return cavity, thickness


def _brain(phantom: Phantom, space: Space, labels: Labels, cavity: Field) -> None:
    """Fluid, folded cortex, white matter, deep nuclei, cerebellum, brain stem and ventricles."""
    depth = -cavity - (1.9 + 0.5 * space.noise(30, 15))  # under the brain's surface, mm
    fold = np.abs(space.noise(31, 7))  # its zero crossings are the sulci: thin sheets, lined with grey matter
    brain = depth > 0
    labels[cavity < 0] = Tissue.CEREBROSPINAL_FLUID
    labels[brain] = Tissue.WHITE_MATTER
    labels[brain & ((depth < 3.2) | ((fold < 0.6) & (depth < 17)))] = Tissue.GREY_MATTER
    split = (space.side < 1.1) & ((space.z > 24) | (np.abs(space.y) > 42))
    labels[brain & (((fold < 0.13) & (depth < 15)) | split)] = Tissue.CEREBROSPINAL_FLUID
    nuclei: list[tuple[Triple, Triple]] = [
        ((11, -8, 3), (8, 14, 9)),
        ((14, 18, 11), (5, 12, 8)),
        ((26, 8, 1), (6, 17, 10)),
    ]
    for (side, y, z), radii in nuclei:
        labels[(space.ellipsoid(side, y, z, radii) < 0) & brain] = Tissue.GREY_MATTER
    little = space.ellipsoid(0, -50, -42, (46, 30, 21))
    folia = np.sin(space.z * (2 * np.pi / 8) + 1.5 * space.noise(32, 14)) > -0.1
    labels[(little < 1.8) & brain] = Tissue.CEREBROSPINAL_FLUID
    labels[(little < 0) & brain] = Tissue.WHITE_MATTER
    labels[(little < 0) & brain & ((little > -3) | (folia & (little > -13)))] = Tissue.GREY_MATTER
    stem = join(space.rod((0, -12, -16), (0, -34, -75), 10), space.ellipsoid(0, -14, -36, (15, 12, 13)), 4)
    labels[(stem < 2.5) & (cavity < 0) & (space.z < -24)] = Tissue.CEREBROSPINAL_FLUID
    labels[(stem < 0) & (cavity < 0)] = Tissue.WHITE_MATTER
    v = phantom.ventricles
    hollows: list[tuple[Triple, Triple]] = [
        ((9, 10, 15), (5.5 * v, 26, 7 * v)),
        ((19, -30, 10), (6 * v, 16, 9 * v)),
        ((0, -4, -2), (2.2 * v, 12, 10)),
        ((0, -31, -42), (6 * v, 5, 8)),
    ]
    for (side, y, z), radii in hollows:
        labels[(space.ellipsoid(side, y, z, radii) < 0) & brain] = Tissue.CEREBROSPINAL_FLUID


def _orbits(space: Space, labels: Labels, outside: Field, cavity: Field) -> None:
    """Bony sockets filled with fat, the eyes, their nerves and muscles."""
    free = (cavity > 2) & (outside < -2.4)
    socket = join(space.ellipsoid(31, 54, -30, (18, 18, 17)), space.rod((27, 50, -30), (14, 20, -32), 8), 8)
    labels[(socket < 2.6) & free & (outside < -6)] = Tissue.CORTICAL_BONE
    labels[(socket < 0) & free] = Tissue.FAT
    for start, end in (((40, 56, -30), (16, 20, -32)), ((21, 56, -30), (12, 20, -32))):
        labels[(space.rod(start, end, 2.0) < 0) & (socket < 0) & free] = Tissue.MUSCLE
    labels[(space.rod((31, 50, -30), (9, 18, -31), 2.4) < 0) & (socket < 0) & free] = Tissue.WHITE_MATTER
    eye = space.ellipsoid(31.5, 61, -30, (12, 12, 12))
    labels[(eye < 0) & free] = Tissue.EYE
    labels[(eye < 0) & (eye > -1.2) & free] = Tissue.MUSCLE
    labels[(space.ellipsoid(31.5, 69.5, -30, (5, 2.5, 5)) < 0) & free] = Tissue.MUSCLE  # the lens


def _airways(space: Space, labels: Labels, outside: Field, cavity: Field, vault: Field) -> None:
    """Sinuses, nose, mouth, throat and ear canals; nothing of it reaches into the cranial cavity."""
    free = (cavity > 1.5) & (outside < -1.5)
    sinuses: list[tuple[Triple, Triple]] = [
        ((9, 81, -14), (9, 4.5, 10)),  # frontal
        ((7, 20, -54), (7.5, 11, 8)),  # sphenoid
        ((27, 54, -60), (12.5, 15, 14)),  # maxillary
    ]
    for (side, y, z), radii in sinuses:
        sinus = space.ellipsoid(side, y, z, radii)
        labels[(sinus < 2.4) & free & (outside < -5)] = Tissue.CORTICAL_BONE
        labels[(sinus < 0.8) & free] = Tissue.MUCOSA
        labels[(sinus < 0) & free] = Tissue.CAVITY
    ethmoid = (space.ellipsoid(8, 58, -36, (7, 18, 12)) < 0) & free
    labels[ethmoid] = np.where(np.abs(space.noise(40, 6)) > 0.35, Tissue.CAVITY, Tissue.CORTICAL_BONE)[ethmoid]
    nose = np.minimum(space.ellipsoid(6, 60, -55, (6, 32, 15)), space.rod((6, 84, -58), (7, 94, -64), 3.5))
    labels[(nose < 1.5) & free] = Tissue.MUCOSA
    labels[(nose < 0) & (space.side > 1.5) & free & (space.noise(41, 6) < 0.8)] = Tissue.CAVITY
    labels[(space.ellipsoid(0, 46, -90, (22, 30, 15)) < 0) & (outside < -12)] = Tissue.MUSCLE  # the tongue
    throat = np.minimum(space.rod((0, 26, -62), (0, 14, -84), 9), space.rod((0, 14, -84), (0, 12, -160), 8))
    throat = np.minimum(throat, space.ellipsoid(0, 46, -75, (20, 28, 2.5)))
    labels[(throat < 2) & free] = Tissue.MUCOSA
    labels[(throat < 0) & free] = Tissue.CAVITY
    canal = space.rod((80, -8, -38), (50, -8, -42), 3.2)
    labels[(canal < 0) & (cavity > 1.5) & (outside < 0)] = Tissue.CAVITY
