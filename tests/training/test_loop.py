"""A whole run on tiny scans: what it leaves behind, how it stops, goes on, and refuses."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from rich.console import Console

from medcycle.config import Config, dump_config, load_config, parse_config
from medcycle.errors import CheckpointError, ConfigError, MedcycleError, ScanError, TrainingError
from medcycle.inference import Translator
from medcycle.io import read_volume, write_volume
from medcycle.model import load_model
from medcycle.training.checkpoint import checkpoints, read_checkpoint, restore_checkpoint
from medcycle.training.cohorts import data_digest, prepare_domains
from medcycle.training.loop import _complete, train
from medcycle.training.plan import audit_targets, plan
from medcycle.training.progress import Journal
from medcycle.training.runtime import Processes
from medcycle.training.setup import build_gan, learning_rate

QUIET = Console(quiet=True)


def make_scans(folder: Path, count: int = 3, size: int = 20) -> Path:
    """MR and CT of balls: `folder`/mr and `folder`/ct."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(size) - size / 2] * 3, indexing="ij"))
    for index in range(count):
        inside = np.linalg.norm(grid * rng.uniform(0.9, 1.1, (3, 1, 1, 1)), axis=0) < size * 0.38
        shell = inside & (np.linalg.norm(grid, axis=0) > size * 0.28)
        mr = np.where(inside, 600 + 60 * rng.standard_normal(inside.shape), 5 * rng.random(inside.shape))
        ct = np.where(shell, 900, np.where(inside, 40, -1000)) + 10 * rng.standard_normal(inside.shape)
        for name, array in (("mr", mr), ("ct", ct)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            image = nib.Nifti1Image(array.astype(np.int16), np.diag([2.0, 2.0, 2.0, 1.0]))
            nib.save(image, folder / name / f"p{index}.nii.gz")
    return folder


def make_config(folder: Path, **train_settings: Any) -> Config:
    network = {"filters": 4, "blocks": 1}
    settings = {"epochs": 1, "decay_epochs": 1, "samples_per_epoch": 4, "log_every": 2, "preview_every": 4}
    return parse_config(
        {
            "domains": {
                "a": {"name": "mr", "path": str(folder / "mr"), "modality": "mr"},
                "b": {"name": "ct", "path": str(folder / "ct"), "modality": "ct"},
            },
            "prepare": {"cache": str(folder / "cache"), "workers": 1},
            "sample": {"size": [16, 16]},
            "model": {"generator": network, "discriminator": {"filters": 4, "layers": 1}},
            "train": settings | {"checkpoint_every": 4, "precision": "fp32", "pool": 3} | train_settings,
        }
    )


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scans(tmp_path_factory.mktemp("scans"))


def final_state(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(checkpoints(run / "checkpoints")[-1], weights_only=True)
    return state


def assert_same(one: Any, two: Any, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_same(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    else:
        assert one == two, where


def test_a_run_leaves_all_that_design_promises(scans: Path, tmp_path: Path) -> None:
    outcome = train(make_config(scans, ema=0.9, validation=0.34), tmp_path / "run", console=QUIET)
    run = outcome.run
    assert (outcome.step, outcome.finished) == (8, True)
    assert [path.name for path in checkpoints(run / "checkpoints")] == ["step-00000004.pt", "step-00000008.pt"]
    (tmp_path / "plain").touch()
    made = [*run.rglob("*"), *(scans / "cache").iterdir()]
    assert {path.stat().st_mode for path in made if path.is_file()} == {(tmp_path / "plain").stat().st_mode}  # by umask
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8]
    assert all(float(row["generator"]) > 0 for row in rows)
    assert [bool(row["validation_cycle_a"]) for row in rows] == [False, True, False, True]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([2e-4, 2e-4, 1e-4, 1e-4])
    assert (run / "previews" / "step-00000008.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").iterdir())
    report = (run / "report.html").read_text()
    assert "data:image/png;base64," in report
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert load_config(run / "config.yaml").train.ema == 0.9
    model = load_model(run / "mr_to_ct.safetensors")
    assert (model.source.name, model.target.name) == ("mr", "ct")
    assert model.provenance["steps"] == 8
    averaged = final_state(run)["gan"]["networks"]["average_a_to_b"]
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, averaged[key])


@pytest.mark.parametrize("sample", [{"size": [16, 16]}, {"size": [8, 8, 8]}, {"context": 1, "axes": "all"}])
def test_resuming_is_exact(scans: Path, tmp_path: Path, sample: dict[str, Any]) -> None:
    def config(**settings: Any) -> Config:
        values = make_config(scans, batch_size=2, **settings).model_dump()
        values["sample"] |= sample
        values["sample"]["augment"] |= {"rotate": 10.0}
        values["model"]["generator"]["dropout"] = 0.5  # draws from the global generator
        return parse_config(values)

    settings = {"epochs": 2, "decay_epochs": 2, "checkpoint_every": 3}
    whole = train(config(**settings), tmp_path / "whole", console=QUIET)
    assert whole.step == 8
    killed = train_to_checkpoint_three(config(**settings), tmp_path / "killed")
    assert killed.step == 8
    assert_same(final_state(tmp_path / "whole")["gan"], final_state(tmp_path / "killed")["gan"])
    assert_same(final_state(tmp_path / "whole")["local"], final_state(tmp_path / "killed")["local"])
    rows = list(csv.DictReader((tmp_path / "killed" / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [2, 3, 4, 6, 8]


@pytest.mark.parametrize("generator", ["resnet", "unet"])
@pytest.mark.parametrize("sample", [{"context": 2}, {"axes": "all"}, {"context": 1, "axes": "all"}])
def test_neighbouring_planes_and_all_directions(
    scans: Path, tmp_path: Path, sample: dict[str, Any], generator: str
) -> None:
    values = make_config(scans, samples_per_epoch=2, decay_epochs=0, validation=0.34).model_dump()
    values["sample"] |= sample | {"match_position": True}
    values["model"]["generator"] = {"kind": generator, "filters": 4} | ({"downs": 2} if generator == "unet" else {})
    values["loss"]["structure"] |= {"mind": 1.0, "gradient_correlation": 1.0, "patch_nce": 1.0}
    values["loss"]["body_only"] = True
    outcome = train(parse_config(values), tmp_path / "run", console=QUIET)
    assert outcome.step == 2
    assert list((tmp_path / "run" / "previews").iterdir())
    for name in ("mr_to_ct", "ct_to_mr"):
        model = load_model(tmp_path / "run" / f"{name}.safetensors")
        assert model.context == sample.get("context", 0)
        assert model.sample["axes"] == sample.get("axes", "axial")
        assert model.in_channels == 2 * model.context + 1
    scan = scans / "mr" / "p0.nii.gz"
    results = {}
    for axes in (None, "axial"):
        results[axes] = Translator.load(tmp_path / "run", to="ct", device="cpu", precision="fp32", axes=axes)(scan)
        assert results[axes].array.shape == read_volume(scan).array.shape
    assert np.array_equal(results[None].array, results["axial"].array) == ("axes" not in sample)
    values["sample"]["context"] = 5
    with pytest.raises(CheckpointError, match=r"sample\.context: the run has \d, now 5"):
        train(parse_config(values), tmp_path / "run", resume=True, console=QUIET)


def test_previews_show_the_middle_plane(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import medcycle.training.keeper as module

    shown: list[Any] = []
    monkeypatch.setattr(module, "preview", lambda rows: shown.append(rows) or b"")
    kept: list[module.Keeper] = []
    start = module.Keeper.__init__
    monkeypatch.setattr(module.Keeper, "__init__", lambda self, *a, **k: kept.append(self) or start(self, *a, **k))
    values = make_config(scans, samples_per_epoch=1, decay_epochs=0).model_dump()
    values["sample"]["context"] = 1
    train(parse_config(values), tmp_path / "run", console=QUIET)
    (_, pictures, _), *_ = shown[0]
    assert pictures[0].shape == (1, 16, 16)
    np.testing.assert_array_equal(pictures[0], kept[0].signs.pairs[0][0][0, 1:2].numpy())


def test_a_plan_counts_neighbouring_planes_and_an_audit_looks_at_all_directions(scans: Path, tmp_path: Path) -> None:
    values = make_config(scans).model_dump()
    alone = plan(parse_config(values))
    values["sample"] |= {"context": 1, "axes": "all"}
    config = parse_config(values)
    facts = plan(config)
    assert facts["sample"] == "16 x 16, 1 neighbours on either side, batch of 1"
    counts = [int(re.search(r"([\d,]+) parameters", f["generator"])[1].replace(",", "")) for f in (alone, facts)]  # type: ignore[index]
    assert counts[1] - counts[0] == 2 * (7 * 7 * 4) + 2 * (7 * 7 * 4 + 1)  # the first and the last convolution
    (domain, _) = audit_targets([str(write_config(config, tmp_path / "all.yaml"))]).domains
    assert domain.scans[0].planes == 60


def train_to_checkpoint_three(config: Config, run: Path) -> Any:
    """Train with a crash right after step 4, then resume from the checkpoint of step 3."""
    import medcycle.training.graph as graph

    calls = 0
    real_step = graph.training_step

    def crashing_step(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise RuntimeError("power cut")
        return real_step(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "training_step", crashing_step)
        with pytest.raises(RuntimeError, match="power cut"):
            train(config, run, console=QUIET)
    assert [path.name for path in checkpoints(run / "checkpoints")] == ["step-00000003.pt"]
    return train(config, run, resume=True, console=QUIET)


def run_cli(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "medcycle", *arguments], capture_output=True, text=True, cwd=folder, check=False
    )


def write_config(config: Config, path: Path) -> Path:
    from medcycle.config import dump_config

    path.write_text(dump_config(config))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_or_interrupted_then_resumed_is_the_same_run(scans: Path, tmp_path: Path, how: signal.Signals) -> None:
    settings = {"samples_per_epoch": 150, "checkpoint_every": 25, "log_every": 25, "preview_every": 1000}
    config = make_config(scans, **settings)
    file = write_config(config, tmp_path / "c.yaml")
    command = [sys.executable, "-m", "medcycle", "train", "--config", str(file), "--out", "cut"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not checkpoints(tmp_path / "cut" / "checkpoints") and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.1)
        os.kill(process.pid, how)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    if how == signal.SIGINT:
        assert "--resume" in errors
        assert "Traceback" not in errors
    interrupted = checkpoints(tmp_path / "cut" / "checkpoints")[-1]
    assert 0 < int(interrupted.stem[5:]) < 300, "it was to be stopped on the way"
    resumed = run_cli(tmp_path, "train", "--config", str(file), "--out", "cut", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    train(config, tmp_path / "whole", console=QUIET)
    assert_same(final_state(tmp_path / "whole")["gan"], final_state(tmp_path / "cut")["gan"])
    assert_same(final_state(tmp_path / "whole")["local"], final_state(tmp_path / "cut")["local"])


@pytest.mark.slow
def test_two_threads_give_the_weights_of_one(scans: Path, tmp_path: Path) -> None:
    said = {}
    for threads in (1, 2):
        console = Console(record=True, file=io.StringIO(), width=200)
        run = tmp_path / f"threads{threads}"
        config = make_config(scans, batch_size=2, samples_per_epoch=8, threads=threads, memory="batched")
        train(config, run, console=console)
        said[threads] = console.export_text()
    assert "side by side" in said[2]
    assert "side by side" not in said[1]
    assert_same(final_state(tmp_path / "threads1")["gan"], final_state(tmp_path / "threads2")["gan"])


def test_two_processes_give_the_weights_of_one(scans: Path, tmp_path: Path) -> None:
    config = make_config(scans, batch_size=4, pool=0, samples_per_epoch=12)
    file = write_config(config, tmp_path / "c.yaml")
    train(config, tmp_path / "one", console=QUIET)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "medcycle"]
    done = subprocess.run(
        [*command, "train", "--config", str(file), "--out", "two"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done: ") == 1
    one, two = final_state(tmp_path / "one")["gan"]["networks"], final_state(tmp_path / "two")["gan"]["networks"]
    for name, network in one.items():
        for key, value in network.items():
            torch.testing.assert_close(two[name][key], value, rtol=1e-5, atol=1e-5)
    assert (tmp_path / "two" / "checkpoints" / "step-00000006.rank1.pt").is_file()
    scores = [list(csv.DictReader((tmp_path / run / "metrics.csv").open()))[-1]["seen_score"] for run in ("one", "two")]
    assert float(scores[0]) == pytest.approx(float(scores[1]), rel=1e-3)


def test_a_second_run_in_the_same_folder_is_refused(scans: Path, tmp_path: Path) -> None:
    config = make_config(scans, epochs=1, decay_epochs=0)
    train(config, tmp_path / "run", console=QUIET)
    with pytest.raises(TrainingError, match="holds a run already"):
        train(config, tmp_path / "run", console=QUIET)


def test_resuming_with_other_settings_names_them(scans: Path, tmp_path: Path) -> None:
    train(make_config(scans, epochs=1, decay_epochs=0), tmp_path / "run", console=QUIET)
    with pytest.raises(CheckpointError, match=r"train\.batch_size: the run has 1, now 2"):
        train(make_config(scans, epochs=1, decay_epochs=0, batch_size=2), tmp_path / "run", resume=True, console=QUIET)
    longer = train(make_config(scans, epochs=2, decay_epochs=0), tmp_path / "run", resume=True, console=QUIET)
    assert longer.step == 8
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        train(make_config(scans), tmp_path / "other", resume=True, console=QUIET)


def test_out_of_memory_names_the_settings_that_help(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import medcycle.training.loop as loop

    calls = 0

    class Full(loop.Stepper):
        def __call__(self, *images: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls in (1, 7):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            if calls == 8:
                raise RuntimeError("shapes differ")
            return super().__call__(*images)

    monkeypatch.setattr(loop, "Stepper", Full)
    config, run = make_config(scans, batch_size=2, samples_per_epoch=8, memory="batched"), tmp_path / "run"
    for _ in "12":
        with pytest.raises(TrainingError) as caught:
            train(config, run, console=QUIET)
        needs = re.findall(r"about ([0-9]+) MiB", str(caught.value))
        assert re.search(
            r"out of memory.* train\.memory=split \(.*or train\.memory=checkpointed \(.*and go on with --resume; or "
            r"begin again with sample\.size=\[16, 16\] \(.*model\.generator\.filters \(now",
            str(caught.value),
        )
        assert len(needs) == 4
        assert int(needs[0]) >= max(map(int, needs[1:]))
    frugal = make_config(scans, batch_size=2, samples_per_epoch=8, microbatch=1, memory="checkpointed")
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(frugal, run, resume=True, console=QUIET)
    assert load_config(run / "config.yaml").train.microbatch == 1  # the folder tells the settings of now
    assert train(frugal, run, resume=True, console=QUIET).finished


def test_a_run_of_an_earlier_version_has_the_defaults_of_younger_keys(scans: Path) -> None:
    values = make_config(scans).model_dump(mode="json")
    old = copy.deepcopy(values)
    del old["loss"]["structure"], old["train"]["best"], old["pairs"]
    assert _complete(old) == values
    assert _complete(old | {"gone": 1}) == old | {"gone": 1}


def test_a_refused_resume_leaves_config_yaml(scans: Path, tmp_path: Path) -> None:
    train(make_config(scans, epochs=1, decay_epochs=0), tmp_path / "run", console=QUIET)
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(CheckpointError):
        train(make_config(scans, epochs=2, batch_size=2), tmp_path / "run", resume=True, console=QUIET)
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_a_run_killed_before_its_first_checkpoint_goes_on_from_the_start(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import medcycle.training.graph as graph

    def power_cut(*_: Any) -> Any:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(graph, "training_step", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            train(make_config(scans), tmp_path / "run", console=QUIET)
    resumed = train(make_config(scans), tmp_path / "run", resume=True, console=QUIET)
    assert (resumed.step, resumed.finished) == (8, True)
    train(make_config(scans), tmp_path / "whole", console=QUIET)
    assert_same(final_state(tmp_path / "whole")["gan"], final_state(tmp_path / "run")["gan"])


def test_a_damaged_checkpoint_is_passed_over(scans: Path, tmp_path: Path) -> None:
    config = make_config(scans)
    train(config, tmp_path / "run", console=QUIET)
    before, last = checkpoints(tmp_path / "run" / "checkpoints")
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="going on from step-00000004.pt"):
        path, state = read_checkpoint(tmp_path / "run" / "checkpoints")
    assert (path, state["gan"]["step"]) == (before, 4)
    before.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_checkpoint(tmp_path / "run" / "checkpoints")


class Danger:
    """Would write a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    torch.save({"format": 1, "gan": Danger(tmp_path / "pwned")}, tmp_path / "step-00000001.pt")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_what_a_killed_session_left_is_cleared_away(scans: Path, tmp_path: Path) -> None:
    half = tmp_path / "run" / "checkpoints" / ".step-00000004.pt.12345.tmp"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    train(make_config(scans, decay_epochs=0), tmp_path / "run", console=QUIET)
    assert [path.name for path in half.parent.iterdir()] == ["step-00000004.pt"]


def test_another_number_of_processes_is_warned_of(scans: Path, tmp_path: Path) -> None:
    train(make_config(scans, decay_epochs=0), tmp_path / "run", console=QUIET)
    path, state = read_checkpoint(tmp_path / "run" / "checkpoints")
    for pool in (3, 0):
        gan = build_gan(make_config(scans, pool=pool), (1, 1), torch.device("cpu"), "fp32")
        restore_checkpoint(path, state, gan, Processes())
        if pool:
            with pytest.warns(UserWarning, match=r"saved by 2 process\(es\), resumed with 1"):
                restore_checkpoint(path, state | {"world": 2}, gan, Processes())
        else:  # nothing that the processes do not share
            restore_checkpoint(path, state | {"world": 2}, gan, Processes())


def test_events_of_a_session_that_was_killed_are_dropped(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps in ((0, (2, 4)), (0, (2, 3, 5)), (3, (4,))):  # killed before a checkpoint, killed after one
        with Journal(tmp_path, start, 10, QUIET) as journal:
            for step in steps:
                journal.record(step, {"generator": 1.0})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("generator")] == [2, 3, 4]
    assert journal.history()["generator"][0] == [2, 3, 4]


def test_a_full_disk_keeps_the_checkpoint_before(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import medcycle.training.checkpoint as checkpoint

    real_save, calls = torch.save, 0

    def full(state: Any, file: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        real_save(state, file)

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(MedcycleError, match=r"No space left on device.*--resume"):
        train(make_config(scans), tmp_path / "run", console=QUIET)
    files = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert files == ["step-00000004.pt"]
    assert read_checkpoint(tmp_path / "run" / "checkpoints")[1]["gan"]["step"] == 4


def test_a_loss_that_is_not_finite_stops_with_a_diagnosis(scans: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite") as caught:
        train(make_config(scans, learning_rate=1e30, epochs=20), tmp_path / "run", console=QUIET)
    folder = next((tmp_path / "run").glob("diagnosis-step-*"))
    assert str(folder) in str(caught.value)
    facts = json.loads((folder / "diagnosis.json").read_text())
    assert facts["weights not finite"]
    assert np.load(folder / "samples.npz")["real_a"].shape == (1, 1, 16, 16)
    for path in checkpoints(tmp_path / "run" / "checkpoints"):
        state = torch.load(path, weights_only=True)
        assert all(bool(torch.isfinite(v).all()) for n in state["gan"]["networks"].values() for v in n.values())


class Tiny(torch.nn.Module):
    """A custom generator."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x))


def test_a_custom_network_is_trained_and_loaded_back(scans: Path, tmp_path: Path) -> None:
    config = make_config(scans, epochs=1, decay_epochs=0)
    train(config, tmp_path / "run", make_generator=Tiny, console=QUIET)
    model = load_model(tmp_path / "run" / "mr_to_ct.safetensors", network=Tiny(1, 1))
    assert model.network(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 8, 8)


def test_swapped_domains_are_warned_of(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = make_config(scans, epochs=1, decay_epochs=0).model_dump()
    a, b = values["domains"]["a"]["path"], values["domains"]["b"]["path"]
    values["domains"]["a"]["path"], values["domains"]["b"]["path"] = b, a
    train(parse_config(values), tmp_path / "run", console=Console(force_terminal=False, width=200, soft_wrap=True))
    assert "warning: domains.a (mr)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"domains": {"a": {"path": "nowhere"}}}, ConfigError, r"domains\.a\.path.*nowhere"),
        ({"sample": {"size": [64, 64]}}, ScanError, r"sample\.size"),
        (
            {"sample": {"size": [16, 12]}, "model": {"discriminator": {"layers": 3}}},
            ConfigError,
            r"sample\.size: \[16, 12\] is too small .* .*layers=3 with scales=1 needs at least 24 voxels",
        ),
        ({"train": {"validation": 0.99}}, None, ""),
        ({"train": {"device": "cuda:77"}}, ConfigError, "cuda:77"),
        ({"train": {"precision": "fp16"}}, ConfigError, "fp16"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    scans: Path, tmp_path: Path, change: dict[str, Any], error: type[Exception] | None, message: str
) -> None:
    values = make_config(scans, epochs=1, decay_epochs=0).model_dump()
    for section, settings in change.items():
        for key, value in settings.items():
            if isinstance(value, dict):
                values[section][key] |= value
            else:
                values[section][key] = value
    if error is None:
        train(parse_config(values), tmp_path / "run", console=QUIET)
        return
    with pytest.raises(error, match=message):
        train(parse_config(values), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_refused_start_leaves_only_what_was_there(scans: Path, tmp_path: Path) -> None:
    values = make_config(scans, epochs=1, decay_epochs=0).model_dump()
    values["domains"]["a"]["path"] = str(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    for run in ("new/er/run", "mine"):
        with pytest.raises(ConfigError, match=r"domains\.a\.path"):
            train(parse_config(values), tmp_path / run, console=QUIET)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]
    values["prepare"]["cache"] = str(tmp_path / "cache")
    values["domains"]["b"]["path"] = values["domains"]["a"]["path"]
    (tmp_path / "mine" / "notes.txt").rename(tmp_path / "mine" / "torn.nii.gz")
    with pytest.raises(ScanError, match=r"torn\.nii\.gz"):
        train(parse_config(values), tmp_path / "run", console=QUIET)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "torn.nii.gz"]


def test_samples_below_what_the_discriminator_needs(scans: Path, tmp_path: Path) -> None:
    def config(size: list[int], **discriminator: Any) -> Config:
        values = make_config(scans, epochs=1, decay_epochs=0, samples_per_epoch=1).model_dump()
        values["sample"]["size"], values["prepare"]["cache"] = size, str(tmp_path / "cache")
        values["model"]["discriminator"] = discriminator
        return parse_config(values)

    three = {"kind": "patchgan", "filters": 4, "layers": 3}
    for refusing in (plan, lambda small: train(small, tmp_path / "run", console=QUIET)):
        with pytest.raises(ConfigError, match=r"sample\.size.*layers=3 .* needs at least 24 voxels"):
            refusing(config([24, 23], **three))
    assert list(tmp_path.iterdir()) == []  # nothing was prepared, no run begun
    for fine in (config([24, 24], **three), config([6, 6], **three | {"layers": 1}), config([5, 5], kind="pixel")):
        assert "discriminator" in plan(fine)
    assert train(config([24, 24], **three), tmp_path / "run", console=QUIET).finished
    own = train(
        config([16, 16], **three),
        tmp_path / "own",
        make_discriminator=lambda channels: torch.nn.Conv2d(channels, 1, 3),
        console=QUIET,
    )
    assert own.finished


def test_bad_scans_of_both_domains_are_reported_together(tmp_path: Path) -> None:
    folder = make_scans(tmp_path)
    for name in ("mr", "ct"):
        (folder / name / f"torn-{name}.nii.gz").write_bytes(b"nothing")
    with pytest.raises(ScanError) as caught:
        prepare_domains(make_config(folder), None, print, strict=True)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == ["domains.a (mr)", "domains.b (ct)"]
    assert ["torn-mr" in line or "torn-ct" in line for line in lines] == [False, True, False, True]
    assert len(list((folder / "cache").glob("*.npy"))) == 6  # the good ones of both are prepared
    (folder / "mr" / "torn-mr.nii.gz").unlink()
    with pytest.raises(ScanError, match=r"^domains\.b \(ct\): 1 of 4 scans"):
        prepare_domains(make_config(folder), None, print, strict=True)


def test_bad_scans_are_left_out_and_listed(tmp_path: Path) -> None:
    folder = make_scans(tmp_path)
    (folder / "mr" / "torn.nii.gz").write_bytes(b"nothing")
    outcome = train(make_config(folder), tmp_path / "run", console=QUIET)
    assert outcome.finished
    assert outcome.refused == 1
    listed = (tmp_path / "run" / "refused.txt").read_text().splitlines()
    assert len(listed) == 1
    assert listed[0].startswith(f"domains.a (mr): {folder / 'mr' / 'torn.nii.gz'}: ")
    assert load_model(tmp_path / "run" / "mr_to_ct.safetensors").provenance["scans"] == {"mr": 3, "ct": 3}
    with pytest.raises(ScanError, match=r"^domains\.a \(mr\): 1 of 4 scans"):
        train(make_config(folder), tmp_path / "strict", console=QUIET, strict=True)
    (folder / "mr" / "torn.nii.gz").unlink()  # mended: the list is of this session
    assert train(make_config(folder), tmp_path / "run", resume=True, console=QUIET).refused == 0
    assert not (tmp_path / "run" / "refused.txt").exists()


def test_a_domain_of_bad_scans_alone_is_refused(tmp_path: Path) -> None:
    folder = make_scans(tmp_path)
    for path in (folder / "mr").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(ScanError, match=r"^domains\.a \(mr\): 3 of 3 scans cannot be prepared"):
        prepare_domains(make_config(folder), None, print)
    make_scans(folder)
    rows = [f"p{n}.nii.gz,{'val' if n else 'train'}" for n in range(3)]
    (folder / "mr" / "cohort.csv").write_text("\n".join(["path,split", *rows]))
    (folder / "mr" / "p0.nii.gz").write_bytes(b"nothing")
    values = make_config(folder).model_dump()
    values["domains"]["a"]["path"] = str(folder / "mr" / "cohort.csv")
    with pytest.raises(ScanError, match=r"(?s)^domains\.a \(mr\): every scan to train on is refused:.*p0\.nii\.gz"):
        prepare_domains(parse_config(values), None, print)


def test_histograms_are_fitted_to_the_training_scans_alone(tmp_path: Path) -> None:
    folder = make_scans(tmp_path, count=4)
    sides = ("train", "train", "val", "test")
    for name in ("mr", "ct"):
        rows = [f"p{n}.nii.gz,{side},{'Leiden' if n else 'Delft'}" for n, side in enumerate(sides)]
        (folder / name / "cohort.csv").write_text("\n".join(["path,split,site", *rows]))
    values = make_config(folder, epochs=1, decay_epochs=0).model_dump()
    for key, name in (("a", "mr"), ("b", "ct")):
        values["domains"][key]["path"] = str(folder / name / "cohort.csv")
    values["prepare"] |= {"nyul": True, "crop": True}
    config = parse_config(values)

    def landmarks() -> Any:
        return prepare_domains(config, None, print)["a"].preparation.landmarks

    train(config, tmp_path / "run", console=QUIET)
    model = load_model(tmp_path / "run" / "mr_to_ct.safetensors")
    before = landmarks()
    assert len(before) == 11
    assert model.source.preparation.landmarks == before
    assert model.target.preparation.landmarks is None
    assert model.source.preparation.crop == 10
    assert model.provenance["sites"] == {"mr": {"Delft": 1, "Leiden": 1}, "ct": {"Delft": 1, "Leiden": 1}}
    assert model.provenance["scans"] == {"mr": 2, "ct": 2}
    synthetic = Translator.load(tmp_path / "run", to="ct")(folder / "mr" / "p3.nii.gz")
    assert synthetic.space == (20, 20, 20)
    assert synthetic.unit == "HU"
    assert (synthetic.array[0][[0, -1], :, [0, -1]] == -1000).all()
    for held_out in ("p2", "p3"):
        skew(folder / "mr" / f"{held_out}.nii.gz")
    assert landmarks() == before
    skew(folder / "mr" / "p0.nii.gz")
    assert landmarks() != before


def skew(path: Path) -> None:
    """Another contrast in the same scan."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image((image.get_fdata() ** 2 / 900).astype(np.int16), image.affine), path)


def test_a_validation_of_nobody_says_so(scans: Path) -> None:
    said: list[str] = []
    prepare_domains(make_config(scans, validation=0.1), None, said.append)
    assert any("10% of the patients, rounded down, is nobody" in text for text in said)
    assert "rounded down, is nobody" in plan(make_config(scans, validation=0.1))["validation"]
    assert "validation" not in plan(make_config(scans, validation=0.34))
    said.clear()
    prepare_domains(make_config(scans, validation=0.34), None, said.append)
    assert said == []


@pytest.mark.parametrize(
    ("spacing", "axes", "told"), [((2, 2, 4), "all", 2), ((2, 2, 2), "all", 0), ((2, 2, 4), "axial", 0)]
)
def test_thick_slices_in_planes_of_all_directions_are_warned_of(
    scans: Path, spacing: tuple[float, ...], axes: str, told: int
) -> None:
    values = make_config(scans, validation=0).model_dump()
    values["prepare"]["spacing"] = spacing
    values["sample"] |= {"axes": axes, "size": (8, 8)}
    said: list[str] = []
    prepare_domains(parse_config(values), None, said.append)
    assert len(said) == told
    assert all("scans have voxels of 2 x 2 x 4 mm or the like, and sample.axes all" in text for text in said)


def test_the_digest_of_the_data_names_every_scan(tmp_path: Path) -> None:
    folder = make_scans(tmp_path)
    before = data_digest(prepare_domains(make_config(folder, validation=0.34), None, print))
    assert data_digest(prepare_domains(make_config(folder, validation=0.34), None, print)) == before
    assert data_digest(prepare_domains(make_config(folder, validation=0), None, print)) != before
    (folder / "ct" / "p1.nii.gz").write_bytes((folder / "ct" / "p2.nii.gz").read_bytes())
    assert data_digest(prepare_domains(make_config(folder, validation=0.34), None, print)) != before


def test_weights_that_are_not_finite_are_never_saved(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import medcycle.training.graph as graph

    real_step = graph.training_step

    def poisoned(gan: Any, *arguments: Any) -> Any:
        values = real_step(gan, *arguments)
        if gan.step == 8:  # the losses of this step are finite, the weights after it are not
            gan.generator_parameters[0].data.fill_(float("inf"))
        return values

    monkeypatch.setattr(graph, "training_step", poisoned)
    with pytest.raises(TrainingError, match="Step 8: not finite: weights"):
        train(make_config(scans), tmp_path / "run", console=QUIET)
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000004.pt"]


def test_a_model_tells_nothing_of_files(scans: Path, tmp_path: Path) -> None:
    train(make_config(scans, epochs=1, decay_epochs=0), tmp_path / "run", console=QUIET)
    model = load_model(tmp_path / "run" / "mr_to_ct.safetensors")
    assert model.provenance["config"]["train"]["pool"] == 3
    assert str(scans) not in json.dumps(model.provenance)


@pytest.mark.slow
def test_an_error_in_several_processes_is_a_message_in_each(tmp_path: Path) -> None:
    config = make_config(tmp_path / "nowhere", batch_size=2)
    file = write_config(config, tmp_path / "c.yaml")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "medcycle"]
    done = subprocess.run(
        [*command, "train", "--config", str(file), "--out", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "domains.a.path" in done.stderr
    assert "medcycle/training" not in done.stderr.replace(str(tmp_path), ""), "a traceback of ours"


def test_several_processes_without_torchrun_are_refused(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(TrainingError, match="Start them with torchrun"):
        train(make_config(scans, batch_size=2), tmp_path / "run", console=QUIET)


def test_learning_rate_of_every_epoch_is_the_originals() -> None:
    config = parse_config(
        {
            "domains": {
                "a": {"name": "x", "path": ".", "modality": "image"},
                "b": {"name": "y", "path": ".", "modality": "image"},
            }
        }
    )
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight], lr=2e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - max(0, k + 1 - 100) / 101)
    for epoch in range(200):
        assert learning_rate(config, epoch) == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        schedule.step()


def test_a_plan_tells_and_writes_nothing(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = make_config(scans).model_dump()
    values["prepare"]["cache"] = "cache"
    facts = plan(parse_config(values))
    assert "3 scans to train" in facts["domain a (mr)"]
    assert facts["schedule"] == "2 epochs of 4 samples: 8 steps"
    assert "resnet" in facts["generator"]
    assert list(tmp_path.iterdir()) == []


def test_a_plan_looks_past_a_bad_scan(tmp_path: Path) -> None:
    folder = make_scans(tmp_path)
    (folder / "mr" / "a.nii.gz").write_bytes(b"nothing")
    facts = plan(make_config(folder))
    assert "20 x 20 x 20 voxels" in facts["domain a (mr)"]
    assert "a.nii.gz: cannot be read as NIfTI" in facts["refused a"]
    assert "refused b" not in facts
    for path in (folder / "mr").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(ScanError, match=r"a\.nii\.gz: cannot be read"):
        plan(make_config(folder))


def test_a_domain_may_accept_series_with_gaps(scans: Path, tmp_path: Path) -> None:
    for path in sorted((scans / "mr").iterdir()):
        folder = write_volume(read_volume(path), tmp_path / "mr" / path.name.split(".")[0])
        (folder / "0007.dcm").unlink()
    settings = make_config(scans).model_dump(mode="json")
    settings["domains"]["a"]["path"] = str(tmp_path / "mr")
    settings["prepare"]["cache"] = str(tmp_path / "cache")
    with pytest.raises(ScanError, match=r"1 missing slice.*resample_gaps: true"):
        prepare_domains(parse_config(settings), None, print, strict=True)
    settings["domains"]["a"]["resample_gaps"] = True
    (tmp_path / "c.yaml").write_text(dump_config(parse_config(settings)))
    with pytest.warns(UserWarning, match="1 of 20 slices"):
        assert "20 x 20 x 20 voxels" in plan(load_config(tmp_path / "c.yaml"))["domain a (mr)"]
    with pytest.warns(UserWarning, match="1 of 20 slices"):
        assert not any(scan.refused for scan in audit_targets([str(tmp_path / "c.yaml")]).scans)
    with pytest.warns(UserWarning, match="1 of 20 slices"):
        cohorts = prepare_domains(load_config(tmp_path / "c.yaml"), None, print)
    assert all(scan.array.shape[0] == 20 for scan in cohorts["a"].training)
