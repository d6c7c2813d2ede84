"""A small network with the interface of the Inception file, and pictures."""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
import pytest
import torch
from PIL import Image


class Small(torch.nn.Module):
    """The interface of inception-2015-12-05.pt: features are the mean colours of quarters, repeated to 2048."""

    def forward(self, img: torch.Tensor, return_features: bool = False, no_output_bias: bool = False) -> torch.Tensor:
        x = torch.nn.functional.adaptive_avg_pool2d(img.to(torch.float32), 2).flatten(1)
        if return_features:
            return x.repeat(1, 171)[:, :2048]
        bias = 0.0 if no_output_bias else 50.0
        classes = x[:, :4] / 255
        classes = torch.cat([classes[:, :1] + bias, classes[:, 1:]], 1)
        return torch.softmax(classes, 1)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "small.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the file to be read is in that format
        torch.jit.script(Small()).save(str(path))
    return path


@pytest.fixture
def known(weights, monkeypatch):
    """The small network passed off as the Inception file."""
    monkeypatch.setattr("medcycle.evaluation.inception.SHA256", hashlib.sha256(weights.read_bytes()).hexdigest())
    return weights


@pytest.fixture
def folder(tmp_path):
    """Three pictures: left half red, upper half green, grey; of two sizes."""
    place = tmp_path / "pictures"
    place.mkdir()
    red, green = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30, 3), np.uint8)
    red[:, :15, 0] = 255
    green[:10, :, 1] = 200
    Image.fromarray(red).save(place / "a2.png")
    Image.fromarray(green).save(place / "a10.png")
    Image.fromarray(np.full((8, 8), 100, np.uint8)).save(place / "b.png")
    return place
