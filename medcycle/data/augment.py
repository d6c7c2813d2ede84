"""Random changes of one training sample: mirror, one affine resampling, and TorchIO's MR artefacts.

Everything random is drawn from the generator that is given, never from PyTorch's or TorchIO's own: samples are made
in background threads, where touching PyTorch's global generator would also change the training's random numbers and
break an exact resume. So TorchIO's deterministic transforms are used, with parameters drawn here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
AIR = -1.0  # on the networks' scale, outside the body


@dataclass(frozen=True)
class Augment:
    """Changes one sample (channel, *size) with values in [-1, 1], where -1 is air.

    Attributes:
        flip: probability of a mirror image along the first space axis: left-right in axial and coronal planes, in
            patches and in pictures. Sagittal planes have no left and right: set 0 for them.
        rotate: largest rotation in degrees, either way; about every axis in 3D. In voxels: meant for equal spacings.
        scale: largest change of size, as a fraction, either way.
        translate: largest shift along each axis as a fraction of the size, either way.
        bias_field, motion, ghosting, spike, noise: probability of each artefact, in samples of modality "mr" only.
    """

    flip: float = 0.5
    rotate: float = 0.0
    scale: float = 0.0
    translate: float = 0.0
    bias_field: float = 0.0
    motion: float = 0.0
    ghosting: float = 0.0
    spike: float = 0.0
    noise: float = 0.0

    def __call__(self, array: Array, rng: np.random.Generator, modality: str, *, mirror: bool = True) -> Array:
        """The changed sample: a new contiguous float32 array of the same shape, in [-1, 1].

        Args:
            array: shape (channel, h, w) or (channel, i, j, k); every channel is moved alike.
            rng: the source of everything random; the same state gives the same sample.
            modality: of the sample's domain: "mr", "ct" or "image".
            mirror: whether a mirror image is allowed at all.
        """
        array = self.geometry(array, rng, mirror=mirror)
        if modality == "mr":
            array = self._artefacts(array, rng)
        changed: Array = np.clip(array, -1, 1).astype(np.float32, order="C")
        return changed

    def geometry(self, array: Array, rng: np.random.Generator, *, mirror: bool = True) -> Array:
        """Mirrored, turned, scaled and shifted, all channels alike; without artefacts."""
        if rng.random() < self.flip and mirror:
            array = array[:, ::-1]
        if self.rotate or self.scale or self.translate:
            array = _resample(array, *self._affine(array.shape[1:], rng))
        return array

    def _affine(
        self, size: tuple[int, ...], rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """From output to input voxels: rotation and size about the centre, then the shift."""
        ndim = len(size)
        matrix = np.eye(ndim) / rng.uniform(1 - self.scale, 1 + self.scale)
        for plane in [(0, 1)] if ndim == 2 else [(0, 1), (0, 2), (1, 2)]:
            angle = np.deg2rad(rng.uniform(-self.rotate, self.rotate))
            turn = np.eye(ndim)
            turn[np.ix_(plane, plane)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            matrix = matrix @ turn
        extent = np.array(size, float)
        centre = (extent - 1) / 2
        shift = rng.uniform(-self.translate, self.translate, ndim) * extent
        return matrix, centre - matrix @ (centre + shift)

    def _artefacts(self, array: Array, rng: np.random.Generator) -> Array:
        """Artefacts on the scanner's scale, where air is 0; then prepared as a scan of such values would be.

        That is: scaled by its own bright end, and air outside the body set to -1 again.
        """
        chances = (self.bias_field, self.motion, self.ghosting, self.spike, self.noise)
        chosen = [bool(rng.random() < chance) for chance in chances]
        body = array > AIR
        if not any(chosen) or not body.any():
            return array
        signal: Array = (array + np.float32(1)) / np.float32(2)
        bright = np.percentile(signal[body], 99.5)
        for make, wanted in zip((_bias_field, _motion, _ghosting, _spike, _rician_noise), chosen, strict=True):
            if wanted:
                signal = make(signal, rng)
        signal = np.abs(signal)  # a magnitude image
        gain = bright / max(float(np.percentile(signal[body], 99.5)), 1e-6)
        changed: Array = np.where(body, 2 * gain * signal - 1, AIR).astype(np.float32)
        return changed


def _resample(array: Array, matrix: npt.NDArray[np.float64], offset: npt.NDArray[np.float64]) -> Array:
    """Linear interpolation, air beyond the border."""
    from scipy import ndimage

    channels = [ndimage.affine_transform(channel, matrix, offset, order=1, cval=AIR) for channel in array]
    resampled: Array = np.stack(channels)
    return resampled


def _apply(transform: Any, signal: Array) -> Array:
    """Run a TorchIO transform; a plane (C, h, w) becomes (C, 1, h, w).

    The plane's axes must come last: Motion joins its spectra along the last one. `apply_transform` is called rather
    than the transform, whose call draws from PyTorch's global generator even where nothing is random.
    """
    import torch
    import torchio

    volume = np.ascontiguousarray(signal.reshape(len(signal), *(1,) * (4 - signal.ndim), *signal.shape[1:]))
    image: Any = torchio.ScalarImage  # untyped
    subject = torchio.Subject(mr=image(tensor=torch.from_numpy(volume)))
    changed: Array = transform.apply_transform(subject)["mr"].data.numpy().reshape(signal.shape).astype(np.float32)
    return changed


def _bias_field(signal: Array, rng: np.random.Generator) -> Array:
    from torchio.transforms import BiasField

    order = 3
    terms = (order + 1) * (order + 2) * (order + 3) // 6  # of a polynomial in three variables
    return _apply(BiasField(rng.uniform(-0.3, 0.3, terms).tolist(), order), signal)


def _motion(signal: Array, rng: np.random.Generator) -> Array:
    from torchio.transforms import Motion

    moves = int(rng.integers(1, 4))
    degrees, shifts = rng.uniform(-8, 8, (moves, 3)), rng.uniform(-4, 4, (moves, 3))  # voxels: the affine is 1
    if signal.ndim == 3:  # within the plane
        degrees[:, 1:] = 0
        shifts[:, 0] = 0
    return _apply(Motion(degrees, shifts, np.sort(rng.uniform(0.1, 0.9, moves)), "linear"), signal)


def _ghosting(signal: Array, rng: np.random.Generator) -> Array:
    from torchio.transforms import Ghosting

    axis = int(rng.integers(3 - (signal.ndim - 1), 3))
    return _apply(Ghosting(int(rng.integers(3, 9)), axis, rng.uniform(0.3, 0.9), 0.02), signal)


def _spike(signal: Array, rng: np.random.Generator) -> Array:
    from torchio.transforms import Spike

    return _apply(Spike(rng.uniform(0.1, 0.9, (1, 3)), rng.uniform(0.1, 0.4)), signal)


def _rician_noise(signal: Array, rng: np.random.Generator) -> Array:
    """Gaussian noise in both quadrature channels; the magnitude is Rician (Gudbjartsson and Patz 1995, eq. 1)."""
    noise = rng.uniform(0.01, 0.06) * rng.standard_normal((2, *signal.shape), dtype=np.float32)
    noisy: Array = np.hypot(signal + noise[0], noise[1])
    return noisy
