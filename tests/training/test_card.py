"""What a run's models say of themselves: the agreement in their files, and MODEL_CARD.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from medcycle.agreement import agreement
from medcycle.config import load_config
from medcycle.inference import Translator
from medcycle.io import read_volume
from medcycle.model import load_model, read_header
from medcycle.prepare import Preparation
from medcycle.training.card import CARD, last_figures, model_card
from medcycle.training.cohorts import Cohort, prepare_domains, samples_as_translated
from medcycle.training.loop import train

QUIET = Console(quiet=True)
Write = Callable[..., Path]
THREE_D = {
    "sample": {"size": [16, 16, 16]},
    "model": {"generator": {"filters": 2, "blocks": 1}, "discriminator": {"filters": 2, "layers": 1}},
}


@pytest.fixture(scope="module", params=["2D", "3D"])
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, write_scans: Write, configure: Write
) -> Path:
    folder: Path = tmp_path_factory.mktemp(f"SMITH^JOHN-{request.param}")
    write_scans(folder, 4)
    config = configure(folder, **(THREE_D if request.param == "3D" else {}), train={"validation": 0.25})
    train(load_config(str(config)), folder / "run", console=QUIET)
    return folder / "run"


def test_the_models_keep_the_range_of_held_out_scans(run: Path) -> None:
    for name in ("mr_to_ct", "ct_to_mr"):
        record = read_header(run / f"{name}.safetensors")["provenance"]["agreement"]
        assert record["of"] == "1 held-out scan(s)"
        assert 16 < record["samples"] <= 32  # of the balls' first planes little is body
        for figure in ("mind", "mutual_information"):
            low, middle, high = record[figure]
            assert 0 < low <= middle <= high < 1


@pytest.mark.filterwarnings("ignore:.*is translated in tiles")
def test_a_training_scan_is_inside_it(run: Path) -> None:
    """What training measured is what translation measures: planes of the same scan, whole in both."""
    scans = sorted((run.parent / "mr").iterdir())
    translator = Translator.load(run, to="ct", device="cpu", precision="fp32")
    found = [translator.examine(read_volume(scan)).quality for scan in scans]
    usual = found[0].usual
    assert usual is not None
    for name, slack in (("mind", 0.02), ("mutual_information", 0.05)):
        values = [getattr(one.agreement, name) for one in found]
        low, high = usual[name]
        assert low - slack < np.median(values) < high + slack


def test_the_card(run: Path) -> None:
    text = (run / CARD).read_text()
    assert text.startswith("# mr <-> ct\n\nTwo networks")
    for said in (
        "**Research use only**",
        "- mr (MR): trained on 3 scans of 3 patients; 1 held out; 0 refused. Sites: not known.",
        "- ct: orientation RAS, spacing own, window -1024 to 3071 HU, outside the body set to air.",
        "- Steps: 2 of batches of 1, in fp32",
        "- medcycle: ",
        "by medcycle, without pairs: ",
        "At step 2, on held-out scans:",
        "- mr to ct: what comes back differs by 0.",
        "How right the values are was not measured",
        "- From mr to ct: MIND 0.",
        "of 1 held-out scan(s)).",
        "hallucinate",
        "HU outside -1024 to 3071 are clamped",
        "was not trained on any other",
    ):
        assert said in text, said
    assert "SMITH" not in text
    assert "p0" not in text
    assert "\n\n\n" not in text
    assert ("Planes are translated one by one" in text) == ("2D" in str(run))
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_the_networks_are_left_as_they_were(run: Path) -> None:
    """Measuring changes nothing: what is exported is what the checkpoint holds."""
    state = torch.load(sorted((run / "checkpoints").glob("step-*.pt"))[-1], weights_only=True)
    kept = state["gan"]["networks"]
    model = load_model(run / "mr_to_ct.safetensors")
    assert any(
        all(torch.equal(value, weights[name]) for name, value in model.network.state_dict().items())
        for key, weights in kept.items()
        if "a_to_b" in key
    )


@pytest.mark.parametrize("sample", [{"context": 1}, {"axes": "all"}])
def test_neighbours_and_all_directions(
    tmp_path: Path, write_scans: Write, configure: Write, sample: dict[str, Any]
) -> None:
    write_scans(tmp_path)
    config = load_config(str(configure(tmp_path, sample={"size": [16, 16]} | sample)))
    train(config, tmp_path / "run", console=QUIET)
    how = {"device": "cpu", "precision": "fp32"}
    volume = read_volume(tmp_path / "mr" / "p0.nii.gz")
    found = Translator.load(tmp_path / "run", to="ct", **how).examine(volume, residual=True)
    assert found.residual is not None
    assert found.quality.agreement is not None
    assert found.quality.usual is not None
    low, high = found.quality.usual["mind"]
    assert low - 0.03 < found.quality.agreement.mind < high + 0.03
    if "axes" in sample:  # axial planes alone are measured, as in training, where they are there
        axial, coronal = (
            Translator.load(tmp_path / "run", to="ct", axes=axes, **how).examine(volume).quality
            for axes in ("axial", "coronal")
        )
        assert axial == replace(found.quality, cycle_error=None)
        assert coronal.usual is None


# -- samples ---------------------------------------------------------------------------------------------------------


def test_samples_are_whole_planes_of_every_scan(tmp_path: Path, write_scans: Write, configure: Write) -> None:
    write_scans(tmp_path, 3)
    config = load_config(str(configure(tmp_path)))
    scans = prepare_domains(config, None, lambda _: None)["a"].training
    samples = list(samples_as_translated(config, scans, 32))
    assert len(samples) == 33
    planes = [np.asarray(plane) for scan in scans for plane in scan.array]
    for n, sample in enumerate(samples):
        assert sample.shape == (1, 1, 20, 20)  # sample.size is 16 x 16
        own = planes[20 * (n // 11) : 20 * (n // 11 + 1)]
        assert any(np.array_equal(sample[0], plane) for plane in own)
    shown = [agreement(*[torch.from_numpy(sample[0])] * 2) for sample in samples]
    assert sum(one is not None for one in shown) > 16
    many = list(samples_as_translated(config, [scans[0]] * 40, 32))
    assert len(many) == 32


# -- words -----------------------------------------------------------------------------------------------------------


def test_last_figures(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    assert last_figures(file) == {}
    file.write_text("step,cycle_a\n1,0.5\n")
    assert last_figures(file) == {}
    file.write_text("step,cycle_a,validation_cycle_a,paired_mae_b\n1,0.5,0.4,\n2,0.3,0.2,90\n3,0.1,,\n4,0.")
    assert last_figures(file) == {"step": "2", "validation_cycle_a": "0.2", "paired_mae_b": "90"}


def test_a_card_of_little(tmp_path: Path, configure: Write) -> None:
    config = load_config(str(configure(tmp_path)))
    mr = Preparation(modality="mr", foreground=True, invert=True, spacing=(1.0, 1.0, None), n4=True)
    ct = Preparation(modality="ct", stretch=(-250.0, 250.0))
    cohorts = {
        "a": Cohort(config.domains.a, mr, training=[None] * 30, sites={"north": 20, "south": 10}),
        "b": Cohort(config.domains.b, ct, training=[None], refused=[(Path("secret.nii"), "why")]),
    }
    text = model_card(config, cohorts, {"a": None}, {}, {})
    for said in (
        "- mr (MR): trained on 30 scans; 0 held out; 0 refused. Sites: north (20), south (10).",
        "- ct (CT): trained on 1 scan; 0 held out; 1 refused. Sites: not known.",
        "spacing 1 x 1 x own mm, percentiles 0.5 to 99.5, invert yes, n4 yes, outside the body set to air.",
        "stretched -250 to 250 HU, outside the body kept.",
        "## Measured\n\nNothing.\n\nHow right the values are was not measured",
        "It has seen few scans (ct: under 20).",
    ):
        assert said in text, said
    assert "secret" not in text
    assert "gradient_penalty" not in text  # of another loss
    seen = {"step": "9", "seen_cycle_a": "0.5"}
    assert "At step 9, on scans that are trained on (none is held out):" in model_card(config, cohorts, {}, seen, {})
    some = cohorts | {"a": replace(cohorts["a"], held_out=[None])}
    told = "on held-out scans, and scans of ct that are trained on (none is held out):"
    assert told in model_card(config, some, {}, seen, {})
    alarm = model_card(config, cohorts, {}, {"step": "9", "alarm_inversion": "1", "alarm_generator": "0"}, {})
    assert "**Alarm, not over at the end: contrast inversion.**" in alarm
    assert "Structure agreement, with" not in text


def test_pictures_have_a_card_without_anatomy(tmp_path: Path, configure: Write) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        for n in range(2):
            pixels = np.random.default_rng(n).integers(0, 256, (18, 18, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{n}.png")
    domains = {key: {"name": key * 2, "path": str(tmp_path / name), "modality": "image"} for key, name in ("ax", "by")}
    config = configure(tmp_path, domains=domains)
    train(load_config(str(config)), tmp_path / "run", console=QUIET)
    assert read_header(tmp_path / "run" / "aa_to_bb.safetensors")["provenance"]["agreement"] is None
    text = (tmp_path / "run" / CARD).read_text()
    assert "translates pictures (aa) into pictures (bb)" in text
    assert "HU" not in text
    assert "patients" not in text.partition("## Preparation")[2]


def test_planes_of_all_directions_are_whole_whatever_the_scans_shape(
    tmp_path: Path, write_scans: Write, configure: Write
) -> None:
    write_scans(tmp_path, 2)
    config = load_config(str(configure(tmp_path, sample={"axes": "all", "size": [8, 8]})))
    scan = prepare_domains(config, None, lambda _: None)["a"].training[0]
    low = replace(scan, array=scan.array[:6], foreground=scan.foreground[:6], points=scan.points[scan.points[:, 2] < 6])
    sizes = [sample.shape[2:] for sample in samples_as_translated(config, [low], 6)]
    assert sizes == [(20, 8)] * 4 + [(20, 20)] * 2  # sagittal, coronal, axial; no plane is less than a sample
    assert len(list(samples_as_translated(config, [scan, low], 6, most=1))) == 6
