"""The picture grid: the first test pictures of both domains, translated and translated back."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

TILE = 192  # pixels a side
GAP = 4
CAPTION = 18


def grid(captions: Sequence[str], rows: Sequence[Sequence[npt.NDArray[Any]]]) -> bytes:
    """A PNG of captioned columns of pictures, each fitted into a square of one size.

    Args:
        captions: of the columns.
        rows: pictures (channel, width, height), 8-bit; each row as long as `captions`.
    """
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", (len(captions) * (TILE + GAP) + GAP, CAPTION + len(rows) * (TILE + GAP) + GAP), "black")
    draw = ImageDraw.Draw(sheet)
    for column, caption in enumerate(captions):
        draw.text((GAP + column * (TILE + GAP) + 2, 3), caption[: TILE // 6], fill="white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            tile = _tile(picture)
            x = GAP + column * (TILE + GAP) + (TILE - tile.width) // 2
            y = CAPTION + row * (TILE + GAP) + (TILE - tile.height) // 2
            sheet.paste(tile, (x, y))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _tile(picture: npt.NDArray[Any]) -> Image.Image:
    """Fitted into the square, proportions kept; small pictures stay sharp."""
    from PIL import Image

    upright = np.ascontiguousarray(picture.transpose(2, 1, 0))
    image = Image.fromarray(upright if upright.shape[2] == 3 else upright[..., 0]).convert("RGB")
    factor = TILE / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS)
