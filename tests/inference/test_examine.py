"""A translation examined: what the way there and back changes, and the agreement, on every kind of grid and model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medcycle.errors import ModelError
from medcycle.inference import Translator
from medcycle.model import DomainInfo, Model, save_model
from medcycle.networks import build_generator
from medcycle.networks.upstream import generator_state
from medcycle.prepare import Preparation
from medcycle.volume import Volume

Make = Callable[..., Any]
OBLIQUE = np.array([[1.9, 0.3, 0.1, -10], [-0.3, 1.9, 0.2, 5], [-0.1, -0.2, 2.5, 7], [0, 0, 0, 1.0]])


class Times(nn.Module):
    """Multiplies, and counts how often it was asked."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.calls = factor, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.factor


def pair(translator: Make, a: str, b: str, there: float, back: float, **settings: Any) -> Translator:
    made: Translator = translator(a, b, network=Times(there), **settings)
    made.opposite = translator(b, a, network=Times(back), **settings)
    return made


@pytest.mark.parametrize("size", [(8, 8), (8, 8, 8)])
@pytest.mark.parametrize("affine", [np.diag([2.0, 2.0, 3.0, 1.0]), OBLIQUE[[1, 2, 0, 3]]])
def test_the_residual_is_what_both_ways_change(translator: Make, make_ball: Make, affine: Any, size: Any) -> None:
    volume = make_ball((14, 15, 16), affine)
    made = pair(translator, "ct", "mr", 0.5, 1.5, size=size)
    found = made.examine(volume, residual=True)
    residual = found.residual
    assert residual is not None
    np.testing.assert_allclose(residual.affine, volume.affine, atol=1e-4)
    assert (residual.space, residual.unit) == (volume.space, "HU")
    np.testing.assert_array_equal(found.volume.array, made.translate(volume).array)
    body = volume.array > -500
    # -1 and 1 are -1024 and 3071 HU; 0.75 x is 0.25 x away from x
    scaled = (volume.array + 1024) / 4095 * 2 - 1
    np.testing.assert_allclose(residual.array[body], abs(0.25 * scaled * 4095 / 2)[body], atol=0.1)
    assert (residual.array[:, ::13, ::14, ::15] == 0).all()  # the corners
    (_,), (prepared,) = made.prepared([volume])
    assert np.count_nonzero(residual.array) <= prepared.foreground.sum()
    inside = prepared.array[:, prepared.foreground]
    assert found.quality.cycle_error == pytest.approx(abs(0.25 * inside).mean(), rel=1e-3)
    assert made.model.network.calls > 0
    assert made.opposite.model.network.calls > 0


def test_preparing_alone_is_no_residual(translator: Make, make_ball: Make) -> None:
    """Neither interpolation nor what the window clips counts."""
    coarse = {"ct": Preparation(modality="ct", foreground=True, spacing=(3.0, 3.0, 3.0), window=(-1000.0, 60.0))}
    volume = make_ball((16, 16, 16), np.diag([2.0, 2.0, 2.0, 1.0]))
    found = pair(translator, "ct", "mr", 0.5, 2.0, preparations=coarse).examine(volume, residual=True)
    assert found.residual is not None
    assert found.residual.array.max() < 0.1
    assert found.quality.cycle_error == pytest.approx(0, abs=1e-6)


def test_of_mr_it_is_in_the_scans_own_scale(translator: Make, make_ball: Make) -> None:
    volume = make_ball((14, 15, 16), unit="a.u.")
    made = pair(translator, "mr", "ct", 0.5, 1.0)
    residual = made.examine(volume, residual=True).residual
    assert residual is not None
    assert residual.unit == "a.u."
    body = volume.array > 100
    (_,), (prepared,) = made.prepared([volume])
    low, high = prepared.state.scale
    assert high < 750  # the model's own scale ends at 800
    scaled = ((volume.array.clip(low, high) - low) / (high - low) * 2 - 1)[body]
    np.testing.assert_allclose(residual.array[body], abs(0.5 * scaled) * (high - low) / 2, atol=0.1)


