"""Previews: one picture that shows, for both directions, real, fake, reconstructed and identity side by side."""

from __future__ import annotations

import io
from math import ceil

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Plane = npt.NDArray[np.floating]
COLUMNS = ("real", "fake", "reconstructed", "identity")
CAPTION = 14


def to_picture(sample: Plane, *, anatomical: bool) -> npt.NDArray[np.uint8]:
    """A sample in [-1, 1] as an 8-bit picture (rows, columns) or (rows, columns, 3).

    Args:
        sample: (channel, i, j) or (channel, i, j, k), of which the middle plane is shown.
        anatomical: axes point to the patient's right, front or top (RAS+): show the patient's right on the left and
            the front or the top above. Otherwise i runs to the right and j down, as in an ordinary picture.
    """
    plane = sample[..., sample.shape[-1] // 2] if sample.ndim == 4 else sample
    plane = np.nan_to_num(plane, nan=-1.0)  # black, in the report of a run that broke
    grey: npt.NDArray[np.uint8] = np.clip(np.rint((plane + 1) * 127.5), 0, 255).astype(np.uint8).transpose(2, 1, 0)
    if anatomical:
        grey = grey[::-1, ::-1]
    return grey if grey.shape[2] == 3 else grey[..., 0]


def preview(rows: list[tuple[str, list[Plane | None], bool]], scale_to: int = 160) -> bytes:
    """A PNG of captioned pictures.

    Args:
        rows: caption of the row, its pictures in the order of `COLUMNS` (None leaves a place empty), and whether they
            are anatomical.
        scale_to: small pictures are enlarged, by a whole number, to about this width.
    """
    tiles = [[None if p is None else _tile(to_picture(p, anatomical=a), scale_to) for p in ps] for _, ps, a in rows]
    labels = [[f"{caption}: {column}" for column in COLUMNS] for caption, _, _ in rows]
    longest = max(ImageDraw.Draw(Image.new("L", (1, 1))).textlength(label) for row in labels for label in row)
    width = max(ceil(longest) + 2, *(t.width for row in tiles for t in row if t))
    height = max(t.height for row in tiles for t in row if t)
    columns = max(len(row) for row in tiles)
    sheet = Image.new("RGB", (columns * (width + 4), len(rows) * (height + CAPTION + 6)), "black")
    draw = ImageDraw.Draw(sheet)
    for r in range(len(rows)):
        top = r * (height + CAPTION + 6)
        for c, tile in enumerate(tiles[r]):
            if tile is not None:
                draw.text((c * (width + 4) + 2, top + 1), labels[r][c], fill="white")
                sheet.paste(tile, (c * (width + 4), top + CAPTION + 2))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _tile(picture: npt.NDArray[np.uint8], scale_to: int) -> Image.Image:
    image = Image.fromarray(picture)
    factor = max(1, round(scale_to / image.width))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
