"""One sample for each process: python -m torch.distributed.run --standalone --nproc-per-node 2 -m benchmarks.scaling

Times the whole step and, apart, the all-reduce of its gradients; run it with one process, too. SCALING.md has the
figures and what follows from them. On GPUs each process takes its own and NCCL carries the gradients; on CPUs gloo.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported

import torch

from medcycle.device import resolve_precision
from medcycle.networks import build_discriminator, build_generator
from medcycle.training.runtime import average_gradients, processes, share_parameters
from medcycle.training.step import CycleGAN, LossSettings, training_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    with processes(cuda) as process:
        device = torch.device("cuda", process.local_rank) if cuda else torch.device("cpu")
        sizes = {"in_channels": 1, "out_channels": 1, "ndim": 2}
        nets = [
            build_generator("resnet", **sizes, filters=options.filters, blocks=options.blocks).to(device) for _ in "ab"
        ]
        nets += [build_discriminator("patchgan", channels=1, ndim=2).to(device) for _ in "ab"]
        gan = CycleGAN(*nets, precision=resolve_precision("auto", device))
        share_parameters(gan.networks)
        images = [torch.rand((1, 1, options.size, options.size), device=device) * 2 - 1 for _ in "ab"]
        steps, exchanges = [], []
        for number in range(options.steps + 2):
            process.wait()
            began = time.perf_counter()
            losses = training_step(gan, images[0], images[1], LossSettings())
            float(losses["generator"])  # the device has finished
            ended = time.perf_counter()
            average_gradients([*gan.generator_parameters, *gan.discriminator_parameters])
            if cuda:
                torch.cuda.synchronize()
            if number >= 2:
                steps.append(ended - began)
                exchanges.append(time.perf_counter() - ended)
        count = sum(p.numel() for p in [*gan.generator_parameters, *gan.discriminator_parameters])
        if process.first:
            print(
                f"{process.world} process(es) on {device.type}, {torch.get_num_threads()} CPU thread(s) each: step "
                f"{statistics.median(steps):.3f} s, of which the all-reduce of {4 * count / 1e6:.0f} MB "
                f"{statistics.median(exchanges):.3f} s; {process.world / statistics.median(steps):.2f} samples a second"
            )


if __name__ == "__main__":
    main()
