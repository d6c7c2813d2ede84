"""The exported model: everything that translation needs, in one safetensors file.

The file holds the generator's weights and, as JSON under the metadata key "medcycle", the network's arguments, the
two domains with their preparation, how the images were sampled, and where the model came from. Nothing in it is
executed on loading: no pickle, no import by name. A generator's .pth file of the original program is opened as well, as
a model of pictures.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcycle.data.unpaired import ALL, AXES
from medcycle.errors import MedcycleError, ModelError
from medcycle.networks import build_generator, upstream
from medcycle.networks.calibrated import CalibratedGenerator
from medcycle.networks.weights import misfits
from medcycle.prepare import Preparation

FORMAT = 1
SUFFIX = ".safetensors"

CALIBRATION = "calibration"  # among the arguments: the knots of the curve, if there is one

_KEY = "medcycle"


@dataclass(frozen=True)
class DomainInfo:
    """One side of a translation: the domain's name ("mr") and how its scans become network input and back."""

    name: str
    preparation: Preparation


@dataclass
class Model:
    """A generator and all that is needed to use it.

    Attributes:
        network: the generator, (batch, channel, *size) float32 in [-1, 1] to the same.
        arguments: what built the network: {"kind": "resnet", "in_channels": 1, ...} for
            :func:`medcycle.networks.build_generator`, or {"kind": "custom"} for an nn.Module of the user's own. With
            "calibration": 67 it is in a :class:`medcycle.networks.calibrated.CalibratedGenerator` of so many knots.
        source: the domain of the scans that go in.
        target: the domain of the scans that come out.
        sample: {"axes": "axial" | "coronal" | "sagittal" | "all", "size": [256, 256]}: training planes across `axes`
            of that size (voxels); three numbers: 3D patches. Also "resize", if the training's pictures were resized
            first, and "context": neighbours on either side that each plane has as further channels.
        provenance: facts for the record. :func:`save_model` adds "medcycle" (version) and "created" (UTC) if they are
            missing. "direction" ("a_to_b" or "b_to_a") tells :func:`find_model` which of a run's two models is the
            one asked for when no target is named. Never a patient's name.
    """

    network: nn.Module
    arguments: dict[str, Any]
    source: DomainInfo
    target: DomainInfo
    sample: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def ndim(self) -> int:
        """Space axes the network works on: 2 (planes) or 3 (patches)."""
        return len(self.sample["size"])

    @property
    def context(self) -> int:
        """Neighbours on either side that the network sees, and gives, with each plane."""
        return int(self.sample.get("context") or 0)

    @property
    def in_channels(self) -> int | None:
        """Channels the network takes; None where a custom network does not tell."""
        channels = self.arguments.get("in_channels", getattr(self.network, "in_channels", None))
        return None if channels is None else int(channels)


def save_model(path: str | Path, model: Model) -> Path:
    """Write a model as one safetensors file, atomically: a failed write leaves the old file as it was.

    Raises:
        ModelError: if the name does not end in .safetensors, the network's state holds something that is not a
            tensor, or the file cannot be written.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != SUFFIX:
        raise ModelError(f"{path}: a model is written as a {SUFFIX} file; give it a name with that ending")
    weights: dict[str, Tensor] = {}
    for name, value in model.network.state_dict().items():
        if not isinstance(value, Tensor):
            raise ModelError(f"{path}: cannot save {name!r} of the network: a {type(value).__name__}, not a tensor")
        weights[name] = value.detach().cpu().clone().contiguous()
    provenance = {"medcycle": _version(), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    header = {
        "format": FORMAT,
        "network": model.arguments,
        "source": {"name": model.source.name, "preparation": model.source.preparation.to_dict()},
        "target": {"name": model.target.name, "preparation": model.target.preparation.to_dict()},
        "sample": model.sample,
        "provenance": provenance | model.provenance,
        "checksum": _checksum(weights),
    }
    content = save(weights, metadata={_KEY: json.dumps(header)})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ModelError(
            f"{path}: the model cannot be written: {error.strerror or error}. What was there before is untouched; "
            "check the permission and the free space (a training then goes on with --resume)."
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()
    return path


def load_model(path: str | Path, network: nn.Module | None = None, device: str | torch.device = "cpu") -> Model:
    """Read a model file; the network comes back on `device`, in evaluation mode.

    Args:
        path: a file that :func:`save_model` wrote, or a generator of the original program (.pth).
        network: the nn.Module to fill with the weights: needed for a model whose kind is "custom".
        device: where the network goes.

    Raises:
        ModelError: if the file is missing, damaged, of another tool, of a newer medcycle, or does not fit the network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if path.suffix == upstream.SUFFIX:
        if network is not None:
            raise ModelError(f"{path}: a generator of the original program brings its own network; pass none")
        return _load_upstream(path, device)
    header = read_header(path)
    try:
        weights: dict[str, Tensor] = load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    if _checksum(weights) != header["checksum"]:
        raise _damaged(path, "the weights do not match their checksum")
    arguments: dict[str, Any] = header["network"]
    given = network is not None
    if network is None:
        network = _build(path, arguments)
    elif CALIBRATION in arguments:
        network = CalibratedGenerator(network, arguments[CALIBRATION])
    _check_weights(path, network, weights)
    # A network built here has no memory yet (meta device) and takes the file's tensors; a given one is copied into.
    network.load_state_dict(weights, assign=not given)
    network.to(device).eval()
    source, target = (_domain(path, header, side) for side in ("source", "target"))
    return Model(network, arguments, source, target, header["sample"], header["provenance"])


