"""Every shipped configuration trains: as it is, but for smaller images and networks and a run of two steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medcycle.config import shipped
from medcycle.data import write_cohort
from medcycle.io import read_volume
from medcycle.model import load_model

TWO_STEPS = (
    *("train.epochs=1", "train.decay_epochs=0", "train.samples_per_epoch=2", "train.batch_size=1"),
    *("train.device=cpu", "prepare.workers=1", "model.generator.filters=4", "model.discriminator.filters=4"),
)
SLICES = ("sample.size=[24, 24]",)  # the smallest that three layers of a PatchGAN can judge
COARSE = ("prepare.spacing=[9, 9, 9]",)  # mm, as the phantoms are
FEW_BLOCKS = ("model.generator.blocks=1",)
SMALLER: dict[str, tuple[str, ...]] = {
    "mr2mr.yaml": (*SLICES, *COARSE, "model.generator.downs=2"),
    "harmonize.yaml": (*SLICES, *COARSE, "model.generator.downs=4"),
    "mri2ct-3d.yaml": ("sample.size=[16, 16, 16]", *COARSE, "model.generator.downs=2"),
    "classic.yaml": (*SLICES, *COARSE, *FEW_BLOCKS),
    "mri2ct.yaml": (*SLICES, *COARSE, "model.generator.downs=2"),
    "quick.yaml": (*SLICES, *COARSE, *FEW_BLOCKS),
}
PICTURES = [name for name, path in shipped().items() if "modality: image" in path.read_text(encoding="utf-8")]
SMALLER |= dict.fromkeys(PICTURES, (*SLICES, *FEW_BLOCKS, "sample.resize=[27, 27]"))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("phantoms"), heads=(2, 2, 1), shape=(24, 24, 18), spacing=9.0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/mr and train/ct, as the phantoms have them, with a few RGB pictures; test/mr has one more."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("train/mr/0.png", "train/mr/1.jpg", "train/ct/0.png", "train/ct/1.png", "test/mr/head05.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / name)
    return folder


def test_every_configuration_is_tested() -> None:
    assert set(shipped()) == set(SMALLER)


@pytest.mark.parametrize("name", sorted(SMALLER))
def test_trains_and_translates(
    name: str, phantoms: Path, pictures: Path, tmp_path: Path, medcycle: Callable[..., Any]
) -> None:
    scans = pictures if name in PICTURES else phantoms
    ending = "png" if name in PICTURES else "nii.gz"
    run = tmp_path / "run"
    paths = [f"domains.a.path={scans / 'train' / 'mr'}", f"domains.b.path={scans / 'train' / 'ct'}"]
    if name in ("harmonize.yaml", "mr2mr.yaml"):
        paths[1] = paths[0].replace("domains.a", "domains.b")
    cache = f"prepare.cache={tmp_path / 'cache'}"
    ran = medcycle("train", "--config", name, "--out", run, *paths, cache, *SMALLER[name], *TWO_STEPS)
    assert ran.code == 0, ran.err
    assert "Done: 2 steps" in ran.out
    models = [load_model(path) for path in sorted(run.glob("*.safetensors"))]
    assert len(models) == 2
    assert {model.ndim for model in models} == {3 if name == "mri2ct-3d.yaml" else 2}
    source = scans / "test" / "mr" / f"head05.{ending}"
    ran = medcycle("translate", "--model", run, source, tmp_path / f"out.{ending}")
    assert ran.code == 0, ran.err
    given, made = read_volume(source), read_volume(tmp_path / f"out.{ending}")
    assert made.array.shape == given.array.shape
    np.testing.assert_allclose(made.affine, given.affine, atol=1e-4)
