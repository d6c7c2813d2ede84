"""kill -9 at many moments of prepare, train and translate: what is left can be used, and the work ends as undisturbed.

    python -m benchmarks.kill [--kills 50] [--seed 0] [--out FILE.json] [--work FOLDER]

Each command is started on small phantom scans, killed, looked at, and started again until it is done; then anew. A
third of the kills come at a random moment of the command's life, the others within 20 ms of a temporary file's
appearing, when a file is being written. After each kill everything that has a name of its own must be whole: entries of
the cache, checkpoints, models, previews, tables, translated scans, pictures and DICOM series. At the end caches and
translations must have the very bytes of an undisturbed run, and the training its networks, optimizers, image buffers
and random state, bit for bit. POSIX only.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from medcycle.data import write_cohort
from medcycle.model import DomainInfo, Model, load_model, save_model
from medcycle.networks import build_generator
from medcycle.prepare import Preparation

TRAINING = [
    "prepare.spacing=[7,7,7]",
    "sample.size=[16,16]",
    "model.generator.filters=4",
    "model.generator.blocks=1",
    "model.discriminator.filters=4",
    "train.epochs=1",
    "train.decay_epochs=1",
    "train.samples_per_epoch=30",
    "train.checkpoint_every=10",
    "train.preview_every=15",
    "train.log_every=5",
    "train.validation=0.3",
    "train.device=cpu",
]


@dataclass
class Task:
    """A command that is killed.

    Attributes:
        name: what it is called in the summary.
        arguments: of `medcycle`, made anew for each start from the folder it works in.
        check: looks at all that lies in the folder; raises AssertionError for anything that is not whole.
        final: the state of a finished folder, to be equal to the undisturbed one's.
        expected: that of the undisturbed one.
        seconds: the undisturbed one took.
        moments: of temporary files appearing in it, about.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    check: Callable[[Path], None]
    final: Callable[[Path], dict[str, Any]]
    expected: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    moments: int = 0
    kills: int = 0
    aimed: int = 0
    completed: int = 0
    orphans: int = 0
    leftovers: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


# --- What is looked at ------------------------------------------------------------------------------------------------


def visible(folder: Path) -> Iterator[Path]:
    """The files below a folder, without those that lie in, or are, something hidden: temporary ones."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def hidden(folder: Path) -> list[str]:
    """The temporary files and folders below a folder, which may change under our eyes."""
    found = [os.path.join(place, name) for place, *names in os.walk(folder) for name in names[0] + names[1]]  # noqa: PTH118
    return [name.removeprefix(f"{folder}/") for name in found if "/." in name.removeprefix(str(folder))]


def digests(folder: Path) -> dict[str, str]:
    """The content of every file of a name of its own."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in visible(folder)
        if path.name != "identities.json"  # sizes and times of the scans: read, but not compared
    }


def same_as(expected: dict[str, Any]) -> Callable[[Path], None]:
    """A check that every file is that of the undisturbed run, byte for byte, and every folder of slices complete."""

    def check(folder: Path) -> None:
        found = digests(folder)
        for name, digest in found.items():
            assert digest == expected.get(name), f"{name} is not the file of the undisturbed run"
        for parent in {name.rpartition("/")[0] for name in found if name.endswith(".dcm")}:
            missing = [n for n in expected if n.startswith(parent + "/") and n not in found]
            assert not missing, f"the series {parent} is incomplete"

    return check


def check_cache(folder: Path, expected: dict[str, Any]) -> None:
    """Entries are those of the undisturbed run; one that has its JSON has its array."""
    same_as(expected)(folder)
    for path in folder.rglob("*.json"):
        if path.name == "identities.json":
            json.loads(path.read_bytes())
        elif not path.name.startswith("."):
            shape = json.loads(path.read_bytes())["shape"]
            assert list(np.load(path.with_suffix(".npy"), mmap_mode="r").shape) == shape


def check_run(folder: Path) -> None:
    """Everything in a run folder can be read."""
    for path in visible(folder / "run") if (folder / "run").is_dir() else ():
        kind = path.suffix
        if kind == ".pt":
            state = torch.load(path, map_location="cpu", weights_only=True)
            assert state["gan"]["step"] == int(path.stem[5:])
        elif kind == ".safetensors":
            load_model(path)
        elif kind == ".png":
            Image.open(path).load()
        elif kind == ".yaml":
            assert yaml.safe_load(path.read_text(encoding="utf-8"))["domains"]
        elif kind == ".html":
            assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
        elif kind == ".csv":  # the last row may be cut: it is dropped at resume
            assert path.read_text(encoding="utf-8").startswith("step,")


