"""The contrast curve: found where it is known, without pairs, and how it counts in the step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from medcycle.config import load_config
from medcycle.errors import ConfigError, ScanError
from medcycle.networks import build_discriminator, build_generator
from medcycle.training import loop, setup
from medcycle.training.cohorts import prepare_domains
from medcycle.training.contrast import KNOTS, ContrastSettings, contrast_curve, regional_values
from medcycle.training.graph import Stepper
from medcycle.training.loop import train
from medcycle.training.setup import contrast_curves
from medcycle.training.step import CycleGAN, LossSettings, before_step, training_step

Volume = npt.NDArray[np.float32]
AT = np.linspace(-1, 1, KNOTS)


def head(seed: int, size: int = 48) -> Volume:
    """Fluid (-0.7) in the middle, white matter (0.7) round it, grey (0.1) in a rim and in nuclei, of a head of its own
    size, shape and place; partial volumes between, and noise.
    """
    rng = np.random.default_rng(seed)
    centre = size / 2 + rng.uniform(-2, 2, 3)
    radii = size * rng.uniform(0.36, 0.44, 3)
    at = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), axis=-1)
    away = np.linalg.norm((at - centre) / radii, axis=-1)
    folds = 0.06 * np.sin(at / rng.uniform(2, 3, 3) + rng.uniform(0, 6, 3)).sum(-1)
    values = np.interp(away + folds, [0.25, 0.33, 0.7, 0.78], [-0.7, 0.7, 0.7, 0.1])
    nuclei = np.abs(at[..., 0] - centre[0]) / radii[0] + np.abs(away - 0.45) < 0.25
    values = np.where(nuclei, 0.1, values) + 0.04 * rng.standard_normal(away.shape)
    return np.where(away < 1, values.clip(-0.99, 1), -1).astype(np.float32)


def other_contrast(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Fluid dark, grey matter bright, white matter between: it rises and falls."""
    return np.interp(values, [-1, -0.7, 0.1, 0.7, 1], [-1, -0.9, 0.6, 0.0, 0.2])


def networks() -> list[torch.nn.Module]:
    torch.manual_seed(0)
    sizes = {"in_channels": 1, "out_channels": 1, "ndim": 2, "filters": 4, "blocks": 1}
    found = [build_generator("resnet", **sizes) for _ in "ab"]
    found += [build_discriminator("patchgan", channels=1, ndim=2, filters=4, layers=1) for _ in "ab"]
    return found


def test_a_curve_that_rises_and_falls_is_found_in_other_patients() -> None:
    source = regional_values(head(seed) for seed in range(4))
    target = regional_values(np.where((h := head(seed)) > -1, other_contrast(h), -1) for seed in range(10, 14))
    curve, explained = contrast_curve(source, target)
    assert explained > 0.8
    fluid, grey, white = np.interp([-0.7, 0.1, 0.7], AT, curve)
    assert [fluid, grey, white] == pytest.approx([-0.9, 0.6, 0.0], abs=0.2)
    back = contrast_curve(target, source).values
    assert np.interp([-0.9, 0.6, 0.0], AT, back) == pytest.approx([-0.7, 0.1, 0.7], abs=0.35)


def test_where_nothing_is_to_be_changed_the_curve_changes_little() -> None:
    curve, _ = contrast_curve(*(regional_values(head(seed) for seed in seeds) for seeds in ((0, 1, 2), (3, 4, 5))))
    assert np.interp([-0.7, 0.1, 0.7], AT, curve) == pytest.approx([-0.7, 0.1, 0.7], abs=0.2)


def test_no_other_curve_within_its_limits_explains_the_means_better() -> None:
    """What is minimized, written plainly: weighted squares of the regions' errors, and of the curve's bends."""
    source = regional_values([head(0)])
    target = regional_values([np.where(head(1) > -1, other_contrast(head(1)), -1)])

    def cost(curve: npt.NDArray[np.float64]) -> float:
        errors, scale = [], []
        a, b = (regions.reshape(KNOTS, -1) for regions in (source, target))
        full = a.sum(0).max(), b.sum(0).max()
        for n in range(a.shape[1]):
            weight = min(a[:, n].sum() / full[0], b[:, n].sum() / full[1])
            if weight > 0.3:
                shares = a[:, n] / a[:, n].sum()
                errors.append(weight * (shares @ curve - (b[:, n] @ AT) / b[:, n].sum()) ** 2)
                scale.append(weight * (shares**2).sum())
        bends = [(curve[k - 1] - 2 * curve[k] + curve[k + 1]) ** 2 for k in range(1, KNOTS - 1)]
        return sum(errors) + 0.01 * sum(scale) / KNOTS * sum(bends)

    curve = contrast_curve(source, target).values
    assert np.abs(curve).max() <= 1
    best = cost(curve)
    for knot in range(KNOTS):
        for change in (-0.05, 0.05):
            other = curve.copy()
            other[knot] = np.clip(other[knot] + change, -1, 1)
            assert cost(other) >= best - 1e-9, knot


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([(3, 0, 5), (0, 7, 1)]))
def test_regions_hold_every_voxel_and_its_value_wherever_the_body_lies(seed: int, shift: tuple[int, int, int]) -> None:
    volume = head(seed, size=24)
    found = regional_values([volume])
    inside = volume[volume > -1].clip(-1, 1)
    assert AT @ found.reshape(KNOTS, -1).sum(1) / found.sum() == pytest.approx(float(inside.mean()), abs=0.01)
    moved = np.pad(volume, [(n, 4) for n in shift], constant_values=-1)
    np.testing.assert_allclose(regional_values([moved]), found, atol=1e-12)
    np.testing.assert_allclose(regional_values([volume, moved]), 2 * found, atol=1e-12)


