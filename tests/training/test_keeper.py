"""The best models, kept beside the last ones."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from medcycle.config import Config, load_config, parse_config
from medcycle.inference import Translator
from medcycle.model import Model, find_model, load_model, save_model
from medcycle.networks.calibrated import CalibratedGenerator
from medcycle.training.loop import train

QUIET = Console(quiet=True)


def configure(cohort: Path, **settings: Any) -> Config:
    values = load_config(cohort / "c.yaml").model_dump()
    schedule = {"epochs": 6, "samples_per_epoch": 1, "learning_rate": 3e-3, "precision": "fp32"}
    return parse_config(values | {"train": values["train"] | schedule | settings})


def rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").open()))


def best(run: Path) -> dict[str, Model]:
    return {name: load_model(run / "best" / f"{name}.safetensors") for name in ("mr_to_ct", "ct_to_mr")}


def same(one: Model, two: Model) -> bool:
    weights = two.network.state_dict()
    return all(torch.equal(value, weights[name]) for name, value in one.network.state_dict().items())


@pytest.mark.parametrize("criterion", ["balance", "agreement", "cycle", "kernel_distance"])
def test_the_best_checkpoint_by_the_criterion_is_kept_beside_the_last(cohort: Path, criterion: str) -> None:
    run = cohort / "run"
    train(configure(cohort, best=criterion), run, console=QUIET)
    scores = [float(row["seen_score"]) for row in rows(run)]
    step = 1 + scores.index(min(scores))
    for model in best(run).values():
        assert model.provenance["best"]["criterion"] == criterion
        assert model.provenance["best"]["score"] == pytest.approx(min(scores), rel=1e-4)
        assert model.provenance["steps"] == step
    assert f"best/, of step {step} by {criterion}" in (run / "report.html").read_text()
    assert find_model(run, "ct") == run / "mr_to_ct.safetensors"
    last = load_model(find_model(run))
    assert last.provenance["steps"] == 6
    assert "best" not in last.provenance
    assert same(last, best(run)["mr_to_ct"]) == (step == 6)
    assert find_model(run / "best", "mr") == run / "best" / "ct_to_mr.safetensors"


def test_none_is_kept_where_none_is_wanted(cohort: Path) -> None:
    train(configure(cohort, best=None), cohort / "run", console=QUIET)
    assert not (cohort / "run" / "best").exists()
    assert "seen_score" not in rows(cohort / "run")[0]
    assert "none kept" in (cohort / "run" / "report.html").read_text()


def cut(config: Config, run: Path, step: int, patch: pytest.MonkeyPatch) -> None:
    """Train, with a power cut before that step's checkpoint is written, and after its best models were."""
    import medcycle.training.keeper as keeper

    real_save = keeper.save_checkpoint

    def save(folder: Path, gan: Any, *arguments: Any) -> Path:
        if gan.step == step:
            raise RuntimeError("power cut")
        return real_save(folder, gan, *arguments)

    with patch.context() as context:
        context.setattr(keeper, "save_checkpoint", save)
        with pytest.raises(RuntimeError, match="power cut"):
            train(config, run, console=QUIET)


