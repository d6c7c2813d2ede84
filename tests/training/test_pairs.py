"""Registered pairs in training: on their patients' side of the split, in the step, in a run, and what is refused."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from medcycle.config import Config, parse_config
from medcycle.errors import CheckpointError, ConfigError, ScanError
from medcycle.model import load_model
from medcycle.networks import build_discriminator, build_generator
from medcycle.training.checkpoint import checkpoints
from medcycle.training.cohorts import Pairs, data_digest, prepare_domains
from medcycle.training.loop import train
from medcycle.training.losses import l1
from medcycle.training.pairs import PairedErrors, prepare_pairs
from medcycle.training.plan import plan
from medcycle.training.runtime import SideBySide
from medcycle.training.step import CycleGAN, LossSettings, training_step

QUIET = Console(quiet=True)
SHAPES = {2: (16, 20), 3: (8, 8, 12)}


# -- the step ----------------------------------------------------------------------------------------------------------


def make_gan(ndim: int = 2, **settings: Any) -> CycleGAN:
    torch.manual_seed(0)
    sizes = {"in_channels": 1, "out_channels": 1, "ndim": ndim, "filters": 4, "blocks": 1}
    nets = [build_generator("resnet", **sizes) for _ in "ab"]
    nets += [build_discriminator("patchgan", channels=1, ndim=ndim, filters=4, layers=1) for _ in "ab"]
    return CycleGAN(*nets, **settings)


def images(ndim: int = 2, batch: int = 1, count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.rand((batch, 1, *SHAPES[ndim]), generator=generator) * 2 - 1 for _ in range(count)]


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_loss_is_the_l1_of_both_directions_at_its_weight(ndim: int) -> None:
    a, b, pair_a, pair_b = images(ndim)
    gan, without = make_gan(ndim), make_gan(ndim)
    with torch.no_grad():
        expected = float(l1(gan.a_to_b(pair_a), pair_b)), float(l1(gan.b_to_a(pair_b), pair_a))
    plain = training_step(without, a, b, LossSettings(paired=7))
    found = training_step(gan, a, b, LossSettings(paired=7), None, (pair_a, pair_b))
    assert (float(found["paired_b"]), float(found["paired_a"])) == pytest.approx(expected, rel=1e-5)
    assert float(found["generator"]) == pytest.approx(float(plain["generator"]) + 7 * sum(expected), rel=1e-5)
    assert set(found) == {*plain, "paired_a", "paired_b"}


def test_a_step_learns_the_pair() -> None:
    a, b, pair_a, pair_b = images()
    gan = make_gan(learning_rate=2e-3)
    steps = [training_step(gan, a, b, LossSettings(paired=10), None, (pair_a, pair_b)) for _ in range(30)]
    for name in ("paired_a", "paired_b"):
        assert float(steps[-1][name]) < 0.8 * float(steps[0][name])


def test_masked_losses_count_the_body_of_what_is_given() -> None:
    a, b, pair_a, pair_b = images()
    pair_a[..., :8] = -1
    gan = make_gan()
    with torch.no_grad():
        expected = float(l1(gan.a_to_b(pair_a)[..., 8:], pair_b[..., 8:]))
    found = training_step(gan, a, b, LossSettings(paired=7, body_only=True), None, (pair_a, pair_b))
    assert float(found["paired_b"]) == pytest.approx(expected, rel=1e-4)


def test_microbatches_and_side_by_side_take_each_pair_once() -> None:
    a, b, *pair = images(batch=3)
    whole, parts, sides = make_gan(pool=0), make_gan(pool=0), make_gan(pool=0)
    sides.both = SideBySide(1)
    settings = LossSettings(paired=10)
    one = training_step(whole, a, b, settings, None, (pair[0], pair[1]))
    two = training_step(parts, a, b, settings, 1, (pair[0], pair[1]))
    three = training_step(sides, a, b, settings, 1, (pair[0], pair[1]))
    for name, value in one.items():
        assert float(two[name]) == pytest.approx(float(value), rel=1e-5), name
        assert float(three[name]) == float(two[name]), name
    for p, q in zip(whole.generator_parameters, parts.generator_parameters, strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-5)


# -- runs --------------------------------------------------------------------------------------------------------------


def make_scans(folder: Path, count: int = 4, size: int = 20) -> Path:
    """MR and CT of the same balls, dark where the other is bright: `folder`/mr and `folder`/ct."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(size) - size / 2] * 3, indexing="ij"))
    for index in range(count):
        inside = np.linalg.norm(grid * rng.uniform(0.9, 1.1, (3, 1, 1, 1)), axis=0) < size * 0.38
        core = np.linalg.norm(grid - rng.uniform(-2, 2, (3, 1, 1, 1)), axis=0) < size * 0.2
        mr = np.where(
            inside, np.where(core, 200, 800) + 20 * rng.standard_normal(inside.shape), 5 * rng.random(inside.shape)
        )
        ct = np.where(inside, np.where(core, 900, 40), -1000) + 10 * rng.standard_normal(inside.shape)
        for name, array in (("mr", mr), ("ct", ct)):
            save(folder / name / f"p{index}.nii.gz", array)
    return folder