def test_voxels_of_another_size_say_the_same() -> None:
    """Twice as many voxels along an axis: the same regions, but for the edges of cells."""
    volume = head(3)
    fine = volume.repeat(2, axis=0)
    one, two = regional_values([volume]), regional_values([fine])
    assert float(np.abs(one - two).sum() / one.sum()) < 0.05


def test_what_is_darkest_may_become_brightest() -> None:
    """T1 to T2: fluid, next to air's value in one, is the brightest in the other."""

    def dark(volume: Volume) -> Volume:
        return np.where(volume > -1, np.interp(volume, [-0.7, 0.1, 0.7], [-0.95, 0.1, 0.7]), -1).astype(np.float32)

    def t2(volume: Volume) -> Volume:
        return np.where(volume > -1, np.interp(volume, [-0.7, 0.1, 0.7], [0.9, 0.0, -0.4]), -1).astype(np.float32)

    source, target = (regional_values(f(head(n)) for n in m) for f, m in ((dark, range(4)), (t2, range(10, 14))))
    curve = contrast_curve(source, target)
    assert curve.trusted
    assert np.interp([-0.95, 0.1, 0.7], AT, curve.values) == pytest.approx([0.9, 0.0, -0.4], abs=0.25)


def test_what_does_not_explain_the_regions_is_told() -> None:
    """A target whose regions have nothing to do with the source's tissue."""
    source = regional_values([head(0)])
    right = contrast_curve(source, regional_values([np.where(head(0) > -1, other_contrast(head(0)), -1)]))
    assert right.trusted
    assert right.sentence("t1 to flair").startswith(f"Contrast curve, t1 to flair: explains {right.explained:.0%} of")
    assert "more scans" not in right.sentence("t1 to flair")
    rng = np.random.default_rng(0)
    blobs = np.repeat(np.repeat(np.repeat(rng.uniform(-0.9, 0.9, (6, 6, 6)), 8, 0), 8, 1), 8, 2)
    wrong = contrast_curve(source, regional_values([np.where(head(1) > -1, blobs, -1).astype(np.float32)]))
    assert wrong.explained < 0.3
    assert not wrong.trusted
    assert "Give both domains more scans, or set loss.contrast.weight=0" in wrong.sentence("t1 to flair")


def test_a_target_without_contrast_explains_nothing() -> None:
    even = np.where(head(1) > -1, np.float32(0.2), -1)
    assert contrast_curve(regional_values([head(0)]), regional_values([even])).explained == 0


def test_only_the_body_counts_where_that_is_asked() -> None:
    nets = networks()
    image = torch.full((1, 1, 16, 16), -1.0)
    image[..., 4:12, 4:12] = 0.5
    with torch.no_grad():
        made = nets[0](image)[..., 4:12, 4:12]
    found = training_step(
        CycleGAN(*nets), image, image, LossSettings(body_only=True, contrast=ContrastSettings(weight=1))
    )
    assert float(found["contrast_b"]) == pytest.approx(float((made - 0.5).abs().mean()), rel=1e-3)


def test_bodies_that_share_no_region_are_refused() -> None:
    empty = np.full((8, 8, 8), -1, np.float32)
    with pytest.raises(ScanError, match=r"loss\.contrast: only 0 regions .* 48 are needed"):
        contrast_curve(regional_values([head(0)]), regional_values([empty]))


