from __future__ import annotations

import io

import numpy as np
from PIL import Image

from medcycle.benchmark.pictures import CAPTION, GAP, TILE, grid


def test_tiles_are_uniform_and_upright() -> None:
    wide = np.zeros((3, 40, 20), np.uint8)  # (channel, width, height)
    wide[0, 20:] = 255  # the right half is red
    grey = np.full((1, 500, 500), 77, np.uint8)
    sheet = np.asarray(Image.open(io.BytesIO(grid(["one", "two"], [[wide, grey], [grey, wide]]))))
    step = TILE + GAP
    assert sheet.shape == (CAPTION + 2 * step + GAP, 2 * step + GAP, 3)
    assert sheet[:CAPTION].max() > 200  # the captions
    first = sheet[CAPTION : CAPTION + TILE, GAP : GAP + TILE]
    assert first[TILE // 2, TILE - 5].tolist() == [255, 0, 0]
    assert first[TILE // 2, 5].tolist() == [0, 0, 0]
    assert first[5, TILE - 5].tolist() == [0, 0, 0]  # above the picture, whose proportions are kept
    second = sheet[CAPTION : CAPTION + TILE, GAP + step : GAP + step + TILE]
    assert (second == 77).all()
