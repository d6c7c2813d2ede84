"""Train a network of your own instead of the built-in generators, and load it back.

    python examples/custom_network.py --mr data/mr --ct data/ct
    python examples/custom_network.py --phantom                  # makes phantom heads to learn on; minutes on a CPU

The model file holds weights, never code: whoever loads it brings the class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import medcycle
from medcycle.data import write_cohort


class Residual(nn.Module):
    """Adds a learned change to its input. Any module will do that keeps the size and ends in [-1, 1]."""

    def __init__(self, in_channels: int, out_channels: int, filters: int = 24) -> None:
        super().__init__()
        self.skip = nn.Conv2d(in_channels, out_channels, 1)
        widths = [in_channels, filters, filters, filters]
        pairs = zip(widths[:-1], widths[1:], (1, 2, 4), strict=True)
        layers = [nn.Sequential(nn.Conv2d(i, o, 3, padding=d, dilation=d), nn.GELU()) for i, o, d in pairs]
        self.change = nn.Sequential(*layers, nn.Conv2d(filters, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) in [-1, 1] to (batch, out_channels, height, width) in [-1, 1]."""
        return torch.tanh(self.skip(x) + self.change(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mr", default="phantoms/train/mr")
    parser.add_argument("--ct", default="phantoms/train/ct")
    parser.add_argument("--phantom", action="store_true", help="first write phantom scans into ./phantoms")
    parser.add_argument("--run", type=Path, default=Path("runs/custom"), help="a new folder")
    parser.add_argument("--override", nargs="*", default=[], metavar="SECTION.KEY=VALUE", help="of quick.yaml")
    args = parser.parse_args()
    if args.phantom:
        write_cohort("phantoms", heads=(3, 3, 1))

    paths = [f"domains.a.path={args.mr}", f"domains.b.path={args.ct}"]
    config = medcycle.load_config("quick", [*paths, *args.override])
    medcycle.train(config, args.run, make_generator=Residual)  # called with (in_channels, out_channels)

    translator = medcycle.Translator.load(args.run, to="ct", network=Residual(1, 1))
    scan = medcycle.find_scans(args.mr)[0]
    print(f"wrote {translator.file(scan, args.run / 'synthetic_ct.nii.gz')}")


if __name__ == "__main__":  # needed: scans are prepared in several processes, which import this file
    main()