def test_the_step_holds_what_is_made_to_the_curve_and_less_so_each_time() -> None:
    nets = networks()
    gan = CycleGAN(*nets)
    for held, curve in zip(gan.contrast_curves, (other_contrast(AT), -AT), strict=True):
        held.copy_(torch.as_tensor(curve))
    a, b = (torch.rand(1, 1, 16, 16) * 2 - 1 for _ in "ab")
    a[..., :4], b[..., :4] = -1, -1  # air, which stays air
    with torch.no_grad():
        made_b, made_a = nets[0](a).numpy(), nets[1](b).numpy()
    guess_b = np.where(a > -1, np.interp(a.numpy(), AT, other_contrast(AT)), -1)
    guess_a = np.where(b > -1, -b.numpy(), -1)
    loss = LossSettings(identity=0, cycle=0, contrast=ContrastSettings(weight=8, steps=4))
    found = training_step(gan, a, b, loss)
    assert float(found["contrast_b"]) == pytest.approx(np.abs(made_b - guess_b).mean(), rel=1e-4)
    assert float(found["contrast_a"]) == pytest.approx(np.abs(made_a - guess_a).mean(), rel=1e-4)
    for step, share in ((1, 0.75), (2, 0.5), (4, 0.0), (9, 0.0)):
        gan.step = step
        before_step(gan, 1, loss)
        found = training_step(gan, a, b, loss)
        adversarial = float(found["adversarial_a"] + found["adversarial_b"])
        guided = 8 * share * float(found["contrast_a"] + found["contrast_b"])
        assert float(found["generator"]) == pytest.approx(adversarial + guided, rel=1e-4)


CONFIG = """
domains:
  a: {{name: t1, path: {folder}/t1, modality: mr}}
  b: {{name: flair, path: {folder}/flair, modality: mr}}
prepare: {{cache: {folder}/cache, workers: 1, percentiles: [0, 100]}}
sample: {{size: [16, 16]}}
model: {{generator: {{filters: 4, blocks: 1}}, discriminator: {{filters: 4, layers: 1}}}}
loss: {{identity: 0, contrast: {{weight: 10, steps: 2}}}}
train: {{epochs: 1, decay_epochs: 1, samples_per_epoch: 2, precision: fp32, validation: 0}}
"""


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import nibabel as nib

    folder = tmp_path_factory.mktemp("scans")
    for n in range(4):
        plain = head(n, size=24)
        for name, values in (("t1", plain), ("flair", np.where(plain > -1, other_contrast(plain), -1))):
            (folder / name).mkdir(exist_ok=True)
            image = nib.Nifti1Image((500 * (values + 1)).astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
            nib.save(image, folder / name / f"p{n}.nii.gz")
    (folder / "c.yaml").write_text(CONFIG.format(folder=folder))
    return folder


def test_a_run_starts_from_the_curves_and_its_card_shows_them(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[npt.NDArray[np.float32]] = []
    totals = []

    def stepper(gan: CycleGAN, loss: LossSettings, *rest: Any, **more: Any) -> Stepper:
        held.extend(curve.numpy().copy() for curve in gan.contrast_curves)
        totals.append(loss.contrast.steps)
        return Stepper(gan, loss, *rest, **more)

    monkeypatch.setattr(loop, "Stepper", stepper)
    outcome = train(load_config(scans / "c.yaml", []), tmp_path / "run", console=Console(quiet=True))
    assert outcome.finished
    train(load_config(scans / "c.yaml", ["loss.contrast.steps=null"]), tmp_path / "all", console=Console(quiet=True))
    assert totals == [2, 4]
    del held[2:]
    card = (tmp_path / "run" / "MODEL_CARD.md").read_text()
    line = next(line for line in card.splitlines() if "Contrast curve, t1 to flair" in line)
    values = [float(value) for value in line.partition(" become ")[2].split(", ")]
    assert len(values) == KNOTS
    grey, white = np.interp([0.1, 0.7], AT, values)
    assert grey > white + 0.1  # as in FLAIR, not as in T1
    assert "contrast 10 (falling to 0 within 2 steps)" in card
    run = load_config(tmp_path / "run" / "config.yaml", [])
    curves = contrast_curves(run, prepare_domains(run, None, print))
    # The generators that the run begins with, held to its curves; with identity curves they were held elsewhere.
    assert len(held) == 2
    for mine, curve in zip(held, curves, strict=True):
        np.testing.assert_allclose(mine, curve.values, atol=1e-6)
    assert not np.allclose(held[0], held[1], atol=0.05)
    columns = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"contrast_a", "contrast_b"} <= set(columns)


def test_without_a_weight_nothing_is_measured(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "regional_values", lambda volumes: pytest.fail("measured"))
    assert contrast_curves(load_config(scans / "c.yaml", ["loss.contrast.weight=0"]), {}) == []


def test_scans_of_several_channels_are_refused(scans: Path) -> None:
    class Two:
        channels, domain = 2, load_config(scans / "c.yaml", []).domains.a

    with pytest.raises(ConfigError, match=r"one channel, and those of domains\.a \(t1\) have 2"):
        contrast_curves(load_config(scans / "c.yaml", []), {"a": Two(), "b": Two()})  # type: ignore[dict-item]


def test_it_needs_bodies(scans: Path) -> None:
    with pytest.raises(ConfigError, match=r"loss\.contrast needs the body"):
        load_config(scans / "c.yaml", ["prepare.foreground=false"])


def test_it_needs_axes_in_one_order(scans: Path) -> None:
    with pytest.raises(ConfigError, match=r"loss\.contrast needs prepare\.orientation"):
        load_config(scans / "c.yaml", ["prepare.orientation=null"])