def _load_upstream(path: Path, device: str | torch.device) -> Model:
    """A generator of the original program, as a model of pictures.

    Pictures become (x - 127.5) / 127.5 and, translated, lose the fractions of their grey values, as there: the same
    8-bit pixels. Those of 16 bits, which the original does not read, have their own range and keep 16 bits. No smaller
    picture gets a frame: the original was never shown one.
    """
    state = upstream.read_state(path)
    # Pictures here are (C, W, H), the original's (C, H, W).
    network = upstream.transposed(upstream.load_generator(state, str(path))).to(device).eval()
    how = Preparation(modality="image", scale=(0.0, 255.0), truncate=True)
    source, target = (DomainInfo(name, how) for name in upstream.domain_names(path))
    arguments = upstream.generator_arguments(state, str(path))
    sample = {"axes": "axial", "size": [1, 1]}
    return Model(network, arguments, source, target, sample, {"format": "upstream", "file": path.name})


def find_model(path: str | Path, to: str | None = None) -> Path:
    """The model file that a path and a target domain mean.

    Args:
        path: a model file (.safetensors, or the original's .pth), or a run folder that holds files such as
            mr_to_ct.safetensors.
        to: name of the target domain. None takes the only model there is, or of a run's two the one from domain a
            to domain b.

    Raises:
        ModelError: if there is no such model; the message lists those that there are.
    """
    path = Path(path)
    if not path.is_dir():
        header = _upstream_header(path) if path.suffix == upstream.SUFFIX else read_header(path)
        if to is not None and header["target"]["name"] != to:
            raise ModelError(f"{path}: a model {_direction(header)}; a model to {to!r} was asked for")
        return path
    files = sorted(file for file in path.glob(f"*{SUFFIX}") if not file.name.startswith("."))
    headers: dict[Path, dict[str, Any]] = {}
    refused: list[str] = []
    for file in files:
        try:
            headers[file] = read_header(file)
        except ModelError as error:
            refused.append(str(error))
    listing = "; ".join(f"{file.name} ({_direction(header)})" for file, header in headers.items())
    if not headers:
        found = " ".join(refused) or f"expected files such as mr_to_ct{SUFFIX}, which training writes when it ends"
        raise ModelError(f"{path}: no exported model in this folder: {found}")
    fitting = [file for file, header in headers.items() if to is None or header["target"]["name"] == to]
    if to is None and len(fitting) > 1:
        forward = [file for file in fitting if headers[file]["provenance"].get("direction") == "a_to_b"]
        fitting = forward or fitting
    if len(fitting) == 1:
        return fitting[0]
    asked = "no target domain was named" if to is None else f"{len(fitting) or 'no'} models to {to!r}"
    problems = f" Not readable: {' '.join(refused)}" if refused else ""
    raise ModelError(f"{path}: {asked}; the models here are {listing}. Name one target, or give one file.{problems}")


def find_opposite(path: Path, model: Model) -> Path:
    """The file of the same run's model in the other direction: in the same folder, the domains in its name swapped.

    Args:
        path: the model's file: ct_to_mr.safetensors lies beside mr_to_ct.safetensors, latest_net_G_B.pth beside
            latest_net_G_A.pth.
        model: what it holds.

    Raises:
        ModelError: the name does not tell, or there is no such file.
    """
    mine, theirs = f"{model.source.name}_to_{model.target.name}", f"{model.target.name}_to_{model.source.name}"
    if path.suffix == upstream.SUFFIX:
        mine, theirs = ("_net_G_B", "_net_G_A") if "_net_G_B" in path.stem else ("_net_G_A", "_net_G_B")
    if mine not in path.stem:
        raise ModelError(
            f"{path}: its opposite model is looked for by its name, which does not hold {mine!r}. Give both files the "
            "names that training gave them, in one folder."
        )
    file = path.with_name(path.name.replace(mine, theirs))
    if not file.is_file():
        raise ModelError(
            f"{file}: missing; it is the opposite model of {path.name}, and translates back. Keep both models of a run "
            "in one folder."
        )
    return file


def _upstream_header(path: Path) -> dict[str, Any]:
    """The names of the two domains, which is all that a .pth file tells by its name."""
    if not path.is_file():
        raise ModelError(f"{path}: missing; expected a model file or a run folder that holds one")
    source, target = upstream.domain_names(path)
    return {"source": {"name": source}, "target": {"name": target}}


