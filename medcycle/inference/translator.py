"""Translator: a trained model applied to scans; what comes out lies on the grid of what went in."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medcycle.data.natural import resize_picture
from medcycle.data.unpaired import ALL, AXES
from medcycle.device import resolve_device, resolve_precision
from medcycle.errors import ConfigError, ModelError, ScanError
from medcycle.inference.examine import Examined, examine, opposite_of
from medcycle.inference.frames import translate_recording
from medcycle.inference.fusion import along_each, fused, usable_axes
from medcycle.inference.kinds import open_image, open_recorded, unit_of
from medcycle.inference.sliding import Array, Progress, scan_statistics, translate_patches, translate_planes
from medcycle.inference.statistics import STATISTICS, norm_kinds
from medcycle.io import read_volume, write_dicom_series, write_volume
from medcycle.io.dicom_record import ModelRecord
from medcycle.io.dicom_write import asks_for_series, clamped
from medcycle.io.files import stored
from medcycle.model import Model, _checksum, find_model, load_model
from medcycle.prepare import Prepared, swap_warning
from medcycle.volume import Volume


class Translator:
    """Translates scans of a model's source domain into its target domain.

    ``Translator.load("runs/mri2ct", to="ct")("head.nii.gz")`` gives a :class:`Volume`; an image in Python comes back
    as the same kind (see :meth:`__call__`). For research use only.

    Attributes:
        model: the model, its network on `device`, in evaluation mode.
        device: where it runs.
        precision: "bf16", "fp16" or "fp32".
        batch_size: planes or patches at once; halved by itself where the device's memory ends.
        overlap: share of a 3D patch that its neighbour covers too.
        statistics: of what a 3D model's instance and group norms take mean and variance: "scan", the scan's patches,
            the same for all, or "tile", each patch's own.
        resize: (width, height) that pictures are resized to first; None keeps their own size.
        axes: the planes that a 2D model translates: "axial", "coronal", "sagittal", or "all", whose results are fused
            (:mod:`medcycle.inference.fusion`).
        origin: the model's file, if it was loaded from one.
    """

    origin: Path | None = None

    def __init__(
        self,
        model: Model,
        *,
        device: str | torch.device = "auto",
        batch_size: int | None = None,
        overlap: float = 0.5,
        statistics: str = STATISTICS[0],
        precision: str = "auto",
        resize: tuple[int, int] | None = None,
        axes: str | None = None,
    ) -> None:
        if batch_size is None:
            batch_size = 8 if model.ndim == 2 else 1
        if batch_size < 1:
            raise ConfigError(f"batch size {batch_size}: expected at least 1")
        if not 0 <= overlap < 1:
            raise ConfigError(f"overlap {overlap}: allowed is a share from 0 up to, not including, 1 (0.5 is usual)")
        if statistics not in STATISTICS:
            raise ConfigError(f"statistics {statistics!r}: allowed are {', '.join(STATISTICS)}")
        if resize is not None and (min(resize) < 1 or model.source.preparation.modality != "image"):
            raise ConfigError(
                f"resize {resize}: only pictures are resized, to two numbers of pixels; this model takes "
                f"{model.source.name!r} ({model.source.preparation.modality})"
            )
        self.axes = _axes(model, axes)
        # An authors' checkpoint knows no depth of its own: 16-bit pictures stay 16-bit.
        self._own_depth = model.provenance.get("format") == "upstream"
        if precision == "auto" and self._own_depth:
            precision = "fp32"  # an authors' checkpoint is opened to see the authors' pixels
        self.model = model
        self.resize = resize
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.batch_size = batch_size
        self.overlap = overlap
        self.statistics = statistics
        self._told: set[str] = set()  # what was warned of; a copy of this translator does not say it again
        self.model.network.to(self.device).eval()

    @classmethod
    def load(
        cls,
        path: str | Path,
        to: str | None = None,
        *,
        network: nn.Module | None = None,
        device: str | torch.device = "auto",
        batch_size: int | None = None,
        overlap: float = 0.5,
        statistics: str = STATISTICS[0],
        precision: str = "auto",
        resize: tuple[int, int] | None = None,
        axes: str | None = None,
    ) -> Translator:
        """A translator from a model file or a run folder.

        Args:
            path: a .safetensors file, a run folder, or a generator of the original program (.pth), whose pictures
                lose the fractions of their grey values as there; those of other models are rounded to the nearest.
            to: name of the target domain ("ct"); None takes the folder's only model, or that from domain a to b.
            network: the nn.Module of a custom model, which the file's weights are put into.
            device: "auto", "cpu", "cuda" or "cuda:N".
            batch_size: planes or patches at once; None: 8 planes, or 1 patch, which is as heavy.
            overlap: share of a 3D patch that its neighbour covers too, in [0, 1).
            statistics: "scan" or "tile": see :class:`Translator`; of no effect on 2D models.
            precision: "auto" (fp32 for a .pth), "bf16", "fp16" or "fp32".
            resize: pictures only: (width, height) to resize to first (the original's test program: 256 x 256); the
                translated picture has that size. None keeps each picture's own.
            axes: which planes to translate: those that the model was trained on (None); of a model of all directions
                also "axial", "coronal" or "sagittal" alone, three times as fast.

        Raises:
            ModelError: if there is no such model, or its file cannot be used.
            ConfigError: for a device, precision, batch size, overlap, statistics or axes that are not possible.
        """
        file = find_model(path, to)
        made = cls(
            load_model(file, network),
            device=device,
            batch_size=batch_size,
            overlap=overlap,
            statistics=statistics,
            precision=precision,
            resize=resize,
            axes=axes,
        )
        made.origin = file
        return made

    def __call__(self, image: Any) -> Any:
        """Translate one image.

        Args:
            image: a path (the result is a Volume), Volume, nibabel image, SimpleITK image or MONAI MetaTensor. A
                nibabel or SimpleITK image with a fourth axis, time, is translated volume by volume.

        Returns:
            The same kind on the same grid, values in the target's unit (HU for CT).

        Raises:
            ScanError: if the image cannot be read or prepared.
            ModelError: if it does not fit the model, or is of a kind without geometry (a bare array).
        """
        modality = self.model.source.preparation.modality
        recorded = open_recorded(image, modality)
        if recorded is not None:
            frames, count, back_together = recorded
            return back_together(translate_recording(self, frames, count))
        volume, back = open_image(image, modality)
        return back(self.translate(volume))

    def translate(self, volume: Volume, progress: Progress | None = None) -> Volume:
        """Translate one Volume.

        Args:
            volume: a scan of the source domain.
            progress: called with (planes or patches done, all of them).

        Raises:
            ScanError: if it cannot be prepared (no body in it, another unit).
            ModelError: if its axes or channels do not fit the model, or the device's memory cannot hold one plane.
        """
        self.warn_of(volume)
        return self.frames([volume], progress)[0]

    def warn_of(self, volume: Volume) -> None:
        """Warn if a Volume does not look like what the model was trained on: another modality or scale, or HU beyond.

        The HU of a CT that becomes a CT are clamped to the model's window as they enter it.
        """
        source, target = self.model.source.preparation, self.model.target.preparation
        suspicion = swap_warning(volume, source.modality)
        if suspicion:
            warnings.warn(f"{suspicion} The model translates {self.model.source.name}.", stacklevel=3)
        if volume.unit == "HU" and source.modality == target.modality == "ct":
            low, high = source.window
            beyond = float(((volume.array < low) | (volume.array > high)).mean())
            if beyond:
                where = volume.source.get("path", "volume")
                warnings.warn(f"{where}: {clamped(beyond, source.window)}, the model's window", stacklevel=3)
        if self._is_picture(volume) and self.resize is None and self._off_scale(volume):
            warnings.warn(
                f"{volume.source.get('path', 'picture')}: {' x '.join(map(str, volume.space))} pixels; the model's "
                f"training pictures were resized to {' x '.join(map(str, self.model.sample['resize']))}, and what "
                "they show was of another size than here. Resize it to about that (--resize, resize=).",
                stacklevel=3,
            )

    def frames(self, volumes: Sequence[Volume], progress: Progress | None = None) -> list[Volume]:
        """Translate several Volumes of one shape at once: a 2D network's batches are filled from all their planes.

        Args:
            volumes: frames of a video or recording, say; each is prepared by itself.
            progress: called with (planes or patches done, all of them).

        Raises:
            ScanError: as :meth:`translate`, or if their shapes differ.
            ModelError: as :meth:`translate`.
        """
        volumes, every = self.prepared(volumes)
        arrays = self.over(volumes, every, progress)
        return [self.restored(*each) for each in zip(volumes, every, arrays, strict=True)]

    def examine(self, volume: Volume, progress: Progress | None = None, *, residual: bool = False) -> Examined:
        """Translate one Volume and measure what can be told without a reference.

        Args:
            volume: a scan of the source domain.
            progress: called with (planes or patches done, all of them); with `residual`, twice.
            residual: also translate back with the run's opposite model, and give |F(G(x)) - x| in the scan's unit. What
                preparing alone changes (interpolation, values clipped to the window) does not count in it, and outside
                the body it is 0.

        Raises:
            ScanError, ModelError: as :meth:`translate`; with `residual` also as :attr:`opposite`.
        """
        return examine(self, volume, progress, residual=residual)

    @cached_property
    def opposite(self) -> Translator:
        """The same run's translator back; may be set, where the model was not loaded from a file.

        Raises:
            ModelError: there is none beside the model's file, or it is of another run.
        """
        return opposite_of(self)

    @property
    def pictures(self) -> bool:
        """Whether it translates pictures: no scans, which have a body and a structure to agree on."""
        return "image" in (self.model.source.preparation.modality, self.model.target.preparation.modality)

    @property
    def masked(self) -> bool:
        """Whether what lies outside the body becomes air."""
        return self.model.source.preparation.foreground and not self.pictures

    def prepared(self, volumes: Sequence[Volume]) -> tuple[list[Volume], list[Prepared]]:
        """Volumes of one shape as the network takes them, and prepared."""
        volumes = [self._as_taken(volume) for volume in volumes]
        for volume in volumes:
            self._check(volume)
            if volume.space != volumes[0].space:
                raise ScanError(
                    f"{volume.source.get('path', 'frame')}: {volume.space}, but the frames before it are "
                    f"{volumes[0].space}. Frames that belong together have one size."
                )
        return volumes, [self.model.source.preparation(volume) for volume in volumes]

    def restored(self, volume: Volume, prepared: Prepared, array: Array) -> Volume:
        """What the network made, on the scan's grid in the target's unit."""
        made = self.model.target.preparation.restore(
            array,
            prepared.state,
            foreground=prepared.foreground if self.masked else None,
            own_scale=self._own_depth,
        )
        return made.replace(source=volume.source)

    def over(
        self, volumes: Sequence[Volume], every: Sequence[Prepared], progress: Progress | None = None
    ) -> list[Array]:
        """The network over prepared scans of one shape: arrays on their prepared grid."""
        return fused(self.directions(volumes, every, progress))

    def directions(
        self, volumes: Sequence[Volume], every: Sequence[Prepared], progress: Progress | None = None
    ) -> dict[int | None, list[Array]]:
        """The same before directions are fused: by the axis that planes lie across; of a 3D model by None alone."""
        network, size = self.model.network, self.model.sample["size"]
        if self.model.ndim == 3:
            return {None: [self._in_patches(*each, progress) for each in zip(every, volumes, strict=True)]}
        # A 2D scan has no choice of planes: it is one.
        flat = len(volumes[0].space) == 2
        axes = (2,) if flat else usable_axes(self.axes, every[0].array.shape[1:], size)
        lengths = [len(every) * every[0].array.shape[1 + axis] for axis in axes]
        found: dict[int | None, list[Array]] = {}
        for axis, report in along_each(axes, lengths, progress):
            array = translate_planes(
                network,
                np.concatenate([prepared.array for prepared in every], axis=1 + axis),
                axis,
                size=size,
                context=self.model.context,
                scans=len(every),
                batch_size=self.batch_size,
                device=self.device,
                precision=self.precision,
                progress=report,
            )
            found[axis] = np.split(array, len(every), axis=1 + axis)
        return found

    def _in_patches(self, prepared: Prepared, volume: Volume, progress: Progress | None) -> Array:
        network, size, array = self.model.network, self.model.sample["size"], prepared.array
        how: Any = {"batch_size": self.batch_size, "device": self.device, "precision": self.precision}
        tiled = any(n > patch for n, patch in zip(array.shape[1:], size, strict=True))
        norms: AbstractContextManager[None] = nullcontext()
        kinds = " and ".join(norm_kinds(network)) if tiled else ""
        if kinds and self.statistics == "scan":
            norms = scan_statistics(network, array, size, **how).held()
        elif kinds and "tiles" not in self._told:
            self._told.add("tiles")
            where = volume.source.get("path", "volume")
            warnings.warn(
                f"{where}: is translated in tiles of {' x '.join(map(str, size))} voxels, "
                f"and {kinds} norm takes its statistics from each tile alone: the same "
                "tissue comes out differently from tile to tile. `medcycle check-tiling` measures by how much; "
                "--statistics scan (statistics=), the default, takes one set of statistics for all tiles.",
                stacklevel=4,
            )
        with norms:
            return translate_patches(network, array, size, overlap=self.overlap, progress=progress, **how)

    def file(
        self,
        source: str | Path,
        destination: str | Path,
        *,
        series: str | None = None,
        resample_gaps: bool = False,
        deidentify: bool = False,
        deterministic_uids: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        """Read a scan, translate it and write it.

        Args:
            source: a file, or the folder of one DICOM series.
            destination: its name tells the format; no suffix means a DICOM series folder.
            series: which one, where the source folder holds several.
            resample_gaps: accept a DICOM series with missing or unevenly spaced slices: they are interpolated for the
                network; a DICOM destination has the acquired positions only, other formats the whole even grid.
            deidentify: a DICOM destination without the patient, as :func:`medcycle.io.write_dicom_series` says. Other
                formats have no such text. Names of files and folders are the caller's.
            deterministic_uids: a DICOM destination with UIDs and dates made from the source's, for the same bytes.
            progress: called with (planes or patches done, all of them).

        Returns:
            The path that was written.

        Raises:
            ScanError: if the scan cannot be read, prepared or written.
            ModelError: if it does not fit the model.
        """
        volume = self.read(source, series=series, resample_gaps=resample_gaps)
        result = self.translate(volume, progress)
        return self.write(result, volume, destination, deidentify=deidentify, deterministic_uids=deterministic_uids)

    def read(self, source: str | Path, *, series: str | None = None, resample_gaps: bool = False) -> Volume:
        """A scan in the unit of the model's source domain; the first third of :meth:`file`."""
        unit = unit_of(self.model.source.preparation.modality)
        return read_volume(source, unit=unit, series=series, resample_gaps=resample_gaps)

    def write(
        self,
        result: Volume,
        source: Volume,
        destination: str | Path,
        *,
        deidentify: bool = False,
        deterministic_uids: bool = False,
    ) -> Path:
        """Write what was made of a scan; the last third of :meth:`file`."""
        if not asks_for_series(destination):
            return write_volume(result, destination)
        return write_dicom_series(
            result,
            destination,
            like=source,
            description=self.description,
            model=self.record,
            window=self.model.target.preparation.window,
            deidentify=deidentify,
            deterministic=deterministic_uids,
        )

    @cached_property
    def record(self) -> ModelRecord:
        """What a DICOM series says of the model."""
        known = {key: str(self.model.provenance.get(key) or "") for key in ("created", "medcycle")}
        weights = {name: value.detach().cpu() for name, value in self.model.network.state_dict().items()}
        name = f"{self.model.source.name}_to_{self.model.target.name}"
        return ModelRecord(name, _checksum(weights), known["created"], known["medcycle"])

    @property
    def description(self) -> str:
        """What a DICOM viewer shows as the name of a translated series."""
        source, target = self.model.source, self.model.target
        if source.preparation.modality == target.preparation.modality:
            return f"{source.name} harmonized to {target.name} (medcycle)"
        kind = "synthetic CT" if target.preparation.modality == "ct" else f"synthetic {target.name}"
        return f"{kind} from {self.model.source.name} (medcycle)"

    def _as_taken(self, volume: Volume) -> Volume:
        """A picture at the size asked for, and grey as colour where the network takes colour; else the same volume."""
        if not self._is_picture(volume):
            return volume
        if self.resize is not None:
            volume = volume.replace(array=resize_picture(stored(volume), self.resize))
        if volume.channels == 1 and self.model.in_channels == 3:
            volume = volume.replace(array=np.repeat(volume.array, 3, axis=0))
        return volume

    def _is_picture(self, volume: Volume) -> bool:
        return len(volume.space) == 2 and self.model.source.preparation.modality == "image"

    def _off_scale(self, volume: Volume) -> bool:
        trained = self.model.sample.get("resize") or volume.space
        return any(not 2 / 3 <= n / size <= 1.5 for n, size in zip(volume.space, trained, strict=True))

    def _check(self, volume: Volume) -> None:
        where = volume.source.get("path", "volume")
        if self.model.ndim == 3 and len(volume.space) == 2:
            raise ModelError(
                f"{where}: a 2D image of {volume.space} pixels; this model works on 3D patches of "
                f"{tuple(self.model.sample['size'])} voxels. Give it a volume, or use a 2D model."
            )
        taken = self.model.in_channels
        expected = None if taken is None else taken // (2 * self.model.context + 1)  # the planes' side by side
        if expected is not None and volume.channels != expected:
            raise ModelError(
                f"{where}: {volume.channels} channel(s); the model from {self.model.source.name!r} to "
                f"{self.model.target.name!r} takes {expected}. Convert the image, or use another model."
            )


def _axes(model: Model, asked: str | None) -> str:
    """The planes to translate: those of the training, or, of all directions, one that is asked for."""
    own = str(model.sample["axes"])
    if asked is not None and model.ndim == 3:
        raise ConfigError(f"axes {asked}: this model translates 3D patches, not planes. Leave it out.")
    if asked in (None, own):
        return own
    if own != ALL or asked not in AXES:
        allowed = f"{', '.join(AXES)} or {ALL}" if own == ALL else own
        raise ConfigError(f"axes {asked}: this model was trained on {own} planes; allowed is {allowed}")
    return asked
