"""Preparation: how a domain's Volume becomes an array in [-1, 1], and the way back, as plain values."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medcycle.errors import ConfigError, ModelError, ScanError
from medcycle.prepare import intensity, nyul, spatial
from medcycle.prepare.foreground import cavities, find_foreground, without_air_rim
from medcycle.prepare.state import Prepared, PreparedState
from medcycle.volume import Volume

MODALITIES = ("ct", "mr", "image")
AIR_HU = -1000.0
TISSUE_HU = -300.0  # what is less is air, also inside the body
TISSUE = -0.9  # likewise on the networks' scale, of an MR without a floor
INSIDE = -0.999999  # the least inside the body where air is set


@dataclass(frozen=True)
class Preparation:
    """How one domain's scans are prepared. Plain values, stored in the model; the same for every scan of the domain.

    Attributes:
        modality: "ct" (values in HU, fixed window), "mr" (arbitrary scale, percentiles of the foreground) or "image"
            (fixed range).
        orientation: axis codes that 3D scans are turned to, such as "RAS"; None keeps the scan's own.
        spacing: mm along each axis after reorientation; None, or a None entry, keeps the scan's. A missing third
            entry counts as None. Pictures (2D, uint8 or uint16) are never resampled.
        window: HU that become -1 and 1 (ct).
        stretch: HU inside the window that get the middle of the range, from -0.6 to 0.5 (ct): see
            :func:`medcycle.prepare.intensity.stretch`; None maps the whole window linearly.
        percentiles: percentiles of the foreground that become -1 and 1 (mr).
        range: values that become -1 and 1 (image); None takes the unit's own, 0..255 or 0..65535.
        threshold: the value above which a voxel is body (ct, mr); None finds it, see :func:`find_foreground`.
        foreground: set everything outside the body to exactly -1 (ct, mr), instead of leaving it as it is.
        invert: inside the body, dark becomes bright (mr), so that cortical bone, dark in MR, starts out as bright as in
            CT; needs `foreground`, since air must stay -1.
        floor: what the lowest value inside the body becomes (mr), from -1 up to 1; above -1, fat (inverted) or fluid is
            not the same as air any more, which stays -1; needs `foreground`.
        cavities: air inside the body becomes -1 like that outside (mr with `invert`, where it would be as bright as
            bone): see :func:`medcycle.prepare.foreground.cavities`.
        n4: correct the bias field first (mr; the other modalities have none).
        crop: cut the scan to its body and this many mm round it (ct, mr); None keeps the whole frame. Restoring sets
            the box back into the frame, in air.
        landmarks: the domain's standard histogram (mr), set by :meth:`standardized`: every scan is mapped to it instead
            of linearly; None maps linearly.
        scale: values of the cohort that -1 and 1 stand for, set by :meth:`fitted`; restoring a scan of ANOTHER
            domain into this one uses it (mr, image).
        truncate: cut the fraction of restored grey values off, as the original's program does, instead of rounding to
            the nearest (image).

    Raises:
        ConfigError: for a value outside what is said above.
    """

    modality: str = "ct"
    orientation: str | None = "RAS"
    spacing: tuple[float | None, ...] | None = None
    window: tuple[float, float] = (-1024.0, 3071.0)
    percentiles: tuple[float, float] = (0.5, 99.5)
    range: tuple[float, float] | None = None
    foreground: bool = False
    invert: bool = False
    floor: float = -1.0
    cavities: bool = False
    n4: bool = False
    threshold: float | None = None
    crop: float | None = None
    landmarks: tuple[float, ...] | None = None
    scale: tuple[float, float] | None = None
    truncate: bool = False
    stretch: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ConfigError(f"modality {self.modality!r}; allowed are {', '.join(MODALITIES)}")
        if self.orientation is not None:
            named = [axis for letter in self.orientation for axis in range(3) if letter in ("RL", "AP", "SI")[axis]]
            if sorted(named) != [0, 1, 2] or len(self.orientation) != 3:
                raise ConfigError(
                    f"orientation {self.orientation!r}; give one of R/L, A/P and S/I each, such as RAS or LPS, or null"
                )
        if self.spacing is not None and (
            len(self.spacing) not in (2, 3) or any(s is not None and not 0 < s < np.inf for s in self.spacing)
        ):
            raise ConfigError(f"spacing {self.spacing}; give two or three sizes in mm above 0 (null keeps an axis)")
        for name in ("window", "percentiles", "range", "scale", "stretch"):
            pair = getattr(self, name)
            if pair is not None and not (len(pair) == 2 and np.isfinite(pair).all() and pair[0] < pair[1]):
                raise ConfigError(f"{name} {pair}; give two numbers, the lower first")
        if self.stretch is not None and not self.window[0] < self.stretch[0] < self.stretch[1] < self.window[1]:
            raise ConfigError(f"stretch {self.stretch}; give two HU inside the window {self.window}, the lower first")
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ConfigError(f"percentiles {self.percentiles}; give two numbers from 0 to 100, the lower first")
        for name, least in (("threshold", -np.inf), ("crop", 0)):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value >= least):
                raise ConfigError(f"{name} {value}; give a finite number{' of mm, 0 or more' if least == 0 else ''}")
        if self.landmarks is not None and not (
            len(self.landmarks) == nyul.COUNT
            and (self.landmarks[0], self.landmarks[-1]) == (-1, 1)
            and all(0 <= y - x <= 2 for x, y in itertools.pairwise(self.landmarks))
        ):
            raise ConfigError(f"landmarks {self.landmarks}; {nyul.COUNT} numbers that rise from -1 to 1 are expected")
        if self.invert and not self.foreground:
            raise ConfigError("invert needs foreground: without it the air around the body would become the brightest")
        if not -1 <= self.floor < 1:
            raise ConfigError(f"floor {self.floor}; give a number from -1 up to, but not including, 1")
        if self.floor > -1 and not self.foreground:
            raise ConfigError("floor needs foreground: without it the air around the body would be lifted as well")

    @property
    def _sign(self) -> int:
        return -1 if self.invert and self.modality == "mr" else 1

    @property
    def air_level(self) -> float:
        """Up to this, on the networks' scale, what is in a prepared scan is air rather than tissue."""
        if self.modality == "ct":
            level = intensity.normalize(np.array([TISSUE_HU], dtype=np.float32), *self.window)
            return float(level[0] if self.stretch is None else intensity.stretch(level, self.window, self.stretch)[0])
        return (self.floor - 1) / 2 if self.modality == "mr" and self.floor > -1 else TISSUE

    # -- forward ------------------------------------------------------------------------------------------------

    def __call__(self, volume: Volume) -> Prepared:
        """Prepare one scan.

        Raises:
            ScanError: if the scan is constant (3D), holds no body, or its unit does not fit the modality.
        """
        where = self._checked(volume)
        array, mask, affine = self._body(volume, where)
        low, high = self._limits(array, mask, volume.unit, where)
        own: tuple[float, ...] = ()
        if self.landmarks is not None and self.modality == "mr" and high > low:
            own = nyul.landmarks(array, mask, self.percentiles, (low, high))
            prepared = nyul.to_standard(array, own, self.landmarks)
        else:
            prepared = intensity.normalize(array, low, high)
            if self.stretch is not None and self.modality == "ct":
                prepared = intensity.stretch(prepared, self.window, self.stretch)
        if self._sign < 0:  # air round the skin would become as bright as bone
            mask = without_air_rim(mask, (prepared.max(axis=0) + 1) / 2, affine)
            prepared = -prepared
        hollow = cavities(array.max(axis=0), mask, affine) if self.cavities and self._sign < 0 else ~mask
        if self.modality == "mr" and self.floor > -1:
            prepared = self.floor + (1 - self.floor) / 2 * (prepared + 1)
        if self.foreground:  # exactly -1 is air outside the body, and nothing else
            np.maximum(prepared, INSIDE, out=prepared)
            prepared[:, ~mask | hollow] = -1
        state = PreparedState(
            source_space=volume.space,
            source_affine=volume.affine,
            unit=volume.unit,
            channels=volume.channels,
            prepared_space=prepared.shape[1:],
            prepared_affine=affine,
            low=low,
            high=high,
            clipped=intensity.clipped_share(array, mask, low, high),
            landmarks=own,
        )
        return Prepared(prepared, mask, state)

    def landmarks_of(self, volume: Volume) -> tuple[float, ...]:
        """The landmarks of one scan's histogram, for :meth:`standardized`.

        Raises:
            ScanError: as :meth:`__call__`.
        """
        where = self._checked(volume)
        array, mask, _ = self._body(volume, where)
        return nyul.landmarks(array, mask, self.percentiles, self._limits(array, mask, volume.unit, where))

    def _checked(self, volume: Volume) -> str:
        """What the scan is called in messages; refuses what cannot be prepared."""
        where = str(volume.source.get("path", "volume"))
        self._check_unit(volume.unit, where)
        if len(volume.space) == 3 and min(volume.space) > 1 and np.ptp(volume.array) == 0:
            raise ScanError(
                f"{where}: every voxel has the value {volume.array.flat[0]:g}; a constant scan holds nothing to learn "
                "from. Remove it from the domain, or check its export."
            )
        return where

    def _body(
        self, volume: Volume, where: str
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """The scan on its grid, in its own values, with its body and its affine."""
        array, affine = self._to_grid(volume)
        mask = self._find_foreground(array, affine, where)
        if self.crop is not None and self.modality != "image" and mask.any():
            array, mask, affine = spatial.crop(array, mask, affine, self.crop)
        if self.n4 and self.modality == "mr":
            array = intensity.correct_bias(array, mask, np.linalg.norm(affine[:3, :3], axis=0).tolist(), where)
        return array, mask, affine

    def _check_unit(self, unit: str, where: str) -> None:
        if self.modality == "ct" and unit in ("uint8", "uint16"):
            raise ScanError(
                f"{where}: a picture ({unit}) in a CT domain. Its grey values are not HU: use modality: image for both "
                "domains' pictures, or give the CT as DICOM or NIfTI."
            )
        if self.modality == "mr" and unit == "HU":
            raise ScanError(
                f"{where}: a CT (its header says HU) where an MR is wanted. Are the domains, or the model's direction, "
                "the wrong way round?"
            )
        if self.modality == "image" and self.range is None and unit not in intensity.PICTURE_RANGES:
            raise ScanError(
                f"{where}: modality image needs to know which values are black and white, and this scan's unit is "
                f"{unit}. Set prepare.range to two numbers, or use modality mr or ct."
            )

    def _to_grid(self, volume: Volume) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        array, affine = volume.array, volume.affine
        flat = len(volume.space) == 2
        if flat:
            array = array[..., np.newaxis]
        elif self.orientation is not None and volume.orientation != self.orientation:
            array, affine = spatial.reorient(array, affine, self.orientation)
        if self.spacing is not None and not (flat and volume.unit in intensity.PICTURE_RANGES):
            wanted = (*self.spacing[:2], None if flat or len(self.spacing) == 2 else self.spacing[2])
            array, affine = spatial.resample(array, affine, wanted)
        return array, affine

    def _find_foreground(
        self, array: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], where: str
    ) -> npt.NDArray[np.bool_]:
        if self.modality == "image":
            return np.ones(array.shape[1:], dtype=bool)
        mask = find_foreground(array, affine, self.modality, self.threshold)
        if not mask.any() and not self.foreground:
            return np.ones_like(mask)
        if not mask.any() and min(mask.shape) > 1:
            raise ScanError(
                f"{where}: no body was found (values from {array.min():g} to {array.max():g}). Check that the scan is "
                f"{self.modality.upper()}, or set prepare.foreground: false to use whole frames."
            )
        return mask

    def _limits(
        self, array: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], unit: str, where: str
    ) -> tuple[float, float]:
        if self.modality == "ct":
            return self.window
        if self.modality == "image":
            return self.range or intensity.PICTURE_RANGES[unit]
        return intensity.percentile_range(array, mask, self.percentiles)

    # -- back ---------------------------------------------------------------------------------------------------

    def unit(self) -> str:
        """The unit of what :meth:`restore` gives: "HU" (ct), "a.u." (mr), or the picture's own (image)."""
        if self.modality == "ct":
            return "HU"
        low, high = self.range or self.scale or intensity.PICTURE_RANGES["uint8"]
        if self.modality == "mr" or low < 0 or high <= 1 or high > 65535:
            return "a.u."
        return "uint8" if high <= 255 else "uint16"

    def restore(
        self,
        array: npt.NDArray[np.float32],
        state: PreparedState,
        *,
        foreground: npt.NDArray[np.bool_] | None = None,
        own_scale: bool = False,
    ) -> Volume:
        """Bring an array in [-1, 1] back to a scan's own grid, in this domain's unit.

        Args:
            array: (channel, i, j, k) on the prepared grid of the scan that `state` describes.
            state: from preparing that scan (by this or by the other domain's preparation).
            foreground: (i, j, k); voxels outside it become air.
            own_scale: use the scan's own low, high and unit instead of this domain's: the inverse of
                :meth:`__call__` for every value that was not clipped or masked.

        Returns:
            A Volume with the scan's shape (its number of channels is the array's) and affine.

        Raises:
            ScanError: if the array is not on the prepared grid.
            ModelError: if this preparation has no scale yet (see :meth:`fitted`).
        """
        voxels = {"an array": array.shape[1:]} | ({} if foreground is None else {"a foreground": foreground.shape})
        for what, shape in voxels.items():
            if tuple(shape) != tuple(state.prepared_space):
                raise ScanError(
                    f"{what} of {shape} voxels cannot be restored: the scan was prepared to {state.prepared_space}"
                )
        low, high = state.scale if own_scale else self.restored_range()
        unit = state.unit if own_scale else self.unit()
        values = self._values(array, low, high, state.landmarks if own_scale else ())
        air = AIR_HU if unit == "HU" and low <= AIR_HU <= high else low
        if foreground is not None and self.modality != "image":
            values[:, ~foreground] = air
        space = (*state.source_space, 1)[:3]
        values = spatial.bring_back(values, state.prepared_affine, space, state.source_affine, air)
        if unit in intensity.PICTURE_RANGES:
            (np.floor if self.truncate else np.rint)(values, out=values)
        if state.ndim == 2:
            values = values[..., 0]
        return Volume(values, state.source_affine, unit)

    def in_units(self, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Values in [-1, 1], of any shape, in this domain's unit (HU, a.u., grey values), on the cohort's scale.

        Raises:
            ModelError: if this preparation has no scale yet (see :meth:`fitted`).
        """
        return self._values(array, *self.restored_range())

    def _values(
        self, array: npt.NDArray[np.float32], low: float, high: float, landmarks: tuple[float, ...] = ()
    ) -> npt.NDArray[np.float32]:
        """Where low and high stand for -1 and 1; with a scan's own landmarks, its own values."""
        scaled, floor = array, self.floor if self.modality == "mr" else -1.0
        if floor > -1:
            scaled = np.maximum(2 / (1 - floor) * (array - floor) - 1, -1)
        if self.stretch is not None and self.modality == "ct":
            scaled = intensity.stretch(scaled, self.window, self.stretch, back=True)
        if landmarks and self.landmarks is not None:
            values = nyul.from_standard(self._sign * scaled, landmarks, self.landmarks)
        else:
            values = intensity.denormalize(self._sign * scaled, low, high)
        if self._sign < 0 and (floor > -1 or self.cavities):  # without a floor, -1 alone is told from tissue
            values[array <= (self.air_level if floor > -1 else -1)] = low
        return values

    def restored_range(self) -> tuple[float, float]:
        """The lowest and the highest value that :meth:`restore` gives, in this domain's unit.

        Raises:
            ModelError: if this preparation has no scale yet (see :meth:`fitted`).
        """
        if self.modality == "ct":
            return self.window
        known = self.scale if self.modality == "mr" else self.range or self.scale
        if known is None:
            raise ModelError(
                f"the {self.modality} preparation has no scale: which values -1 and 1 stand for is learnt from the "
                "domain's scans. Export the model from a run, or call Preparation.fitted with the scans' scales."
            )
        return known

    def fitted(self, scales: Iterable[tuple[float, float]]) -> Preparation:
        """A copy whose scale is the median (low, high) of the domain's scans; a CT domain's window needs no fit.

        Raises:
            ScanError: if no scan's low and high differ.
        """
        pairs = [pair for pair in scales if pair[1] > pair[0]]
        if self.modality == "ct":
            return self
        if not pairs:
            raise ScanError("no scan of the domain has two different intensities: there is nothing to learn from")
        low, high = np.median(np.array(pairs, dtype=np.float64), axis=0)
        return replace(self, scale=(float(low), float(high)))

    def standardized(self, scans: Iterable[Sequence[float]]) -> Preparation:
        """A copy that maps every scan to the standard histogram of these scans (mr; others need none).

        Args:
            scans: of the training scans, each as :meth:`landmarks_of` gives them.
        """
        return replace(self, landmarks=nyul.standard(scans)) if self.modality == "mr" else self

    # -- plain values ---------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preparation:
        """The inverse of :meth:`to_dict`.

        Raises:
            ModelError: for keys this version does not know (a model file of a newer version).
            ConfigError: for values that are not allowed.
        """
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ModelError(
                f"the preparation has unknown entries {', '.join(sorted(map(str, unknown)))}: it was written by "
                "another version of medcycle. Use that version."
            )
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**given)