def read_header(path: str | Path) -> dict[str, Any]:
    """The checked description inside a model file, without reading its weights.

    Raises:
        ModelError: if the file is missing, damaged, of another tool, or of a newer medcycle.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "missing"
        raise ModelError(f"{path}: {what}; expected a {SUFFIX} model file or a run folder that holds one")
    if path.suffix != SUFFIX:
        raise ModelError(
            f"{path}: not a {SUFFIX} file. medcycle opens only models it exported (such as mr_to_ct{SUFFIX}) and the "
            "weights of the original program's generators (.pth); it never unpickles .pt, .ckpt or other files."
        )
    try:
        with safe_open(path, "pt") as file:
            found = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    if _KEY not in found:
        has = f"metadata {', '.join(sorted(found)[:5])}" if found else "no metadata"
        raise ModelError(
            f"{path}: a safetensors file of another tool ({has}); expected the metadata key {_KEY!r} "
            "that medcycle writes when it exports a model"
        )
    try:
        header = json.loads(found[_KEY])
    except ValueError as error:
        raise _damaged(path, f"metadata {_KEY!r} is not JSON: {error}") from error
    return _checked(path, header)


def _checked(path: Path, header: Any) -> dict[str, Any]:
    """The header, once everything that the rest of the code looks up in it is there and of the right type."""
    if not isinstance(header, dict) or not isinstance(header.get("format"), int):
        raise _damaged(path, f"metadata {_KEY!r} gives no format number")
    if header["format"] > FORMAT:
        made = header.get("provenance")
        version = made.get("medcycle") if isinstance(made, dict) else None
        raise ModelError(
            f"{path}: model format {header['format']} (medcycle {version or 'unknown'}); this is medcycle "
            f"{_version()}, which reads formats up to {FORMAT}. Update medcycle."
        )
    types = {"network": dict, "source": dict, "target": dict, "sample": dict, "provenance": dict, "checksum": str}
    for key, kind in types.items():
        if not isinstance(header.get(key), kind):
            raise _damaged(path, f"metadata {_KEY!r} lacks {key!r}")
    for side in ("source", "target"):
        entry = header[side]
        if not isinstance(entry.get("name"), str) or not isinstance(entry.get("preparation"), dict):
            raise _damaged(path, f"metadata {_KEY!r}: {side!r} needs a name and a preparation")
    axes, size = header["sample"].get("axes"), header["sample"].get("size")
    numbers = isinstance(size, list) and len(size) in (2, 3) and all(type(n) is int and n > 0 for n in size)
    resize = header["sample"].get("resize")
    if resize is not None and not (
        isinstance(resize, list) and len(resize) == 2 and all(type(n) is int for n in resize)
    ):
        raise _damaged(path, f"sample is resized to {resize!r}; expected two numbers")
    if axes not in (*AXES, ALL) or not numbers:
        expected = f"{', '.join((*AXES, ALL))} and 2 or 3 numbers"
        raise _damaged(path, f"sample is axes {axes!r}, size {size!r}; expected {expected}")
    context = header["sample"].get("context", 0)
    if type(context) is not int or context < 0 or ((context or axes == ALL) and len(size) == 3):
        raise _damaged(path, f"sample is context {context!r} of axes {axes!r}, size {size!r}; only planes have those")
    ndim = header["network"].get("ndim", len(size))
    if ndim != len(size):
        raise _damaged(path, f"a network of {ndim} space axes with samples of size {size}")
    return header


def _build(path: Path, arguments: dict[str, Any]) -> nn.Module:
    """The network that the file describes, on the meta device: no memory is taken on the word of a file."""
    rest = dict(arguments)
    kind, knots = rest.pop("kind", None), rest.pop(CALIBRATION, None)
    if kind == "custom":
        raise ModelError(f"{path}: a custom network; pass it: load_model(path, network=...) or Translator.load(...)")
    try:
        with torch.device("meta"):
            network = build_generator(kind, **rest)
            return network if knots is None else CalibratedGenerator(network, knots)
    except (MedcycleError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: its network cannot be built from {arguments}: {error}") from error


def _check_weights(path: Path, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that do not fit, in a sentence instead of torch's page of keys."""
    parts = misfits(
        weights,
        network.state_dict(),
        missing="missing in the file",
        unknown="unknown to the network",
        other="of another shape",
        shapes="{} in the file and {} in the network",
    )
    if parts:
        raise ModelError(f"{path}: the weights do not fit the {type(network).__name__}: {'; '.join(parts)}")


def _domain(path: Path, header: dict[str, Any], side: str) -> DomainInfo:
    entry = header[side]
    try:
        return DomainInfo(entry["name"], Preparation.from_dict(entry["preparation"]))
    except (MedcycleError, TypeError, ValueError, KeyError) as error:
        raise _damaged(path, f"the preparation of {side!r} cannot be used: {error}") from error


def _checksum(weights: Mapping[str, Tensor]) -> str:
    """A digest of the weights: a flipped bit would otherwise give a plausible image with wrong values."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        value = weights[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _direction(header: dict[str, Any]) -> str:
    return f"from {header['source']['name']!r} to {header['target']['name']!r}"


def _damaged(path: Path, why: object) -> ModelError:
    return ModelError(f"{path}: not a complete model file ({why}). Copy or export it again.")


def _version() -> str:
    try:
        return metadata.version("medcycle")
    except metadata.PackageNotFoundError:  # used from a source tree without an installation
        return "unknown"