def save(path: Path, array: np.ndarray, origin: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = origin
    nib.save(nib.Nifti1Image(array.astype(np.int16), affine), path)
    return path


def make_config(folder: Path, pairs: dict[str, Any] | None = None, size: Any = (16, 16), **settings: Any) -> Config:
    network = {"filters": 4, "blocks": 1}
    schedule = {"epochs": 1, "decay_epochs": 1, "samples_per_epoch": 4, "log_every": 2, "checkpoint_every": 3}
    return parse_config(
        {
            "domains": {
                "a": {"name": "mr", "path": str(folder / "mr"), "modality": "mr"},
                "b": {"name": "ct", "path": str(folder / "ct"), "modality": "ct"},
            },
            "prepare": {"cache": str(folder / "cache"), "workers": 1},
            "sample": {"size": size},
            "model": {"generator": network, "discriminator": {"filters": 4, "layers": 1}},
            "pairs": pairs,
            "train": schedule | {"precision": "fp32", "pool": 3, "validation": 0} | settings,
        }
    )


def listed(folder: Path, *numbers: int) -> list[list[str]]:
    return [[str(folder / name / f"p{number}.nii.gz") for name in ("mr", "ct")] for number in numbers]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scans(tmp_path_factory.mktemp("scans"))


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def sorted_pairs(config: Config, said: list[str] | None = None, strict: bool = False) -> Pairs:
    found = prepare_pairs(
        config, prepare_domains(config, None, print), None, ([] if said is None else said).append, strict=strict
    )
    assert found is not None
    return found


def names(pairs: list[Any]) -> list[str]:
    return [pair.name.split(" and ")[0] for pair in pairs]


@pytest.mark.slow
def test_one_pair_lowers_the_error_against_none(scans: Path, tmp_path: Path) -> None:
    settings = {"samples_per_epoch": 60, "learning_rate": 2e-3, "checkpoint_every": 120, "preview_every": 1000}
    error = {}
    for name, path in (("none", None), ("one", listed(scans, 0))):
        values = make_config(scans, {"path": path, "validation": listed(scans, 3)}, **settings).model_dump()
        values["loss"] |= {
            "cycle": 1,
            "identity": 0,
        }  # of balls in balls, the cycle alone tells which is which in the end
        train(parse_config(values), tmp_path / name, console=QUIET)
        last = rows_of(tmp_path / name)[-1]
        assert ("paired_b" in last) == (name == "one")
        error[name] = {key: float(last[key]) for key in ("paired_mae_a", "paired_mae_b")}
    for key, without in error["none"].items():  # on two machines 0.68 to 0.86
        assert error["one"][key] < 0.95 * without


@pytest.mark.parametrize("size", [[16, 16], [8, 8, 8]])
def test_resuming_is_exact(scans: Path, tmp_path: Path, size: list[int]) -> None:
    def config(**settings: Any) -> Config:
        pairs = {"path": listed(scans, 0, 1), "validation": listed(scans, 3)}
        return make_config(scans, pairs, size, batch_size=2, epochs=2, **settings)

    whole = train(config(decay_epochs=2), tmp_path / "whole", console=QUIET)
    assert whole.step == 8
    half = train(config(decay_epochs=2, checkpoint_every=2), tmp_path / "cut", console=QUIET)
    for path in checkpoints(half.run / "checkpoints")[-1:]:
        path.unlink()  # as killed after step 6
    train(config(decay_epochs=2, checkpoint_every=2), tmp_path / "cut", resume=True, console=QUIET)
    one, two = (
        torch.load(checkpoints(tmp_path / name / "checkpoints")[-1], weights_only=True)["gan"]
        for name in ("whole", "cut")
    )
    for network, state in one["networks"].items():
        for key, value in state.items():
            assert torch.equal(value, two["networks"][network][key]), f"{network}.{key}"
    for mine, theirs in zip(rows_of(tmp_path / "whole")[-1:], rows_of(tmp_path / "cut")[-1:], strict=True):
        assert mine["paired_a"] == theirs["paired_a"]
        assert mine["paired_mae_b"] == theirs["paired_mae_b"]


def test_a_run_tells_its_pairs_and_the_model_keeps_no_path(scans: Path, tmp_path: Path) -> None:
    config = make_config(scans, {"path": listed(scans, 0), "validation": listed(scans, 3), "weight": 5})
    assert plan(config)["pairs"] == "1 to train on (weight 5), 1 measured"
    told = io.StringIO()
    run = train(config, tmp_path / "run", console=Console(file=told, width=200)).run
    assert "pairs: 1 to train on, 1 measured" in told.getvalue()
    rows = rows_of(run)
    assert [bool(row.get("paired_mae_a")) for row in rows] == [int(row["step"]) in (3, 6, 8) for row in rows]
    assert 0 < float(rows[-1]["paired_a"]) < 2
    model = load_model(run / "mr_to_ct.safetensors")
    assert model.provenance["pairs"] == 1
    assert model.provenance["config"]["pairs"] == {"weight": 5.0}
    assert "Pairs" in (run / "report.html").read_text()
    card = (run / "MODEL_CARD.md").read_text()
    assert "trained together by medcycle, with 1 registered pair besides unpaired scans:" in card
    assert f"- mr to ct: {float(rows[-1]['paired_mae_b']):.4g} HU\n" in card
    assert f"- ct to mr: {float(rows[-1]['paired_mae_a']):.4g} a.u.\n" in card
    assert "was not measured" not in card
    with pytest.raises(CheckpointError, match=r"pairs\.weight: the run has 5\.0, now 6\.0"):
        train(make_config(scans, config.pairs.model_dump() | {"weight": 6}), run, resume=True)  # type: ignore[union-attr]
    with pytest.raises(CheckpointError, match="pairs"):
        train(make_config(scans), run, resume=True)


def test_the_measured_error_is_in_the_domains_units(scans: Path) -> None:
    """Against a plain computation, with generators that return what they are given."""
    config = make_config(scans, {"validation": listed(scans, 3)}, (20, 20))
    cohorts = prepare_domains(config, None, print)
    pairs = prepare_pairs(config, cohorts, None, print)
    assert pairs is not None
    preparations = cohorts["a"].preparation, cohorts["b"].preparation
    found = PairedErrors(config, pairs.held_out, preparations)(Same(), Same(), torch.device("cpu"))
    (low, high), scale = config.prepare.window, preparations[0].scale
    assert scale is not None
    array = np.asarray(pairs.held_out[0].array)
    body = (array > -1).any(axis=1)
    difference = np.abs(array[:, 0] - array[:, 1])
    of_planes = np.array([difference[n][body[n]].mean() for n in range(len(array)) if body[n].any()])
    unit = found["paired_mae_b"] / ((high - low) / 2)
    assert of_planes.min() <= unit <= of_planes.max()
    assert found["paired_mae_a"] / ((scale[1] - scale[0]) / 2) == pytest.approx(unit, rel=1e-4)


class Same(torch.nn.Module):
    """Returns what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


# -- sides -------------------------------------------------------------------------------------------------------------


def test_pairs_lie_on_the_side_of_their_patient(scans: Path, tmp_path: Path) -> None:
    lines = ["path,split", f"{scans}/mr/p0.nii.gz,train", f"{scans}/mr/p1.nii.gz,val", f"{scans}/mr/p2.nii.gz,test"]
    (tmp_path / "mr.csv").write_text("\n".join(lines))
    values = make_config(scans, {"path": listed(scans, 0, 1, 2, 3)}).model_dump()
    values["domains"]["a"]["path"] = str(tmp_path / "mr.csv")
    config = parse_config(values)
    said: list[str] = []
    pairs = sorted_pairs(config, said)
    assert (names(pairs.training), names(pairs.held_out)) == (["p0", "p3"], ["p1"])
    assert said == ["pairs: 1 left out, of patients whose split is test: p2.nii.gz"]
    assert plan(config)["pairs"] == "2 to train on (weight 10), 1 measured, 1 left out for testing"


def test_patients_of_measured_pairs_are_held_out_of_all_training(scans: Path) -> None:
    config = make_config(scans, {"validation": listed(scans, 3)})
    cohorts = prepare_domains(config, None, print)
    for cohort in cohorts.values():
        assert [scan.name for scan in cohort.held_out] == ["p3"]
        assert [scan.name for scan in cohort.training] == ["p0", "p1", "p2"]


def test_what_a_manifest_puts_into_training_cannot_be_measured(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "mr.csv").write_text(f"path,split\n{scans}/mr/p3.nii.gz,train\n{scans}/mr/p0.nii.gz,train\n")
    values = make_config(scans, {"validation": listed(scans, 3)}).model_dump()
    values["domains"]["a"]["path"] = str(tmp_path / "mr.csv")
    with pytest.raises(ConfigError, match=r"mr\.csv:2: split train, but pairs\.validation names the same patient"):
        prepare_domains(parse_config(values), None, print)


def test_a_measured_pair_of_every_patient_leaves_nobody(scans: Path) -> None:
    with pytest.raises(ConfigError, match=r"pairs\.validation: holds out every patient of domain a"):
        prepare_domains(make_config(scans, {"validation": listed(scans, 0, 1, 2, 3)}), None, print)


def test_a_copy_of_a_held_out_scan_is_not_trained_on(scans: Path, tmp_path: Path) -> None:
    for name in ("mr", "ct"):
        (tmp_path / f"other_{name}.nii.gz").write_bytes((scans / name / "p3.nii.gz").read_bytes())
    copied = [str(tmp_path / f"other_{name}.nii.gz") for name in ("mr", "ct")]
    pairs = sorted_pairs(make_config(scans, {"path": [copied, *listed(scans, 0)], "validation": listed(scans, 3)}))
    assert (names(pairs.training), sorted(names(pairs.held_out))) == (["p0"], ["other_mr", "p3"])


def test_a_table_of_pairs_outside_the_domains(scans: Path, tmp_path: Path) -> None:
    for name in ("mr", "ct"):
        (tmp_path / f"{name}9.nii.gz").write_bytes((scans / name / "p2.nii.gz").read_bytes())
    (tmp_path / "pairs.csv").write_text("ct,mr,patient\nct9.nii.gz,mr9.nii.gz,p1\n")
    config = make_config(scans, {"path": str(tmp_path / "pairs.csv")})
    assert names(sorted_pairs(config).training) == ["mr9"]
    (tmp_path / "mr.csv").write_text(f"path,split\n{scans}/mr/p0.nii.gz,train\n{scans}/mr/p1.nii.gz,val\n")
    values = config.model_dump()
    values["domains"]["a"]["path"] = str(tmp_path / "mr.csv")
    with pytest.raises(ConfigError, match="no pair is left to train on: 1 are of held-out patients"):
        sorted_pairs(parse_config(values))


def test_folders_name_the_patients_of_pairs_as_of_the_domain(scans: Path, tmp_path: Path) -> None:
    for number in range(3):
        for name in ("mr", "ct"):
            target = tmp_path / name / f"case{number}" / "scan.nii.gz"
            target.parent.mkdir(parents=True)
            target.write_bytes((scans / name / f"p{number}.nii.gz").read_bytes())
    elsewhere = tmp_path / "more" / "case2" / "scan.nii.gz"
    elsewhere.parent.mkdir(parents=True)
    save(elsewhere, nib.load(scans / "mr" / "p3.nii.gz").get_fdata())
    pair = [str(elsewhere), str(scans / "ct" / "p3.nii.gz")]
    other = [str(tmp_path / name / "case0" / "scan.nii.gz") for name in ("mr", "ct")]
    values = make_config(tmp_path, {"path": [pair, other]}, validation=0.34).model_dump()
    values["train"]["seed"] = next(
        seed
        for seed in range(50)
        if held_out(parse_config(values | {"train": values["train"] | {"seed": seed}})) == ["case2"]
    )
    pairs = sorted_pairs(parse_config(values))
    assert (len(pairs.training), len(pairs.held_out)) == (1, 1)


def held_out(config: Config) -> list[str]:
    return [scan.path.parent.name for scan in prepare_domains(config, None, print)["a"].held_out]


def test_the_digest_covers_pairs_and_is_the_old_one_without(scans: Path) -> None:
    cohorts = prepare_domains(make_config(scans), None, print)
    before = data_digest(cohorts)
    assert data_digest(cohorts, None) == before
    found = {
        data_digest(cohorts, sorted_pairs(make_config(scans, {"path": listed(scans, *n)})))
        for n in ((0,), (1,), (0, 1))
    }
    assert len({before, *found}) == 4


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_pairs_that_cannot_be_used_are_listed_and_the_others_train(scans: Path, tmp_path: Path) -> None:
    far = save(tmp_path / "far.nii.gz", nib.load(scans / "ct" / "p1.nii.gz").get_fdata(), origin=500)
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    mr = str(scans / "mr" / "p1.nii.gz")
    config = make_config(scans, {"path": [*listed(scans, 0), [mr, str(far)], [mr, str(tmp_path / "broken.nii.gz")]]})
    outcome = train(config, tmp_path / "run", console=QUIET)
    assert outcome.refused == 2
    refused = (outcome.run / "refused.txt").read_text().splitlines()
    assert "pairs (pairs.path): " in refused[0]
    assert "no body in common" in refused[0]
    assert "broken.nii.gz" in refused[1]
    with pytest.raises(ScanError, match="no body in common"):
        sorted_pairs(config, strict=True)
    alone = make_config(scans, {"path": [[mr, str(far)]]})
    with pytest.raises(
        ConfigError, match=r"(?s)pairs\.path: no pair is left to train on: 0 are .* 1 cannot .*no body in"
    ):
        sorted_pairs(alone)


def test_bodies_that_hardly_overlap_are_warned_of(scans: Path, tmp_path: Path) -> None:
    moved = save(tmp_path / "moved.nii.gz", nib.load(scans / "ct" / "p1.nii.gz").get_fdata(), origin=10)
    said: list[str] = []
    sorted_pairs(make_config(scans, {"path": [[str(scans / "mr" / "p1.nii.gz"), str(moved)]]}), said)
    assert len(said) == 1
    assert "p1 and moved overlap little (Dice 0." in said[0]
    said.clear()
    sorted_pairs(make_config(scans, {"path": listed(scans, 0)}), said)
    assert said == []


def test_other_channels_are_refused(scans: Path, tmp_path: Path) -> None:
    array = nib.load(scans / "mr" / "p0.nii.gz").get_fdata()
    two = save(tmp_path / "two.nii.gz", np.stack([array, array], axis=-1)[:, :, :, None])
    pair = [str(two), str(scans / "ct" / "p0.nii.gz")]
    with pytest.raises(ConfigError, match=r"2 channels, where the scans of domains\.a have 1"):
        sorted_pairs(make_config(scans, {"path": [pair]}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mr,ct\nmr/p0.nii.gz,\n", r"pairs\.path: .*pairs\.csv:2: names only one scan, mr/p0\.nii\.gz"),
        ("mr,ct\nmr/p0.nii.gz,ct/no.nii.gz\n", r"pairs\.csv:2: no such file or folder: .*no\.nii\.gz"),
        ("mr,scan\nx,y\n", r"no column 'b' or 'ct' \(its first line names \['mr', 'scan'\]\)"),
        ("mr,ct\n", "no pairs listed"),
    ],
)
def test_a_wrong_table_is_refused_with_the_reason(scans: Path, text: str, message: str) -> None:
    (scans / "pairs.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        plan(make_config(scans, {"path": str(scans / "pairs.csv")}))


def test_a_scan_that_is_not_there_is_named(scans: Path) -> None:
    with pytest.raises(ConfigError, match=r"^pairs\.validation: no such file or folder: nowhere\.nii"):
        plan(make_config(scans, {"validation": [["nowhere.nii", str(scans / "ct" / "p0.nii.gz")]]}))