@pytest.mark.parametrize("step", [1, 3, 6])
def test_a_run_that_was_cut_keeps_the_same_best(cohort: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    config = configure(cohort)
    train(config, cohort / "whole", console=QUIET)
    cut(config, cohort / "run", step, monkeypatch)
    train(config, cohort / "run", resume=True, console=QUIET)
    assert rows(cohort / "whole") == rows(cohort / "run")
    for name, model in best(cohort / "whole").items():
        assert same(model, best(cohort / "run")[name])
        assert model.provenance["best"] == best(cohort / "run")[name].provenance["best"]


def test_what_was_best_by_other_measures_or_of_another_step_is_replaced(cohort: Path) -> None:
    run = cohort / "run"
    train(configure(cohort, best="agreement", epochs=2), run, console=QUIET)
    path = run / "best" / "ct_to_mr.safetensors"

    def scored(score: float, **changes: Any) -> None:
        for name in best(run):
            model = load_model(run / "best" / f"{name}.safetensors")
            model.provenance |= {"best": {"criterion": "agreement", "score": score}, "steps": 1} | changes
            save_model(run / "best" / f"{name}.safetensors", model)

    def go_on(steps: int, criterion: str = "agreement") -> float:
        train(configure(cohort, best=criterion, epochs=steps), run, resume=True, console=QUIET)
        return float(load_model(path).provenance["best"]["score"])

    scored(-9)
    assert go_on(3) == -9  # it is believed, and never beaten
    scored(-9, steps=77)  # of a session whose later steps are gone
    assert go_on(4) > -9
    scored(-9, data="other scans")
    assert go_on(5) > -9
    scored(-9)
    assert go_on(6, "cycle") > -9
    scored(-9, best={"criterion": "cycle", "score": -9})
    path.write_bytes(b"half")  # only one of the two was written
    assert go_on(7, "cycle") > -9


def test_the_best_models_have_their_own_card_and_figures(cohort: Path) -> None:
    run = cohort / "run"
    train(configure(cohort, validation=0.5, best="cycle"), run, console=QUIET)
    scores = [float(row["validation_score"]) for row in rows(run)]
    step = 1 + scores.index(min(scores))
    card = (run / "best" / "MODEL_CARD.md").read_text()
    assert f"At step {step}, on held-out scans:" in card
    assert f"(cycle; low is good): {float(rows(run)[step - 1]['validation_score']):.3f}\n" in card
    assert "At step 6, on held-out scans:" in (run / "MODEL_CARD.md").read_text()


def test_figures_of_training_scans_are_called_that_and_are_of_the_best_step(cohort: Path) -> None:
    run = cohort / "run"
    train(configure(cohort, best="agreement"), run, console=QUIET)
    scores = [float(row["seen_score"]) for row in rows(run)]
    card = (run / "best" / "MODEL_CARD.md").read_text()
    assert f"At step {1 + scores.index(min(scores))}, on scans that are trained on (none is held out):" in card
    assert f"(agreement; low is good): {min(scores):.3f}\n" in card


def test_what_is_made_is_judged_as_it_is_used(cohort: Path) -> None:
    """With loss.body_only, what a generator does in the air round the body counts nowhere, and raises no alarm."""

    class Bright(torch.nn.Conv2d):
        def __init__(self, *_: int) -> None:
            super().__init__(1, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(x > -1, x, 1.0) + 0 * super().forward(x)

    values = configure(cohort, epochs=1).model_dump()
    polarity = {}
    for body_only in (True, False):
        values["loss"]["body_only"] = body_only
        train(parse_config(values), cohort / f"{body_only}", console=QUIET, make_generator=Bright)
        polarity[body_only] = float(rows(cohort / f"{body_only}")[0]["seen_polarity_b"])
    assert polarity[True] > 0
    assert polarity[False] < polarity[True] - 0.5


@pytest.mark.parametrize("size", [[16, 16], [8, 8, 8]])
def test_calibrated_models_are_written_where_asked_for(cohort: Path, size: list[int]) -> None:
    values = configure(cohort, calibrate=True, epochs=1, samples_per_epoch=2, learning_rate=1e-5).model_dump()
    values["sample"] |= {"size": size}
    values["prepare"] |= {"spacing": [2, 2, 2]}
    train(parse_config(values), cohort / "run", console=QUIET)
    for model in (load_model(find_model(cohort / "run", domain)) for domain in ("mr", "ct")):
        assert isinstance(model.network, CalibratedGenerator)
        assert len(model.network.made) == model.arguments["calibration"]
        assert float((model.network.made - model.network.real).abs().max()) > 0.05
    assert (
        "Calibrated to the tissue of the target's training scans: mr to ct, ct to mr"
        in (cohort / "run" / "MODEL_CARD.md").read_text()
    )
    scan = next((cohort / "mr").iterdir())
    assert Translator.load(cohort / "run", to="ct", statistics="scan")(scan).unit == "HU"
    values["train"]["calibrate"] = False
    train(parse_config(values), cohort / "run", resume=True, console=QUIET)
    plain = load_model(find_model(cohort / "run", "ct"))
    assert not isinstance(plain.network, CalibratedGenerator)
    assert "calibration" not in plain.arguments