def test_what_the_user_gets_goes_back(translator: Make, make_ball: Make) -> None:
    """What the first network paints into the air is air in the translation, and for the way back."""
    seen: list[float] = []

    class Paints(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(x)

    class Looks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(float(x[0, 0, 0, 0]))
            return x

    made = translator("ct", "mr", network=Paints())
    made.opposite = translator("mr", "ct", network=Looks())
    made.examine(make_ball((14, 14, 14)), residual=True)
    assert set(seen) == {-1.0}


def test_the_agreement_and_the_models_range(translator: Make, make_ball: Make) -> None:
    volume = make_ball((24, 24, 24))
    made = pair(translator, "ct", "mr", -1, -1)
    found = made.examine(volume)
    assert found.residual is None
    assert found.quality.cycle_error is None
    assert found.quality.usual is None
    assert found.quality.agreement is not None
    assert made.opposite.model.network.calls == 0
    mind = found.quality.agreement.mind
    for low, high, said in ((mind - 0.01, mind + 0.01, "ok"), (mind + 0.01, mind + 0.02, "outside")):
        made.model.provenance["agreement"] = {"mind": [low, high], "mutual_information": [0, 1]}
        assert made.examine(volume).quality.judgement == said


@pytest.mark.parametrize(("axes", "size"), [("axial", (8, 8)), ("coronal", (8, 8)), ("axial", (12, 12, 12))])
def test_a_translation_of_other_structure_agrees_less(
    translator: Make, make_ball: Make, axes: str, size: tuple[int, ...]
) -> None:
    class Blind(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 0.5

    volume = make_ball((24, 24, 24))
    same = translator("ct", "mr", axes=axes, size=size).examine(volume).quality.agreement
    blind = translator("ct", "mr", axes=axes, size=size, network=Blind()).examine(volume).quality.agreement
    assert same.mind < 0.02 < 0.1 < blind.mind
    assert same.mutual_information > 2 * blind.mutual_information


def test_a_single_slice_and_pictures(translator: Make, make_ball: Make) -> None:
    volume = make_ball((20, 20, 20))
    plane = Volume(volume.array[..., 9], np.eye(4), "HU")
    found = pair(translator, "ct", "mr", 0.5, 1).examine(plane, residual=True)
    assert found.residual is not None
    assert found.residual.space == (20, 20)
    assert found.quality.agreement is not None
    pixels = np.random.default_rng(0).integers(0, 256, (1, 12, 12)).astype(np.float32)
    found = pair(translator, "photo", "photo", 0.5, 1).examine(Volume(pixels, np.eye(4), "uint8"), residual=True)
    assert found.quality.agreement is None
    assert found.residual is not None
    np.testing.assert_allclose(found.residual.array, abs(0.5 * (pixels - 127.5)), atol=0.51)


# -- the opposite model ----------------------------------------------------------------------------------------------


def write_model(folder: Path, a: str, b: str, **preparation: Any) -> Path:
    arguments = {"kind": "resnet", "in_channels": 1, "out_channels": 1, "ndim": 2, "filters": 2, "blocks": 1}
    mr = Preparation(modality="mr", foreground=True, scale=(0.0, 800.0))
    ct = Preparation(**({"modality": "ct", "foreground": True} | preparation))
    known = {"mr": mr, "ct": ct}
    torch.manual_seed(sum(map(ord, a)))
    model = Model(
        build_generator(**arguments),
        arguments,
        DomainInfo(a, known[a]),
        DomainInfo(b, known[b]),
        {"axes": "axial", "size": [8, 8]},
    )
    return save_model(folder / f"{a}_to_{b}.safetensors", model)


def test_the_opposite_lies_beside(tmp_path: Path, make_ball: Make) -> None:
    first, second = write_model(tmp_path, "mr", "ct"), write_model(tmp_path, "ct", "mr")
    made = Translator.load(tmp_path, to="ct", device="cpu", precision="fp32", batch_size=3)
    assert made.record
    opposite = made.opposite
    assert (made.origin, opposite.origin) == (first, second)
    assert (opposite.batch_size, opposite.precision, opposite.device) == (3, "fp32", made.device)
    assert (opposite.model.source.name, opposite.model.target.name) == ("ct", "mr")
    assert opposite.record != made.record
    assert not opposite.model.network.training
    volume = make_ball((12, 12, 12), unit="a.u.")
    residual = made.examine(volume, residual=True).residual
    # The pictures go through both networks, each in its place.
    from medcycle.inference.sliding import translate_planes

    (_,), (prepared,) = made.prepared([volume])
    there = translate_planes(made.model.network, prepared.array, 2, size=(8, 8), precision="fp32", device="cpu")
    there[:, ~prepared.foreground] = -1
    again = translate_planes(opposite.model.network, there, 2, size=(8, 8), precision="fp32", device="cpu")
    low, high = prepared.state.scale
    expected = abs(again - prepared.array)[:, prepared.foreground] * (high - low) / 2
    assert residual is not None
    assert np.sort(residual.array[residual.array > 0]) == pytest.approx(
        np.sort(expected[expected > 0]), rel=1e-3, abs=1e-2
    )


def test_a_missing_opposite_is_told(tmp_path: Path, make_ball: Make) -> None:
    first = write_model(tmp_path, "mr", "ct")
    volume = make_ball((12, 12, 12), unit="a.u.")
    with pytest.raises(ModelError, match=r"ct_to_mr\.safetensors: missing; it is the opposite model of mr_to_ct\.saf"):
        Translator.load(first, device="cpu").examine(volume, residual=True)
    assert Translator.load(first, device="cpu").examine(volume).residual is None
    best = first.rename(tmp_path / "mr_to_ct-best.safetensors")
    shutil.copy(write_model(tmp_path, "ct", "mr"), tmp_path / "ct_to_mr-best.safetensors")
    assert Translator.load(best, device="cpu").opposite.origin == tmp_path / "ct_to_mr-best.safetensors"
    named = best.rename(tmp_path / "good.safetensors")
    with pytest.raises(ModelError, match="its name, which does not hold 'mr_to_ct'"):
        _ = Translator.load(named, device="cpu").opposite


def test_an_opposite_of_another_run_is_refused(tmp_path: Path) -> None:
    first = write_model(tmp_path, "mr", "ct")
    write_model(tmp_path, "ct", "mr", window=(-1000.0, 1000.0))
    with pytest.raises(ModelError, match=r"ct_to_mr\.safetensors: not the opposite of mr_to_ct\.safetensors: their"):
        _ = Translator.load(first, device="cpu").opposite
    shutil.copy(first, tmp_path / "ct_to_mr.safetensors")
    with pytest.raises(ModelError, match="not the opposite"):
        _ = Translator.load(first, device="cpu").opposite
    (tmp_path / "ct_to_mr.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="not a complete model file"):
        _ = Translator.load(first, device="cpu").opposite


def test_a_model_in_memory_is_told_its_opposite(translator: Make, make_ball: Make) -> None:
    made = translator("ct", "mr")
    with pytest.raises(ModelError, match=r"was not loaded from a file.*Set Translator\.opposite"):
        made.examine(make_ball((8, 8, 8)), residual=True)


def test_the_authors_generators_are_a_pair(tmp_path: Path) -> None:
    network = build_generator("resnet", in_channels=1, out_channels=1, ndim=2, filters=2, blocks=1)
    for letter in "AB":
        torch.save(generator_state(network), tmp_path / f"latest_net_G_{letter}.pth")
    for mine, theirs in ("AB", "BA"):
        made = Translator.load(tmp_path / f"latest_net_G_{mine}.pth", device="cpu")
        assert made.opposite.origin == tmp_path / f"latest_net_G_{theirs}.pth"
    found = made.examine(Volume(np.full((1, 16, 16), 9, np.float32), np.eye(4), "uint8"), residual=True)
    assert found.residual is not None
    assert found.residual.unit == "uint8"
    alone = (tmp_path / "latest_net_G_A.pth").rename(tmp_path / "horse2zebra.pth")
    with pytest.raises(ModelError, match="does not hold '_net_G_A'"):
        _ = Translator.load(alone, device="cpu").opposite
