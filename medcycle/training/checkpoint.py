"""Checkpoints: the whole training state in a file that is either complete or not there.

``checkpoints/step-00001000.pt`` holds the networks, optimizers, scalers, the first process's image buffers and random
state, and the configuration; ``step-00001000.rank1.pt`` the buffers and random state of the second process, and so on.
The sampler needs no state: a sample is a function of seed, step and index. Files are read with weights_only.
"""

from __future__ import annotations

import os
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from medcycle.errors import CheckpointError
from medcycle.training.runtime import Processes, random_state, set_random_state
from medcycle.training.step import CycleGAN

FORMAT = 1
KEEP = 2
PARTS = {"config", "data", "gan", "local"}


def save_checkpoint(folder: Path, gan: CycleGAN, config: dict[str, Any], data: str, process: Processes) -> Path:
    """Write the state after `gan.step` steps; keep the newest two checkpoints.

    Args:
        folder: the run's checkpoints folder; made if it is missing.
        gan: the state.
        config: the resolved configuration as plain values.
        data: digest of the prepared scans, to notice other data at resume.
        process: this process; the first writes the networks, each its own buffers and random state.

    Raises:
        CheckpointError: the file cannot be written; the checkpoints before it are untouched.
    """
    local = {
        "pool_a": gan.pool_a.state_dict(),
        "pool_b": gan.pool_b.state_dict(),
        "random": random_state(gan.device),
    }
    path = checkpoint_path(folder, gan.step)
    if process.first:
        state = {"format": FORMAT, "config": config, "data": data, "world": process.world, "gan": gan.state_dict()}
    else:
        path, state = _of_rank(path, process.rank), {"format": FORMAT}
    # The first process writes last: its file is what makes a checkpoint complete.
    if process.first:
        process.wait()
    _save(state | {"local": local}, path)
    if not process.first:
        process.wait()
    if process.first:
        for old in checkpoints(folder)[:-KEEP]:
            for file in (old, *folder.glob(f"{old.stem}.rank*.pt")):
                file.unlink(missing_ok=True)
        for left in folder.glob(".step-*.tmp"):  # of a session that was killed; all processes of this one have written
            left.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-\d+\.pt", path.name)]
    return sorted(found, key=lambda path: int(path.stem[5:]))


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the state after that many steps is written."""
    return folder / f"step-{step:08d}.pt"


def read_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint that can be read; says so when a damaged one is passed over.

    Raises:
        CheckpointError: there is none.
    """
    found = checkpoints(folder)
    damage = []
    for path in reversed(found):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or state.get("format") != FORMAT or not state.keys() >= PARTS:
                raise ValueError(f"not a medcycle checkpoint of format {FORMAT}")
        except Exception as error:  # torch.load raises whatever a damaged file leads it to
            damage.append(f"{path}: cannot be read as a checkpoint ({_first_line(error)})")
            continue
        for line in damage:
            warnings.warn(f"{line}; going on from {path.name}", stacklevel=2)
        return path, state
    if damage:
        raise CheckpointError(
            "\n".join(damage) + "\nNo other checkpoint is left to resume from. Train anew in another folder: without "
            "--resume, with another --out."
        )
    raise CheckpointError(f"{folder}: no checkpoint to resume from. Train without --resume first.")


def restore_checkpoint(path: Path, state: dict[str, Any], gan: CycleGAN, process: Processes) -> None:
    """Put the state of `read_checkpoint` into `gan` and this process.

    Raises:
        CheckpointError: the networks are others than the configuration's.
    """
    try:
        gan.load_state_dict(state["gan"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: does not fit this configuration's networks: {_first_line(error)}") from None
    local: dict[str, Any] | None = state["local"]
    world = state.get("world", process.world)
    if process.first and world != process.world and gan.pool_a.size:
        warnings.warn(
            f"{path}: saved by {world} process(es), resumed with {process.world}: each has an image buffer of its own, "
            "so it goes on, but not exactly as it would have without the interruption",
            stacklevel=2,
        )
    if not process.first:
        own = _of_rank(path, process.rank)
        # A run resumed with more processes than it had: the new ones start with empty buffers.
        local = _read_local(own) if own.is_file() else None
    if local is not None:
        gan.pool_a.load_state_dict(local["pool_a"], gan.device)
        gan.pool_b.load_state_dict(local["pool_b"], gan.device)
        set_random_state(local["random"], gan.device)


def _read_local(path: Path) -> dict[str, Any]:
    try:
        local: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)["local"]
    except Exception as error:  # torch.load raises whatever a damaged file leads it to
        raise CheckpointError(
            f"{path}: cannot be read as a process's part of a checkpoint ({_first_line(error)}). Remove it to go on: "
            "that process then starts with empty image buffers."
        ) from None
    return local


def _of_rank(path: Path, rank: int) -> Path:
    return path.with_name(f"{path.stem}.rank{rank}.pt")


def _save(state: dict[str, Any], path: Path) -> None:
    # Not mkstemp: its files stay readable for their owner only.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: cannot be written ({_first_line(error)}). The checkpoints before it are intact; make room or "
            "mend the permissions, then go on with --resume."
        ) from None
    finally:
        with suppress(OSError):  # in place by now, unless something failed
            temporary.unlink()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
