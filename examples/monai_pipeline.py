"""Use a trained model as one step of a MONAI pipeline.

    python examples/monai_pipeline.py data/mr --model runs/mri2ct
    python examples/monai_pipeline.py               # after train_from_python.py --phantom: its phantoms and its run

A Translator takes a MetaTensor and gives a MetaTensor on the same grid, so MONAI's own Lambdad makes it a dictionary
transform. The model prepares the image by itself (orientation, spacing, intensity): give it the raw values, before any
ScaleIntensity. What reorients or crops may come before or after it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from monai.transforms import Compose, EnsureChannelFirstd, Lambdad, LoadImaged, Orientationd, SaveImaged

from medcycle import Translator, find_scans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", default=Path("phantoms/test/mr"))
    parser.add_argument("--model", type=Path, default=Path("runs/example"), help="a run folder or a model file")
    parser.add_argument("--out", type=Path, default=Path("sct"))
    args = parser.parse_args()

    translate_to_ct = Translator.load(args.model, to="ct")
    pipeline = Compose(
        [
            LoadImaged(keys="mr"),
            EnsureChannelFirstd(keys="mr"),
            Orientationd(keys="mr", axcodes="LPS", labels=None),
            Lambdad(keys="mr", func=translate_to_ct, overwrite="ct"),  # "mr" stays, "ct" is new
            SaveImaged(keys="ct", output_dir=args.out, output_postfix="ct", separate_folder=False, print_log=False),
        ]
    )
    for path in find_scans(args.source):
        scan = pipeline({"mr": path})
        if scan["ct"].shape != scan["mr"].shape or not scan["ct"].affine.equal(scan["mr"].affine):
            raise SystemExit(f"{path}: the grid has changed")
        print(f"{path}: {scan['ct'].min():.0f} to {scan['ct'].max():.0f} HU")


if __name__ == "__main__":
    main()
