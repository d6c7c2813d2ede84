"""README's picture, from what `medcycle demo` left: python -m benchmarks.picture [demo] [docs/demo.png]"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from medcycle.evaluation.pictures import case_planes, error_png, grey_png, grey_window
from medcycle.io import find_scans, read_volume

ERROR_HU = 1000.0
CAPTIONS = {
    "input": "MR",
    "prediction": "synthetic CT",
    "reference": "true CT",
    "error": f"error, 0..{ERROR_HU:.0f} HU",
}


def main(demo: str = "demo", target: str = "docs/demo.png") -> None:
    name = find_scans(Path(demo) / "sct")[0].name
    prediction, reference = (read_volume(Path(demo) / place / name, unit="HU") for place in ("sct", "scans/test/ct"))
    source, mask = (read_volume(Path(demo) / "scans" / "test" / place / name) for place in ("mr", "mask"))
    case = case_planes(name, 0.0, reference, prediction.array, mask.array[0] > 0, source.array)
    rows = []
    for _, panels in case.planes[:2]:
        tiles = []
        for panel, caption in CAPTIONS.items():
            image = panels[panel]
            png = (
                error_png(image, ERROR_HU, panels["mask"])
                if panel == "error"
                else grey_png(image, grey_window(case, panel))
            )
            tile = Image.open(io.BytesIO(png)).convert("RGB")
            factor = 260 / tile.width
            tile = tile.resize((260, round(tile.height * factor)), Image.Resampling.BICUBIC)
            ImageDraw.Draw(tile).text((6, 4), caption, fill="white")
            tiles.append(np.asarray(tile))
        rows.append(np.concatenate(tiles, axis=1))
    Image.fromarray(np.concatenate(rows)).save(target, optimize=True)
    print(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
