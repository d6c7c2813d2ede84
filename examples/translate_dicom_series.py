"""Translate a DICOM series to a synthetic CT series, and check that every slice is where it was.

    python examples/translate_dicom_series.py scans/patient7/t1 sct/patient7 --model runs/mri2ct
    python examples/translate_dicom_series.py       # after train_from_python.py --phantom: its phantoms and its run

A folder with several series needs `--series` (UID, number or description). For research only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pydicom

from medcycle import Translator, read_volume


def slices(folder: Path, series: str | None = None) -> list[pydicom.Dataset]:
    """Headers of the series' slices, in their order in space."""
    files = read_volume(folder, series=series).source["files"]
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", default=Path("phantoms/test/mr_dicom/head07"))
    parser.add_argument("out", type=Path, nargs="?", default=Path("sct/head07"), help="no suffix: a DICOM series")
    parser.add_argument("--model", type=Path, default=Path("runs/example"), help="a run folder or a model file")
    parser.add_argument("--series")
    args = parser.parse_args()

    Translator.load(args.model, to="ct").file(args.source, args.out, series=args.series)

    before, after = slices(args.source, args.series), slices(args.out)
    if len(before) != len(after):
        raise SystemExit(f"{len(before)} slices in, {len(after)} out")
    for old, new in zip(before, after, strict=True):
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            if not np.allclose(old[name].value, new[name].value, atol=1e-4):  # mm
                raise SystemExit(f"{name} was {old[name].value}, is {new[name].value}")
    print(f"{args.out}: {len(after)} {after[0].Modality} slices, all where they were ({after[0].SeriesDescription})")


if __name__ == "__main__":
    main()
