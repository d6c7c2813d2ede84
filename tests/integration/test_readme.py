"""Every command and script of the README runs, in its order, on small phantoms with the networks and runs shrunk."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medcycle.data import write_cohort
from medcycle.io import read_volume

SHRINK = (
    *("train.epochs=1", "train.decay_epochs=0", "train.samples_per_epoch=1", "train.batch_size=1", "train.device=cpu"),
    *("prepare.workers=1", "model.generator.filters=4", "model.discriminator.filters=4"),
)
SMALL = {
    "mri2ct.yaml": ("prepare.spacing=[9, 9, 9]", "sample.size=[24, 24]", "model.generator.blocks=1"),
    "quick.yaml": ("prepare.spacing=[9, 9, 9]", "sample.size=[24, 24]", "model.generator.blocks=1"),
    "harmonize.yaml": ("prepare.spacing=[9, 9, 9]", "sample.size=[24, 24]", "model.generator.downs=2"),
    "horse2zebra.yaml": ("sample.size=[24, 24]", "model.generator.blocks=1"),
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
    rng = np.random.default_rng(0)
    for name in ("trainA/1.png", "trainA/2.png", "trainB/1.png"):
        path = tmp_path / "data" / "horse2zebra" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
