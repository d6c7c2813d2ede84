"""Train MR <-> CT with a configuration written in Python, then translate a scan with the result.

    python examples/train_from_python.py --mr data/mr --ct data/ct
    python examples/train_from_python.py --phantom               # makes phantom heads to learn on; minutes on a CPU

`--mr` and `--ct` hold scans of the same body region, NIfTI or DICOM, of different patients; CT in HU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import medcycle
from medcycle import parse_config
from medcycle.data import write_cohort


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mr", default="phantoms/train/mr")
    parser.add_argument("--ct", default="phantoms/train/ct")
    parser.add_argument("--phantom", action="store_true", help="first write phantom scans into ./phantoms")
    parser.add_argument("--run", type=Path, default=Path("runs/example"), help="a new folder")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--samples", type=int, default=500, help="an epoch")
    parser.add_argument("--filters", type=int, default=16, help="width of the generators; 64 is the original's")
    parser.add_argument("--workers", type=int, default=1, help="that prepare scans; 0: one a core, for large cohorts")
    args = parser.parse_args()
    if args.phantom:
        write_cohort("phantoms", heads=(3, 3, 1))

    # The sections and keys of a YAML configuration; what is left out has the default that `config check` shows.
    config = parse_config(
        {
            "domains": {
                "a": {"name": "mr", "path": args.mr, "modality": "mr"},
                "b": {"name": "ct", "path": args.ct, "modality": "ct"},
            },
            "prepare": {"spacing": (3.0, 3.0, 3.0), "window": (-1024, 2048), "workers": args.workers},  # mm, HU
            "sample": {"size": (64, 64), "match_position": True},
            "model": {
                "generator": {"kind": "resnet", "filters": args.filters, "blocks": 4, "upsample": "resize"},
                "discriminator": {"kind": "patchgan", "filters": 32, "layers": 2},
            },
            "train": {
                "epochs": args.epochs,
                "decay_epochs": args.epochs,
                "samples_per_epoch": args.samples,
                "batch_size": 4,
            },
        }
    )
    outcome = medcycle.train(config, args.run)

    translator = medcycle.Translator.load(outcome.run, to="ct")
    scan = medcycle.find_scans(args.mr)[0]
    ct = translator(scan)  # a path gives a Volume: array (channel, i, j, k) in HU and its affine (RAS+, mm)
    print(f"{scan}: {ct.space} voxels, {ct.array.min():.0f} to {ct.array.max():.0f} {ct.unit}")
    print(f"wrote {medcycle.write_volume(ct, args.run / 'synthetic_ct.nii.gz')}")


if __name__ == "__main__":  # needed where workers is not 1: each imports this file
    main()
