"""Trained models for other programs: the authors' own (.pth files)."""

from __future__ import annotations

import io
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcycle.errors import MedcycleError, ModelError
from medcycle.io.files import staged
from medcycle.model import CALIBRATION, SUFFIX, load_model, read_header
from medcycle.networks import build_discriminator
from medcycle.networks.upstream import discriminator_state, generator_state, transposed

State = OrderedDict[str, Tensor]

_GENERATORS = {"a_to_b": "latest_net_G_A.pth", "b_to_a": "latest_net_G_B.pth"}
# The original names a discriminator for the generator that it judges, we for the domain that it knows.
_DISCRIMINATORS = {"discriminator_b": "latest_net_D_A.pth", "discriminator_a": "latest_net_D_B.pth"}


def export_upstream(run: str | Path, out: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Write a run's networks as the files that the original program (junyanz/pytorch-CycleGAN-and-pix2pix) loads.

    The original's program shows them pictures of 8 bits, scaled from 0..255 to -1..1: how scans were prepared (HU
    windows, percentiles) is not part of its files. All files are written, or none.

    Args:
        run: a run folder: latest_net_G_A.pth (from domain a to domain b) and latest_net_G_B.pth from its two model
            files, and, where it has a checkpoint, latest_net_D_A.pth (which judges domain b) and latest_net_D_B.pth.
            Or one model file (.safetensors): latest_net_G.pth.
        out: the folder to write to; made if it is missing.
        overwrite: whether files of those names may be replaced.

    Returns:
        The files written.

    Raises:
        ModelError: if there is no model, a network is of a kind that the original does not have, takes neighbouring
            planes (`sample.context`) or is calibrated, or a file is in the way.
        ScanError: if the files cannot be written.
    """
    run, out = Path(run), Path(out)
    states = _of_run(run) if run.is_dir() else {"latest_net_G.pth": _generator(run)}
    files = [out / name for name in states]
    there = [file.name for file in files if file.exists()]
    if there and not overwrite:
        raise ModelError(f"{out}: holds {', '.join(there)} already. Choose another folder, or overwrite (--overwrite).")
    with staged(files[-1]) as last:
        for name, state in states.items():
            content = io.BytesIO()
            torch.save(state, content)
            last.with_name(name).write_bytes(content.getvalue())
    return files


def _of_run(run: Path) -> dict[str, State]:
    """The run's networks by the names of their files."""
    models: dict[str, list[Path]] = {direction: [] for direction in _GENERATORS}
    for file in sorted(run.glob(f"*{SUFFIX}")):
        direction = "" if file.name.startswith(".") else read_header(file)["provenance"].get("direction", "")
        models.get(direction, []).append(file)
    for direction, found in models.items():
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise ModelError(
                f"{run}: expected one model from {direction.replace('_to_', ' to ')}, as training writes when it ends; "
                f"found {names}. Give a run folder, or one {SUFFIX} file."
            )
    states = {_GENERATORS[direction]: _generator(found[0]) for direction, found in models.items()}
    return states | _discriminators(run)


def _generator(file: Path) -> State:
    model = load_model(file)
    if model.context:
        raise ModelError(
            f"{file}: takes each plane with {model.context} neighbour(s) on either side; the original's program shows "
            "its networks single pictures. Only models of sample.context 0 can be exported for it."
        )
    if CALIBRATION in model.arguments:
        raise ModelError(
            f"{file}: is calibrated (train.calibrate), and the original's program has no such curve. Resume the run "
            "with train.calibrate=false: that writes its models without."
        )
    try:
        return generator_state(transposed(model.network))
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from None


def _discriminators(run: Path) -> dict[str, State]:
    """Both discriminators of the newest checkpoint; nothing where the run kept none."""
    path, checkpoint = _newest_checkpoint(run / "checkpoints")
    states: dict[str, State] = {}
    for name, file in _DISCRIMINATORS.items() if checkpoint else ():
        try:
            weights, config = checkpoint["gan"]["networks"][name], checkpoint["config"]
            states[file] = discriminator_state(transposed(_discriminator(weights, config)))
        except (MedcycleError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if isinstance(error, MedcycleError) else "it is not of a known kind"
            raise ModelError(
                f"{path}: its {name} cannot be exported: {reason}. Without it: give one {SUFFIX} file at a time."
            ) from None
    return states


def _discriminator(weights: dict[str, Tensor], config: dict[str, Any]) -> nn.Module:
    settings, ndim = config["model"]["discriminator"], len(config["sample"]["size"])
    network = build_discriminator(**settings, channels=weights["body.0.weight"].shape[1], ndim=ndim)
    network.load_state_dict(weights)
    return network


def _newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint that can be read, older ones instead of damaged ones; empty where there is none."""
    path = folder
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        if not path.stem.removeprefix("step-").isdigit():  # another process's part
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises whatever a damaged file leads it to
            warnings.warn(f"{path}: cannot be read ({type(error).__name__}): passed over", stacklevel=4)
            continue
        if isinstance(state, dict):
            return path, state
    return path, {}
