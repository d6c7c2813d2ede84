"""The natural-image path learns: a small CycleGAN paints stripes on plain animals and leaves the meadow as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medcycle.benchmark import run_benchmark
from medcycle.benchmark.scores import BACKGROUND, STRIPES, Animals, passes
from medcycle.config import load_config
from medcycle.networks import build_generator
from medcycle.networks.layers import initialize


def through(network: torch.nn.Module, source: Path, out: Path) -> Path:
    """Every picture of a folder through a network that maps [-1, 1] to [-1, 1]."""
    out.mkdir()
    for path in sorted(source.iterdir()):
        pixels = torch.from_numpy(np.array(Image.open(path)).transpose(2, 1, 0)).float()
        with torch.no_grad():
            made = network(pixels[None] / 127.5 - 1)[0]
        levels = ((made + 1) * 127.5).round().clamp(0, 255).byte().numpy()
        Image.fromarray(levels.transpose(2, 1, 0)).save(out / path.name)
    return out


@pytest.mark.slow
@pytest.mark.timeout(900)  # two minutes of one core, on a machine that may be busy
def test_a_small_cyclegan_learns_stripes_and_keeps_the_meadow(tmp_path: Path) -> None:
    path = run_benchmark("miniature", tmp_path / "out", data=tmp_path / "data", overrides=["train.device=cpu"])
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["schedule"] == "full schedule: 1,000 steps"
    there, back = found["directions"]["plain2striped"], found["directions"]["striped2plain"]
    assert there["figures"]["stripes"] > STRIPES
    assert there["figures"]["background error"] < BACKGROUND
    assert there["passed"] is True
    assert back["figures"]["stripes"] < 0.5 * STRIPES  # and takes them off again
    assert back["figures"]["background error"] < BACKGROUND

    # Whoever has learned nothing fails: the picture as it is, an untrained network, one that inverts the colours.
    assert not passes(there["identity"])
    folder = tmp_path / "data" / "miniature-64"
    animals = Animals.of(folder)
    arguments = load_config("miniature.yaml").model.generator.model_dump()
    for seed in range(3):
        torch.manual_seed(seed)
        untrained = build_generator(**arguments, in_channels=3, out_channels=3, ndim=2)
        initialize(untrained)
        figures = animals.figures(through(untrained, folder / "testA", tmp_path / f"untrained{seed}"), "testA")
        assert not passes(figures)
        assert figures["stripes"] < 0.2 * STRIPES
        assert figures["background error"] > 2 * BACKGROUND

    class Inverted(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -x

    figures = animals.figures(through(Inverted(), folder / "testA", tmp_path / "inverted"), "testA")
    assert not passes(figures)
    assert figures["background error"] > 2 * BACKGROUND
