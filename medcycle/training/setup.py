"""From the configuration to the networks, the losses and the schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from medcycle.config import Config
from medcycle.errors import ConfigError, TrainingError
from medcycle.networks import build_discriminator, build_generator
from medcycle.networks.layers import initialize
from medcycle.networks.projections import Projections
from medcycle.training.cohorts import Cohort, spread
from medcycle.training.contrast import ContrastCurve, ContrastSettings, contrast_curve, regional_values
from medcycle.training.step import CycleGAN, LossSettings
from medcycle.training.structure import StructureSettings

CONTRAST_SCANS = 64  # of each domain that a contrast curve is fitted to, spread over all
SMALL_WORK = 2**20  # voxels times filters of a sample
MakeNetwork = Callable[..., nn.Module]


def generator_arguments(config: Config, in_channels: int, out_channels: int) -> dict[str, Any]:
    """What rebuilds a generator; stored in the model file."""
    arguments = config.model.generator.model_dump()
    return arguments | {"in_channels": in_channels, "out_channels": out_channels, "ndim": len(config.sample.size)}


def build_gan(
    config: Config,
    channels: tuple[int, int],
    device: torch.device,
    precision: str,
    *,
    rank: int = 0,
    make_generator: MakeNetwork | None = None,
    make_discriminator: MakeNetwork | None = None,
) -> CycleGAN:
    """The four networks, freshly drawn, with their optimizers."""
    torch.manual_seed(config.train.seed)
    a, b = channels
    networks: list[nn.Module] = []
    for inputs, outputs in ((a, b), (b, a)):
        if make_generator is not None:
            networks.append(make_generator(inputs, outputs))
        else:
            networks.append(build_generator(**generator_arguments(config, inputs, outputs)))
            initialize(networks[-1])
    for inputs in (a, b):
        if make_discriminator is not None:
            networks.append(make_discriminator(inputs))
        else:
            arguments = config.model.discriminator.model_dump() | {"channels": inputs, "ndim": len(config.sample.size)}
            networks.append(build_discriminator(**arguments))
            initialize(networks[-1])
    projections = _projections(networks[0], networks[1]) if config.loss.structure.patch_nce else None
    torch.manual_seed(config.train.seed + 1 + rank)  # from here on, each process draws for its own samples

    def placed(network: nn.Module) -> nn.Module:
        # Tensors without content (see memory.py) lie on the CPU already and cannot be moved.
        return network if device.type == "cpu" else network.to(device)

    return CycleGAN(
        *(placed(network) for network in networks),
        learning_rate=config.train.learning_rate,
        betas=config.train.betas,
        pool=config.train.pool,
        ema=config.train.ema,
        precision=precision,
        seed=config.train.seed + 1000 * rank,
        projections=None if projections is None else (placed(projections[0]), placed(projections[1])),
    )


def _projections(*generators: Any) -> list[nn.Module]:
    """What PatchNCE compares either generator's features by.

    Raises:
        ConfigError: for a generator of the user's own that does not give its features.
    """
    for generator in generators:
        if not (hasattr(generator, "features") and hasattr(generator, "feature_channels")):
            raise ConfigError(
                f"loss.structure.patch_nce: the generator {type(generator).__name__} gives no features to compare. "
                "Give it the method features(images), which returns a list of (batch, channel, *space), and the "
                "attribute feature_channels, or set loss.structure.patch_nce=0."
            )
    return [Projections(generator.feature_channels) for generator in generators]


def thread_count(config: Config) -> int:
    """CPU threads to compute in; 0 leaves torch's own choice.

    Below SMALL_WORK, waking a second thread for every operation takes longer than it saves: a step on 64 x 64 samples
    with 16 filters took 0.08 s in one thread and 0.1 to 0.6 s in two, depending on what else ran.
    """
    return config.train.threads or (1 if _small(config) else 0)


def side_threads(config: Config, gan: CycleGAN, threads: int) -> int:
    """CPU threads for each of the two directions, if they can run side by side in so many together; else 0.

    What draws random numbers (dropout, the gradient penalty's points) would draw them in another order every time.
    """
    draws = not gan.deterministic or config.loss.adversarial == "wgan-gp"
    if gan.device.type != "cpu" or threads < 2 or draws:
        return 0
    return 1 if _small(config) else threads // 2


def _small(config: Config) -> bool:
    return math.prod(config.sample.size) * config.model.generator.filters < SMALL_WORK


def loss_settings(config: Config, total: int) -> LossSettings:
    """The losses' section as plain values, of a training of so many steps."""
    settings = config.loss.model_dump()
    structure = StructureSettings(**settings["structure"], planes=config.sample.planes)
    paired = config.pairs.weight if config.pairs and config.pairs.path is not None else 0.0
    contrast = ContrastSettings(config.loss.contrast.weight, config.loss.contrast.steps or total)
    return LossSettings(**settings | {"structure": structure, "contrast": contrast, "paired": paired})


def contrast_curves(config: Config, cohorts: Mapping[str, Cohort]) -> list[ContrastCurve]:
    """Of A to B and of B to A, from the training scans; none where `loss.contrast` has no weight.

    Raises:
        ConfigError: scans of several channels.
        ScanError: see :func:`contrast_curve`.
    """
    if not config.loss.contrast.weight:
        return []
    regions = []
    for key in "ab":
        cohort = cohorts[key]
        if cohort.channels > 1:
            raise ConfigError(
                f"loss.contrast: a curve of values is for scans of one channel, and those of domains.{key} "
                f"({cohort.domain.name}) have {cohort.channels}; set loss.contrast.weight=0"
            )
        regions.append(regional_values(scan.volume()[0] for scan in spread(cohort.training, CONTRAST_SCANS)))
    return [contrast_curve(*regions), contrast_curve(*regions[::-1])]


def learning_rate(config: Config, epoch: int) -> float:
    """In the epoch with that index: constant, then linear towards zero (Zhu 2017, section 4)."""
    train = config.train
    return train.learning_rate * (1 - max(0, epoch + 1 - train.epochs) / (train.decay_epochs + 1))


def check_sample(config: Config) -> None:
    """The samples must be large enough for the discriminator.

    Raises:
        ConfigError: they are not.
    """
    settings = config.model.discriminator.model_dump()
    with torch.device("meta"):
        discriminator: Any = build_discriminator(**settings, channels=1, ndim=len(config.sample.size))
    minimum = discriminator.minimum
    if min(config.sample.size) < minimum:
        raise ConfigError(
            f"sample.size: {list(config.sample.size)} is too small for the discriminator: "
            f"model.discriminator.layers={settings['layers']} with scales={settings['scales']} needs at least "
            f"{minimum} voxels along each axis. Take larger samples, fewer layers or scales, or "
            "model.discriminator.kind=pixel."
        )


def check_batch(config: Config, world: int) -> None:
    """The batch must divide among the processes.

    Raises:
        TrainingError: it does not.
    """
    if config.train.batch_size % world:
        raise TrainingError(
            f"train.batch_size: {config.train.batch_size} samples cannot be shared evenly by {world} processes; "
            f"take a multiple of {world}"
        )
