"""Benchmarks from end to end, on a miniature of 16 pixels and a run of two steps."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medcycle.benchmark import record, run, run_benchmark, scores, sets
from medcycle.data.textures import write_miniature
from medcycle.errors import CheckpointError, ConfigError, MedcycleError, ModelError, ScanError
from medcycle.evaluation import report
from medcycle.evaluation.features import STAND_IN, features_of_folder
from medcycle.evaluation.frechet import inception_score
from medcycle.training.checkpoint import checkpoints

SMALL = (
    *("sample.size=[16, 16]", "model.generator.filters=4", "model.generator.blocks=1", "model.discriminator.layers=1"),
    *("model.discriminator.filters=4", "train.device=cpu", "train.precision=fp32"),
)
TWO_STEPS = ("train.epochs=1", "train.decay_epochs=0", "train.samples_per_epoch=2", "train.checkpoint_every=1")


@pytest.fixture(autouse=True)
def few_and_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(path: Path | None = None, device: str = "cpu") -> object:
        raise ModelError(f"{path}: no such file" if path else "no route to host")

    monkeypatch.setattr(scores, "inception", offline)
    monkeypatch.setattr(sets, "write_miniature", lambda folder, size, progress: write_miniature(folder, size, 4, 4))
    monkeypatch.setattr(report, "curve_png", lambda *_: b"")  # takes longer than all the rest
    monkeypatch.setenv("COLUMNS", "120")


def begun(tmp_path: Path, *more: str, name: str = "miniature", **settings: Any) -> dict[str, Any]:
    overrides = [*SMALL, *(TWO_STEPS if settings.get("budget") is None else ()), *more]
    path = run_benchmark(name, tmp_path / "out", data=tmp_path / "data", overrides=overrides, **settings)
    assert path == tmp_path / "out" / "benchmark.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_the_miniature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = begun(tmp_path)
    out = tmp_path / "out"
    names = {"benchmark.json", "fake_A", "fake_B", "grid.png", "plan.json", "report.html", "run"}
    assert {path.name for path in out.iterdir()} == names
    assert (found["benchmark"], found["epoch"]) == ("miniature", "final")
    assert found["schedule"] == "SHORT SCHEDULE: 2 of 1,000 steps"
    assert found["features"] == {"network": STAND_IN, "is_inception": False}
    training = found["training"]
    assert (training["steps"], training["device"], training["precision"]) == (2, "cpu", "fp32")
    assert training["steps_per_second"] == pytest.approx(2 / training["seconds"], rel=0.5)
    assert {"medcycle", "torch", "python"} == set(found["versions"])
    assert found["config"]["model"]["generator"]["filters"] == 4
    there, back = found["directions"]["plain2striped"], found["directions"]["striped2plain"]
    assert there["passed"] is False  # two steps teach nothing
    assert back["passed"] is None
    assert set(there["figures"]) > {"stripes", "background error", f"Fréchet distance ({STAND_IN})"}
    assert there["identity"]["stripes"] == pytest.approx(0, abs=1e-9)
    assert there["identity"]["background error"] == 0
    assert back["identity"]["stripes"] == pytest.approx(1)
    assert "FID" not in json.dumps({**found, "notes": []})
    printed = capsys.readouterr().out
    assert printed.count("SHORT SCHEDULE: 2 of 1,000 steps, final epoch") == 2
    for words in ("NOT passed", "identity", "halves of the real", STAND_IN, "no FID", "stripes", "background"):
        assert words in printed
    assert "SHORT SCHEDULE" in (out / "report.html").read_text(encoding="utf-8")
    assert Image.open(out / "grid.png").size[0] > 6 * 190
    assert [path.name for path in sorted((out / "fake_B").iterdir())] == [f"000{n}.png" for n in range(4)]


def test_fakes_are_the_final_models_of_the_right_direction_written_as_the_original_does(tmp_path: Path) -> None:
    from medcycle.model import find_model, load_model

    begun(tmp_path)
    for part, to, fake in (("testA", "striped", "fake_B"), ("testB", "plain", "fake_A")):
        source = tmp_path / "data" / "miniature-16" / part / "0002.png"
        network = load_model(find_model(tmp_path / "out" / "run", to)).network
        pixels = torch.from_numpy(np.array(Image.open(source))).permute(2, 1, 0)[None]
        with torch.inference_mode():
            exact = (network((pixels / 255 - 0.5) / 0.5)[0].numpy() + 1) / 2 * 255
        found = np.asarray(Image.open(tmp_path / "out" / fake / "0002.png")).transpose(2, 1, 0)
        sure = np.abs(exact - np.rint(exact)) > 1e-3  # elsewhere the last bit decides
        np.testing.assert_array_equal(found[sure], exact.astype(np.uint8)[sure])  # cut off, not rounded
        assert sure.mean() > 0.9


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    first = begun(tmp_path)
    folder = tmp_path / "out" / "run" / "checkpoints"
    newest = checkpoints(folder)[-1]
    newest.unlink()  # as if killed before the last step was saved
    stamp = (tmp_path / "data" / "miniature-16" / "testA" / "0000.png").stat().st_mtime_ns
    again = begun(tmp_path)
    assert checkpoints(folder)[-1] == newest
    assert again["directions"] == first["directions"]  # bit for bit
    assert (tmp_path / "data" / "miniature-16" / "testA" / "0000.png").stat().st_mtime_ns == stamp
    sessions = json.loads((tmp_path / "out" / "plan.json").read_text())["sessions"]
    assert [(s["from"], s["to"]) for s in sessions] == [(0, 2), (1, 2)]
    assert begun(tmp_path)["training"]["seconds"] == again["training"]["seconds"]  # nothing was left to do


def test_a_stopped_training_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = run.train

    def stopped(config: Any, folder: Path, **settings: Any) -> Any:
        timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            return train(config, folder, **settings)
        finally:
            timer.cancel()

    monkeypatch.setattr(run, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        begun(tmp_path, "train.samples_per_epoch=4000", "train.checkpoint_every=1000")
    sessions = json.loads((tmp_path / "out" / "plan.json").read_text())["sessions"]
    assert sessions[0]["from"] == 0
    assert 0 < sessions[0]["to"] < 4000
    assert checkpoints(tmp_path / "out" / "run" / "checkpoints")[-1].stem == f"step-{sessions[0]['to']:08d}"
    assert not (tmp_path / "out" / "benchmark.json").exists()
    said = capsys.readouterr().err
    assert "saved." in said
    assert "--resume" not in said  # which is no option of a benchmark


def test_a_budget_is_settled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def fit(config: str, overrides: list[str], budget: float, *_: object) -> list[str]:
        asked.append(budget)
        return ["train.epochs=1", "train.decay_epochs=1", "train.samples_per_epoch=1"]

    monkeypatch.setattr(record, "fit_to_budget", fit)
    for _ in range(2):
        found = begun(tmp_path, budget=60)
        assert found["schedule"] == "SHORT SCHEDULE: 2 of 1,000 steps"
        assert found["training"]["budget_seconds"] == 60
    assert asked == [60]
    for other in (None, 90):
        with pytest.raises(ConfigError, match="begun with --budget 60s"):
            begun(tmp_path, budget=other)
    with pytest.raises(ConfigError, match=r"so does 'train\.epochs=3'"):
        begun(tmp_path, "train.epochs=3", budget=60)


def test_a_real_budget(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too short"):
        begun(tmp_path, budget=0.001)
    assert not (tmp_path / "out").exists()
    found = begun(tmp_path, budget=4.0)
    assert 2 <= found["training"]["steps"] < 1000
    assert found["training"]["seconds"] < 8  # a busy machine may slow down after the measurement
    assert not (tmp_path / "out" / "calibration").exists()


def test_own_pictures_are_resized_as_the_original_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = write_miniature(tmp_path / "plain2zebra", 30, 3, 3)
    found = begun(tmp_path, "sample.resize=[18, 18]", name=str(own))
    out = tmp_path / "out"
    for domain in "AB":
        for kind in ("real", "fake"):
            assert {Image.open(path).size for path in (out / f"{kind}_{domain}").iterdir()} == {(16, 16)}
    source = Image.open(own / "testA" / "0001.png").resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(Image.open(out / "real_A" / "0001.png")), np.asarray(source))
    assert list(found["directions"]) == ["plain2zebra", "zebra2plain"]
    assert found["schedule"] == "SHORT SCHEDULE: 2 of 600 steps"
    assert "no route to host" in found["notes"][0]
    assert sum("3 pictures against 3; the kernel distance is" in note for note in found["notes"]) == 1
    assert found["training"]["full_steps"] == 600
    assert not any("trained in" in note or "the published one" in note for note in found["notes"])
    assert found["directions"]["plain2zebra"]["published"] == []
    assert "stripes" not in found["directions"]["plain2zebra"]["figures"]


class Original:
    """The interface of the network of the papers, and hardly any network."""

    name = "Inception 2015-12-05"
    is_inception = True
    size = 16

    def __init__(self, path: Path | None = None, device: str = "cpu") -> None:
        pass

    def resized(self, picture: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(picture).float()

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.mean((2, 3))

    def probabilities(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.mean((2, 3)).softmax(1)


@pytest.mark.parametrize("inception", [True, False])
def test_ours_stand_beside_the_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, inception: bool
) -> None:
    folder = write_miniature(tmp_path / "data" / "horse2zebra", 16, 3, 25)
    monkeypatch.setattr(sets, "download", lambda *_, **__: folder)
    if inception:
        monkeypatch.setattr(scores, "inception", Original)
    found = begun(tmp_path, "sample.resize=null", "train.precision=bf16", name="horse2zebra")
    rows = found["directions"]["horse2zebra"]["published"]
    assert rows[0] == {"source": "official", "setting": "identity 0.5", "FID": 62.111, "IS": 1.375}
    printed = capsys.readouterr().out
    for words in ("62.111", "64.52", "74.777", "138.65", "1.375", "OpenMMLab, identity 0", "clean-FID, CUT"):
        assert words in printed
    assert (
        "this horse2zebra has 3, 3, 25, 25 pictures (trainA, trainB, testA, testB), the published one 1067," in printed
    )
    assert "trained in bf16; the original trains in fp32" in printed
    ours = found["directions"]["horse2zebra"]["figures"]
    assert found["features"]["is_inception"] is inception
    assert ("FID" in ours, "KID x 1000" in ours, "IS" in ours) == (inception,) * 3
    if inception:
        fake = features_of_folder(tmp_path / "out" / "fake_B", Original())
        assert ours["IS"] == pytest.approx(inception_score(fake.probabilities)[0])
        assert ours["IS"] != pytest.approx(found["directions"]["horse2zebra"]["identity"]["IS"])
    assert ("no FID" in printed) is not inception
    assert printed.count("FID") >= 2  # the published have theirs either way


def test_what_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        begun(tmp_path)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    (out / "thesis.txt").unlink()
    begun(tmp_path)
    own = write_miniature(tmp_path / "a2b", 16, 2, 2)
    with pytest.raises(ConfigError, match="holds the benchmark miniature, not"):
        begun(tmp_path, name=str(own))
    with pytest.raises(CheckpointError, match=r"loss\.cycle"):
        begun(tmp_path, "loss.cycle=5")
    (out / "plan.json").write_text("{")
    with pytest.raises(ConfigError, match=r"plan\.json: cannot be read"):
        begun(tmp_path)


def refused(tmp_path: Path, **settings: Any) -> str:
    with pytest.raises(MedcycleError) as caught:
        begun(tmp_path, **settings)
    return str(caught.value)


def test_mistakes_are_found_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "train", lambda *_, **__: pytest.fail("trained"))
    assert "neither a folder nor" in refused(tmp_path, name="horze2zebra")
    assert not (tmp_path / "out").exists()
    assert "weights.pt: no such file" in refused(tmp_path, weights=tmp_path / "weights.pt")
    assert not (tmp_path / "out").exists()
    assert "budget" in refused(tmp_path, budget=-1.0)
    own = write_miniature(tmp_path / "a2b", 16, 2, 2)
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(own / "testB" / "0001.png")
    assert "uint16" in refused(tmp_path / "other", name=str(own))
    assert not (tmp_path / "other").exists()
    (tmp_path / "out").mkdir()
    assert "uint16" in refused(tmp_path, name=str(own))
    assert list((tmp_path / "out").iterdir()) == []  # which was there before
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one process" in refused(tmp_path)


def test_a_failed_call_can_be_repeated(tmp_path: Path, make_first_fail: Callable[[], None]) -> None:
    make_first_fail()
    with pytest.raises(ScanError, match="unplugged"):
        begun(tmp_path)
    assert begun(tmp_path)["training"]["steps"] == 2


@pytest.fixture
def make_first_fail(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The first translation fails."""
    translate, calls = run.translate_paths, []

    def fail_once(*arguments: Any, **settings: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(5, "unplugged")
        return translate(*arguments, **settings)

    def install() -> None:
        monkeypatch.setattr(run, "translate_paths", fail_once)

    return install