def trained(folder: Path) -> dict[str, Any]:
    """All that a training promises to be the same: its last checkpoint, its models, the steps it has told of."""
    newest = sorted((folder / "run" / "checkpoints").glob("step-????????.pt"))[-1]
    state = torch.load(newest, map_location="cpu", weights_only=True)
    found: dict[str, Any] = dict(_leaves({"gan": state["gan"], "local": state["local"]}, ""))
    for path in sorted((folder / "run").glob("*.safetensors")):
        found |= {f"{path.name} {k}": v for k, v in load_model(path).network.state_dict().items()}
    with (folder / "run" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        found["rows"] = list(csv.reader(file))
    found["previews"] = sorted(path.name for path in (folder / "run" / "previews").glob("*.png"))
    return found


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list | tuple):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(one, f"{name}.{key}")
    else:
        yield name, value


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """The names under which two states differ."""

    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else bool(a == b)

    both = found.keys() & expected.keys()
    return sorted(found.keys() ^ expected.keys()) + sorted(k for k in both if not same(found[k], expected[k]))


# --- Killing ----------------------------------------------------------------------------------------------------------


def start(task: Task, folder: Path) -> subprocess.Popen[bytes]:
    """The command, in a session of its own, so that whatever it leaves running can be found."""
    folder.mkdir(exist_ok=True)
    log = (folder.parent / f"{folder.name}.log").open("wb")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "medcycle", *task.arguments(folder)],
            stdout=log,
            stderr=log,
            cwd=folder.parent,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def kill(process: subprocess.Popen[bytes], folder: Path, task: Task, rng: random.Random) -> bool | None:
    """Kill the process at a moment drawn; whether it was aimed at a temporary file, None if it ended before."""
    aimed = rng.random() < 2 / 3
    moment = time.monotonic() + rng.uniform(0, 1.1 * task.seconds)
    if aimed:
        begun_anew = any(visible(folder))  # and so perhaps little is left to do
        wanted, seen = rng.randint(1, min(task.moments, 4 if begun_anew else 12)), set(hidden(folder))
        while wanted and process.poll() is None:
            now = set(hidden(folder))
            wanted = max(wanted - len(now - seen), 0)
            seen |= now
            time.sleep(0.001)
        moment = time.monotonic() + rng.uniform(0, 0.02)
    while process.poll() is None and time.monotonic() < moment:
        time.sleep(0.001)
    if process.poll() is not None:
        return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return aimed


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether all that the command had started ends by itself within 20 s."""
    for _ in range(200):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return False


def torment(task: Task, work: Path, kills: int, rng: random.Random) -> None:
    """Kill a command that often, started again each time; finished ones begin anew, and the last is let finish."""
    folder = work / task.name
    shutil.rmtree(folder, ignore_errors=True)
    while True:
        process = start(task, folder)
        aimed = kill(process, folder, task, rng) if task.kills < kills else None
        code = process.wait()
        task.orphans += not ended(process)
        try:
            task.check(folder)
        except Exception as error:  # whatever a broken file leads its reader to
            task.failures.append(f"after kill {task.kills + 1}: {type(error).__name__}: {error}")
        if aimed is not None:
            task.kills += 1
            task.aimed += aimed
        elif code != 0:
            log = (work / f"{folder.name}.log").read_text(errors="replace")
            task.failures.append(f"after kill {task.kills}: exit code {code}: {log[-1500:]}")
            shutil.rmtree(folder)
        else:
            task.completed += 1
            task.failures += [f"differs at the end: {name}" for name in differences(task.final(folder), task.expected)]
            task.leftovers += hidden(folder)
            shutil.rmtree(folder)
            if task.kills >= kills:
                return
        if task.failures[20:]:
            return
        print(f"\r{task.name}: {task.kills} kills, {task.completed} completed   ", end="", file=sys.stderr, flush=True)


# --- The tasks --------------------------------------------------------------------------------------------------------


def tasks(work: Path) -> list[Task]:
    """The commands, with scans and models for them."""
    scans = write_cohort(work / "scans", heads=(4, 4, 2), shape=(20, 20, 12), spacing=12.0)
    pictures = work / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0)
    for n in range(6):
        Image.fromarray(noise.integers(0, 256, (40, 48, 3)).astype("uint8")).save(pictures / f"{n}.png")
    models = {
        "heads": _model(work / "heads.safetensors", "mr", "ct", 1),
        "pictures": _model(work / "pictures.safetensors", "image", "image", 3),
    }
    domains = [f"domains.a.path={scans / 'train' / 'mr'}", f"domains.b.path={scans / 'train' / 'ct'}"]
    configuration = ["--config", "quick.yaml", *domains, *TRAINING]

    def preparing(folder: Path) -> list[str]:
        return ["prepare", *configuration, f"prepare.cache={folder / 'cache'}", "prepare.workers=2"]

    def training(folder: Path) -> list[str]:
        resume = ["--resume"] if (folder / "run" / "config.yaml").is_file() else []
        cache = f"prepare.cache={work / 'cache-of-train'}"
        return ["train", *configuration, cache, "--out", str(folder / "run"), *resume]

    def translating(source: Path, model: str, *more: str) -> Callable[[Path], list[str]]:
        options = ["--model", str(models[model]), "--device", "cpu", "--overwrite", *more]
        return lambda folder: ["translate", str(source), str(folder / "out"), *options]

    test = scans / "test"
    found = [
        Task("prepare", preparing, lambda folder: None, digests),
        Task("train", training, check_run, trained),
        Task("translate-nifti", translating(test / "mr", "heads"), lambda folder: None, digests),
        Task(
            "translate-dicom",
            translating(test / "mr_dicom", "heads", "--deterministic-uids"),
            lambda folder: None,
            digests,
        ),
        Task("translate-png", translating(pictures, "pictures"), lambda folder: None, digests),
    ]
    for task in found:
        folder = work / f"undisturbed-{task.name}"
        begun = time.monotonic()
        code = start(task, folder).wait()
        task.seconds = time.monotonic() - begun
        if code != 0:
            raise SystemExit(f"{task.name} fails undisturbed:\n{(work / f'{folder.name}.log').read_text()}")
        task.expected = task.final(folder)
        task.moments = 2 * len(digests(folder))
        if not task.expected or hidden(folder):
            raise SystemExit(f"{task.name}: undisturbed it left {len(task.expected)} files, hidden {hidden(folder)}")
        task.check(folder)
        if task.name == "prepare":
            task.check = _cache_check(task.expected)
        elif task.name != "train":
            task.check = same_as(task.expected)
    return found


def _cache_check(expected: dict[str, Any]) -> Callable[[Path], None]:
    return lambda folder: check_cache(folder, expected)


def _model(path: Path, source: str, target: str, channels: int) -> Path:
    """A model of random weights."""
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"kind": "resnet", "filters": 4, "blocks": 1, "in_channels": channels, "ndim": 2}
    arguments["out_channels"] = channels
    kinds: dict[str, Any] = {"mr": {"foreground": True, "scale": (0.0, 800.0)}, "ct": {"foreground": True}}
    kinds["image"] = {"scale": (0.0, 255.0)}
    first, second = (DomainInfo(kind, Preparation(modality=kind, **kinds[kind])) for kind in (source, target))
    model = Model(build_generator(**arguments), arguments, first, second, {"axes": "axial", "size": [16, 16]})
    return save_model(path, model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the summary as JSON")
    parser.add_argument("--work", type=Path, help="folder to work in; default a temporary one")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="medcycle-kill-", dir=arguments.work) as name:
        found = tasks(Path(name))
        upto = [round(arguments.kills * part) for part in (0, 0.3, 0.6, 0.74, 0.87, 1)]
        for task, (before, after) in zip(found, pairwise(upto), strict=True):
            torment(task, Path(name), after - before, rng)
    summary = {
        "seed": arguments.seed,
        "kills": sum(task.kills for task in found),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "commands": {task.name: _told(task) for task in found},
    }
    text = json.dumps(summary, indent=2)
    print("\n" + text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(1 if any(task.failures or task.orphans for task in found) else 0)


def _told(task: Task) -> dict[str, Any]:
    kinds = sorted({re.sub(r"[0-9a-f]{32}|\d+", "#", name.split("/")[-1])[:60] for name in task.leftovers})
    return {
        "kills": task.kills,
        "while_a_file_was_written": task.aimed,
        "completed": task.completed,
        "seconds_undisturbed": round(task.seconds, 1),
        "processes_left_running": task.orphans,
        "temporary_files_left_at_the_end": len(task.leftovers),
        "their_names": kinds[:10],
        "failures": task.failures,
    }


if __name__ == "__main__":
    main()
