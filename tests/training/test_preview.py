"""The previews' sheet: labels are whole, whatever the pictures' size."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from medcycle.training.preview import preview


@pytest.mark.parametrize("size", [20, 110, 200])
def test_labels_are_neither_cut_off_nor_run_into_each_other(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, float, str]] = []
    draw = ImageDraw.ImageDraw.text

    def noted(self: Any, at: tuple[float, float], text: str, **settings: Any) -> None:
        drawn.append((at[0], at[0] + self.textlength(text), text))
        draw(self, at, text, **settings)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    planes = [np.zeros((3, size, size), np.float32)] * 4
    sheet = Image.open(io.BytesIO(preview([("iphone-with-a-long-name", planes, False)])))
    assert [text.partition(": ")[2] for *_, text in drawn] == ["real", "fake", "reconstructed", "identity"]
    for (_, end, _), (start, *_) in zip(drawn, [*drawn[1:], (sheet.width, 0, "")], strict=True):
        assert end <= start
