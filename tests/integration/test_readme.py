"""Every command and script of the README runs, in its order, on small phantoms with the networks and runs shrunk."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import medcycle.benchmark.record
import medcycle.evaluation.inception
from medcycle.data import write_cohort
from medcycle.io import read_volume
from medcycle.io.video_write import VideoWriter
from medcycle.networks import build_generator
from medcycle.networks.upstream import generator_state

SHRINK = (
    *("train.epochs=1", "train.decay_epochs=0", "train.samples_per_epoch=1", "train.batch_size=1", "train.device=cpu"),
    *("prepare.workers=1", "model.generator.filters=4", "model.discriminator.filters=4"),
)
SMALL = {
    "mri2ct.yaml": ("prepare.spacing=[9, 9, 9]", "sample.size=[24, 24]", "model.generator.downs=2"),
    "quick.yaml": ("prepare.spacing=[9, 9, 9]", "sample.size=[24, 24]", "model.generator.blocks=1"),
    "harmonize.yaml": ("prepare.spacing=[9, 9, 9]", "sample.size=[24, 24]", "model.generator.downs=2"),
    "horse2zebra.yaml": ("sample.size=[24, 24]", "sample.resize=[27, 27]", "model.generator.blocks=1"),
    "miniature.yaml": ("sample.size=[24, 24]", "model.generator.blocks=1"),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the scans under the names that the README uses, as the current one."""
    phantoms = write_cohort(tmp_path / "phantoms", heads=(2, 2, 1), shape=(24, 24, 18), spacing=9.0)
    for name, source in (("mr", "mr"), ("ct", "ct"), ("siemens", "mr"), ("ge", "mr")):
        shutil.copytree(phantoms / "train" / source, tmp_path / "data" / name)
    test = phantoms / "test"
    head = next((test / "mr").iterdir())
    shutil.copy(head, tmp_path / "patient7.nii.gz")
    shutil.copytree(next((test / "mr_dicom").iterdir()), tmp_path / "patient7_dicom")
    (tmp_path / "siemens").mkdir()
    shutil.copy(head, tmp_path / "siemens" / "subject01.nii.gz")
    for name, source in (("test/mr", "mr"), ("ct", "ct"), ("masks", "mask")):
        shutil.copytree(test / source, tmp_path / name)
    folders = [f"data/horse2zebra/{part}" for part in ("trainA", "trainB", "testA", "testB")]
    for folder in (*folders, "data/cityscapes/testB", "horses", "labels"):
        write_pictures(tmp_path / folder)
    Image.open(tmp_path / "horses" / "1.png").resize((300, 280)).save(tmp_path / "large.jpg")
    with VideoWriter(tmp_path / "clip.mp4", rate=Fraction(10)) as video:
        for number in range(3):
            video.write(np.full((3, 32, 32), 80 * number, np.uint8), Fraction(number, 10))
    network = build_generator("resnet", in_channels=3, out_channels=3, ndim=2, filters=2, blocks=1)
    torch.save(generator_state(network), tmp_path / "latest_net_G_A.pth")
    # No network in tests: the Inception weights cannot be had.
    monkeypatch.setattr(medcycle.evaluation.inception, "URL", "http://127.0.0.1:9/inception.pt")
    monkeypatch.setenv("MEDCYCLE_CACHE", str(tmp_path / "weights"))
    # How long a step takes on a busy machine is not for a test to say.
    monkeypatch.setattr(medcycle.benchmark.record, "fit_to_budget", lambda *_: list(SHRINK[:3]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(folder / f"{number}.png")


def commands(text: str) -> list[list[str]]:
    """The indented lines of the README that call medcycle, without their comments."""
    lines = re.findall(r"^    (medcycle .*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_every_command_of_the_readme_runs(root: Path, home: Path, medcycle: Callable[..., Any]) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    found = commands(text)
    assert {words[0] for words in found} >= {"inspect", "train", "translate", "evaluate"}
    for words in found:
        if words[0] == "train":
            name = words[words.index("--config") + 1]
            words = [*words, *SMALL[name], *SHRINK]
        if words[0] == "benchmark":
            fixed = SHRINK if "--budget" not in words else SHRINK[3:]  # a budget sets the epochs itself
            out = [] if "--budget" not in words else ["--out", "short"]
            words = [*words, *out, *SMALL[f"{words[1]}.yaml"], *fixed]
        ran = medcycle(*words)
        assert ran.code == 0, f"{words}: {ran.err}"
    source, made = read_volume(home / "patient7.nii.gz"), read_volume(home / "patient7_sct.nii.gz", unit="HU")
    assert made.space == source.space
    np.testing.assert_allclose(made.affine, source.affine, atol=1e-4)
    assert read_volume(home / "patient7_sct_dicom").unit == "HU"
    assert (home / "evaluation" / "report.html").is_file()
    for script in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(script, "README.md", "exec"), {})
    assert read_volume(home / "subject01_ge.nii.gz").space == source.space


def test_every_link_of_the_readme_leads_somewhere(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (root / target).exists(), target
    for name in re.findall(r"--config (\S+\.yaml)", text):
        assert (root / "configs" / name).is_file(), name


def test_the_table_of_speed_is_that_of_the_kept_results(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(root))
    from benchmarks.table import inserted

    readme = (root / "README.md").read_text(encoding="utf-8")
    assert inserted(readme) == readme
    assert "| 256x256, 3 channels" in readme
