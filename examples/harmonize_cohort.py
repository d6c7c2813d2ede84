"""Make the scans of scanner A look as if scanner B had taken them: nibabel images in memory, no files in between.

    python examples/harmonize_cohort.py --a data/siemens --b data/ge --config harmonize
    python examples/harmonize_cohort.py --phantom                # a quiet and a noisy phantom scanner

`--a` and `--b` hold NIfTI scans of the same region and sequence. Trains on them, unless `--run` holds a trained run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import medcycle
from medcycle.data import make_head, render_mr


def make_phantoms() -> None:
    for seed in range(4):
        scanner, noise = ("scanner_b", 0.08) if seed % 2 else ("scanner_a", 0.02)
        head = render_mr(make_head(seed, (64, 64, 48), 3.6), seed, spacing=3.6, noise=noise)
        medcycle.write_volume(head, Path("phantoms", scanner, f"head{seed}.nii.gz"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--a", default="phantoms/scanner_a", help="scans to harmonize")
    parser.add_argument("--b", default="phantoms/scanner_b", help="scans that look as they should")
    parser.add_argument("--phantom", action="store_true", help="first write phantom scans into ./phantoms")
    parser.add_argument("--run", type=Path, default=Path("runs/harmonize"))
    parser.add_argument("--out", type=Path, default=Path("harmonized"))
    parser.add_argument("--config", default="quick", help="a YAML file or shipped name; `harmonize` for a GPU")
    parser.add_argument("--override", nargs="*", default=[], metavar="SECTION.KEY=VALUE")
    args = parser.parse_args()
    if args.phantom:
        make_phantoms()

    if not list(args.run.glob("*.safetensors")):
        a = ["domains.a.name=a", f"domains.a.path={args.a}", "domains.a.modality=mr"]
        b = ["domains.b.name=b", f"domains.b.path={args.b}", "domains.b.modality=mr"]
        # A strong identity loss keeps what the scanners already agree on.
        medcycle.train(medcycle.load_config(args.config, [*a, *b, "loss.identity=1.0", *args.override]), args.run)

    harmonize = medcycle.Translator.load(args.run, to="b")
    args.out.mkdir(parents=True, exist_ok=True)
    for path in medcycle.find_scans(args.a):
        image: Any = nib.load(path)
        result = harmonize(image)  # a nibabel image again: same shape, affine and header geometry, B's intensities
        nib.save(result, args.out / path.name)
        print(f"{path.name}: mean {np.mean(image.dataobj):.0f} -> {np.mean(result.dataobj):.0f}")


if __name__ == "__main__":  # needed: scans are prepared in several processes, which import this file
    main()
