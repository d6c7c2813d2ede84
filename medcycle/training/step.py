"""One training step of CycleGAN (Zhu 2017), in 2D and 3D alike, and the state that it changes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd as _Dropout

from medcycle.device import autocast
from medcycle.errors import TrainingError
from medcycle.networks import MaskedGenerator, follow_spectral_norms
from medcycle.networks.calibrated import piecewise_linear
from medcycle.training.contrast import KNOTS, ContrastSettings
from medcycle.training.losses import (
    Adversarial,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    l1,
    r1,
    value_distance,
)
from medcycle.training.pool import ImagePool
from medcycle.training.runtime import average_gradients, in_turn
from medcycle.training.structure import StructureSettings, patch_nce_loss, structure_losses

PLACES = 256  # of an image, which PatchNCE compares (Park 2020, appendix C.1)

Pair: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LossSettings:
    """Kind of the adversarial loss and the weights of the others (identity is relative to cycle).

    `paired` counts where there are registered pairs.
    """

    adversarial: Adversarial = "lsgan"
    cycle: float = 10.0
    identity: float = 0.5
    gradient_penalty: float = 10.0
    body_only: bool = False
    r1: float = 0.0
    mask: float = 0.0
    paired: float = 0.0
    values: float = 0.0
    contrast: ContrastSettings = field(default_factory=ContrastSettings)
    structure: StructureSettings = field(default_factory=StructureSettings)


class CycleGAN:
    """Everything a training run changes: networks, optimizers, scalers, buffers, moving averages, step count.

    A generator is named for what it does, a discriminator for the domain whose images it knows.
    """

    def __init__(
        self,
        a_to_b: nn.Module,
        b_to_a: nn.Module,
        discriminator_a: nn.Module,
        discriminator_b: nn.Module,
        *,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        pool: int = 50,
        ema: float = 0.0,
        precision: str = "fp32",
        seed: int = 0,
        projections: tuple[nn.Module, nn.Module] | None = None,
    ) -> None:
        self.a_to_b, self.b_to_a = a_to_b, b_to_a
        self.discriminator_a, self.discriminator_b = discriminator_a, discriminator_b
        self.device = next(a_to_b.parameters()).device
        self.precision = precision
        self.projections = projections  # of the features of either generator, for PatchNCE
        learning_along = [parameter for network in projections or () for parameter in network.parameters()]
        self.generator_parameters = [*a_to_b.parameters(), *b_to_a.parameters(), *learning_along]
        self.discriminator_parameters = [*discriminator_a.parameters(), *discriminator_b.parameters()]
        # Capturable: a CUDA graph may hold the update.
        adam = functools.partial(
            torch.optim.Adam, lr=learning_rate, betas=betas, fused=True, capturable=self.device.type == "cuda"
        )
        self.generator_optimizer = adam(self.generator_parameters)
        self.discriminator_optimizer = adam(self.discriminator_parameters)
        # One scaler an optimizer: a shared one would be updated between its two unscalings.
        scaled = precision == "fp16"
        self.generator_scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.discriminator_scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.pool_a, self.pool_b = ImagePool(pool, 2 * seed), ImagePool(pool, 2 * seed + 1)
        self.both: Callable[..., Any] = in_turn
        """How both directions, and both discriminators, are computed: in turn, or by a SideBySide."""
        self.ema = ema
        self.average_a_to_b = copy.deepcopy(a_to_b).requires_grad_(False) if ema else a_to_b
        self.average_b_to_a = copy.deepcopy(b_to_a).requires_grad_(False) if ema else b_to_a
        self.ramp = torch.ones((), device=self.device)  # share of the structure losses' weights
        self.first_guess = torch.ones((), device=self.device)  # share of the contrast loss's weight
        # What the values `knots` become from A to B and from B to A, filled in place; as they are until then.
        self.knots = torch.linspace(-1, 1, KNOTS, device=self.device)
        self.contrast_curves = self.knots.clone(), self.knots.clone()
        self.draws = torch.zeros(PLACES, device=self.device)  # which places PatchNCE compares
        self.seed = seed
        self.step = 0

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The four trained networks by name, and the moving averages where there are any."""
        networks = {
            "a_to_b": self.a_to_b,
            "b_to_a": self.b_to_a,
            "discriminator_a": self.discriminator_a,
            "discriminator_b": self.discriminator_b,
        }
        if self.projections:
            networks |= {"projections_a_to_b": self.projections[0], "projections_b_to_a": self.projections[1]}
        if self.ema:
            networks |= {"average_a_to_b": self.average_a_to_b, "average_b_to_a": self.average_b_to_a}
        return networks

    @property
    def batch_independent(self) -> bool:
        """Whether the samples of a batch do not influence one another (batch norm makes them)."""
        return all(getattr(network, "batch_independent", False) for network in self.networks.values())

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        """The generators' and the discriminators'."""
        return self.generator_optimizer, self.discriminator_optimizer

    @property
    def deterministic(self) -> bool:
        """Whether the networks draw nothing at random, which two threads would do in any order."""
        layers = [layer for network in self.networks.values() for layer in network.modules()]
        return self.batch_independent and not any(isinstance(layer, _Dropout) and layer.p for layer in layers)

    def set_learning_rate(self, rate: float) -> None:
        """For both optimizers; in place where it lies on the device (a CUDA graph reads it there)."""
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def update_average(self) -> None:
        """Moving average of the generators, faster in the first steps (Karras 2018, section 4.1; Yazici 2019)."""
        if self.ema:
            decay = min(self.ema, (1 + self.step) / (10 + self.step))
            for average, network in ((self.average_a_to_b, self.a_to_b), (self.average_b_to_a, self.b_to_a)):
                old, new = list(average.state_dict().values()), list(network.state_dict().values())
                floats = [n for n, value in enumerate(new) if value.is_floating_point()]
                torch._foreach_lerp_([old[n] for n in floats], [new[n] for n in floats], 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        return {
            "step": self.step,
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
            "generator_scaler": self.generator_scaler.state_dict(),
            "discriminator_scaler": self.discriminator_scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.step = state["step"]
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        self.generator_optimizer.load_state_dict(state["generator_optimizer"])
        self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"], group["capturable"] = float(group["lr"]), self.device.type == "cuda"
        for scaler, saved in (
            (self.generator_scaler, state["generator_scaler"]),
            (self.discriminator_scaler, state["discriminator_scaler"]),
        ):
            if saved:  # empty where the run was not in fp16 before
                scaler.load_state_dict(saved)


def together(network: nn.Module, *images: Tensor) -> list[Tensor]:
    """The network's answer to each batch of images, in one call where samples do not influence one another."""
    if getattr(network, "batch_independent", False):
        return list(network(torch.cat(images)).chunk(len(images)))
    return [network(image) for image in images]


def translated(network: nn.Module, loss: LossSettings, *images: Tensor) -> tuple[list[Tensor], Tensor | None]:
    """The generator's answer to each batch of images, and its mask of the first where that is a loss.

    Raises:
        TrainingError: the generator has no mask.
    """
    if not loss.mask:
        return together(network, *images), None
    if not isinstance(network, MaskedGenerator):
        raise TrainingError(
            f"loss.mask is the mean of a generator's mask, and a {type(network).__name__} has none. Set it to 0, or "
            "take model.generator.kind=masked (your own: a subclass of medcycle.networks.MaskedGenerator)."
        )
    if network.batch_independent:
        made, masks = network.with_mask(torch.cat(images))
        return list(made.chunk(len(images))), masks.chunk(len(images))[0]
    pairs = [network.with_mask(image) for image in images]
    return [made for made, _ in pairs], pairs[0][1]


def training_step(
    gan: CycleGAN,
    real_a: Tensor,
    real_b: Tensor,
    loss: LossSettings,
    microbatch: int | None = None,
    pair: Pair | None = None,
) -> dict[str, Tensor]:
    """One Adam step of both generators, then one of both discriminators (Zhu 2017, section 4 and 7.1).

    Args:
        gan: the state; changed in place.
        real_a: (batch, channel, *space) in [-1, 1], of domain A.
        real_b: likewise of domain B.
        loss: kind and weights.
        microbatch: samples computed at once, their gradients added up; None takes the whole batch.
        pair: images of A and of B that show the same places, each of the shape of `real_a` and `real_b`.

    Returns:
        Every loss by name, unweighted except the sum `generator`: float32 scalars on the device.
    """
    before_step(gan, len(real_a), loss)
    means = step_on_device(gan, real_a, real_b, loss, microbatch, pair)
    after_step(gan)
    return means


def before_step(gan: CycleGAN, batch: int, loss: LossSettings) -> None:
    """What is decided on the CPU: which earlier images the discriminators will see, how much structure and first
    guess count.
    """
    gan.ramp.fill_(loss.structure.ramp(gan.step))
    gan.first_guess.fill_(loss.contrast.share(gan.step))
    if gan.projections:
        generator = torch.Generator().manual_seed(gan.seed * 1_000_003 + gan.step)
        gan.draws.copy_(torch.rand(PLACES, generator=generator), non_blocking=True)
    gan.pool_a.decide(batch, gan.device)
    gan.pool_b.decide(batch, gan.device)


def after_step(gan: CycleGAN) -> None:
    """What follows the updates: the count, and the moving average, whose pace depends on it."""
    gan.step += 1
    gan.update_average()


def step_on_device(
    gan: CycleGAN,
    real_a: Tensor,
    real_b: Tensor,
    loss: LossSettings,
    microbatch: int | None,
    pair: Pair | None = None,
) -> dict[str, Tensor]:
    """The step's arithmetic, which never waits for the device: see :func:`training_step`."""
    gan.pool_a.rewind()
    gan.pool_b.rewind()
    size = microbatch or len(real_a)
    parts = list(zip(real_a.split(size), real_b.split(size), strict=True))
    pairs = list(zip(pair[0].split(size), pair[1].split(size), strict=True)) if pair else [None] * len(parts)
    shares = [len(part_a) / len(real_a) for part_a, _ in parts]
    means: dict[str, Tensor] = {}
    fakes: list[tuple[Tensor, Tensor]] = []

    # --- Generators: their images shall be taken for real, come back through the cycle, and leave B in B alone.
    # One direction at a time, unless both run side by side: what the first needs for its gradients is gone by then.
    def generator_backward(part: int) -> None:
        (part_a, part_b), share = parts[part], shares[part]

        def direction(a_to_b: bool) -> tuple[dict[str, Tensor], Tensor]:
            losses, total, fake = generator_losses(gan, part_a, part_b, loss, pairs[part], a_to_b=a_to_b)
            backward(total * share, gan.generator_scaler)
            return losses | {"generator": total}, fake.detach()

        # Each parameter gets two gradients, and the sum of two is the same in either order.
        (of_a, fake_b), (of_b, fake_a) = gan.both(lambda: direction(True), lambda: direction(False))
        for losses in (of_a, of_b):
            add_up(means, losses, share)
        fakes.append((fake_a, fake_b))

    set_trainable(gan.discriminator_parameters, False)
    gan.generator_optimizer.zero_grad(set_to_none=True)
    add_gradients(generator_backward, range(len(parts)), gan.generator_parameters)
    update(gan.generator_optimizer, gan.generator_scaler, gan.generator_parameters)

    # --- Discriminators: real against the fakes made before that update, some of them from earlier steps.
    def discriminator_backward(part: int) -> None:
        (part_a, part_b), (fake_a, fake_b) = parts[part], fakes[part]
        a, b = (part_a, gan.pool_a.exchange(fake_a)), (part_b, gan.pool_b.exchange(fake_b))

        def domain(name: str, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
            losses, total = discriminator_losses(gan, name, real, fake, loss)
            backward(total * shares[part], gan.discriminator_scaler)
            return losses

        for losses in gan.both(lambda: domain("a", *a), lambda: domain("b", *b)):
            add_up(means, losses, shares[part])

    for network in (gan.discriminator_a, gan.discriminator_b):
        follow_spectral_norms(network)
    set_trainable(gan.discriminator_parameters, True)
    gan.discriminator_optimizer.zero_grad(set_to_none=True)
    add_gradients(discriminator_backward, range(len(parts)), gan.discriminator_parameters)
    update(gan.discriminator_optimizer, gan.discriminator_scaler, gan.discriminator_parameters)
    return means


def generator_losses(
    gan: CycleGAN, real_a: Tensor, real_b: Tensor, loss: LossSettings, pair: Pair | None = None, *, a_to_b: bool
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """One direction's share of the generators' losses (Zhu 2017, eq. 1 to 3 and section 5.2; masks: Chen 2018).

    Of a registered pair, the L1 distance between what is made of one image and the other (Isola 2017, eq. 3).

    Returns:
        Them by name, their weighted sum to minimize, and the images that were made.
    """
    # There, and back again: A becomes B and returns; B given to the same generator stays B.
    source, target = ("a", "b") if a_to_b else ("b", "a")
    real, other = (real_a, real_b) if a_to_b else (real_b, real_a)
    there, back = (gan.a_to_b, gan.b_to_a) if a_to_b else (gan.b_to_a, gan.a_to_b)
    critic = gan.discriminator_b if a_to_b else gan.discriminator_a
    losses: dict[str, Tensor] = {}
    inside = body(real) if loss.body_only else None
    with autocast(gan.device, gan.precision):
        if loss.identity:
            (fake, same), mask = translated(there, loss, real, other)
            losses[f"identity_{target}"] = l1(same, other, body(other) if loss.body_only else None)
        else:
            (fake,), mask = translated(there, loss, real)
        if inside is not None:
            fake = torch.where(inside, fake, -1.0)
        losses[f"cycle_{source}"] = l1(back(fake), real, inside)
        losses[f"adversarial_{target}"] = generator_loss(loss.adversarial, critic(fake), inside)
        if gan.projections:
            projections = gan.projections[0 if a_to_b else 1]
            losses[f"patch_nce_{target}"] = patch_nce_loss(there, projections, real, fake, gan.draws)
        if pair is not None:
            given, wanted = pair if a_to_b else pair[::-1]
            losses[f"paired_{target}"] = l1(there(given), wanted, body(given) if loss.body_only else None)
    total = losses[f"adversarial_{target}"] + loss.cycle * losses[f"cycle_{source}"]
    if loss.identity:
        total = total + loss.cycle * loss.identity * losses[f"identity_{target}"]
    if pair is not None:
        total = total + loss.paired * losses[f"paired_{target}"]
    if gan.projections:
        total = total + loss.structure.patch_nce * gan.ramp * losses[f"patch_nce_{target}"]
    for name, (weight, value) in structure_losses(loss.structure, real, fake).items():
        losses[f"{name}_{target}"] = value
        total = total + weight * gan.ramp * value
    if loss.values:
        losses[f"values_{target}"] = value_distance(torch.where(body(real), fake, -1.0), other)
        total = total + loss.values * gan.ramp * losses[f"values_{target}"]
    if loss.contrast.weight:
        guess = piecewise_linear(real, gan.knots, gan.contrast_curves[0 if a_to_b else 1])
        guess = torch.where(real > -1, guess, -1.0)  # air stays air
        losses[f"contrast_{target}"] = l1(fake, guess, inside)
        total = total + loss.contrast.weight * gan.first_guess * losses[f"contrast_{target}"]
    if mask is not None:
        losses[f"mask_{target}"] = mask.mean()
        total = total + loss.mask * losses[f"mask_{target}"]
    return losses, total, fake


def body(images: Tensor) -> Tensor:
    """(batch, 1, *space): where images that were prepared with `foreground` are not air, which is exactly -1 there."""
    return (images > -1).any(1, keepdim=True)


def discriminator_losses(
    gan: CycleGAN, domain: str, real: Tensor, fake: Tensor, loss: LossSettings
) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of the discriminator of domain "a" or "b" by name, and their sum to minimize."""
    network = gan.discriminator_a if domain == "a" else gan.discriminator_b
    with autocast(gan.device, gan.precision):
        logits_real, logits_fake = together(network, real, fake)
        inside = (body(real), body(fake)) if loss.body_only else (None, None)
        total = discriminator_loss(loss.adversarial, logits_real, logits_fake, inside)
    losses = {f"discriminator_{domain}": total}
    if loss.adversarial == "wgan-gp":
        losses[f"penalty_{domain}"] = penalty = gradient_penalty(network, real, fake)
        total = total + loss.gradient_penalty * penalty
    if loss.r1:
        losses[f"r1_{domain}"] = penalty = r1(network, real)
        total = total + loss.r1 * penalty
    return losses, total


def add_gradients(backward_of: Callable[[int], None], parts: range, parameters: list[nn.Parameter]) -> None:
    """Sum the gradients of all parts, in pairs of pairs.

    So two processes with half of the parts each, whose sums are then added, give the sum of one process to the last
    bit. In another order it would differ in the last bit, which Adam's first steps, whose size hardly depends on the
    gradient's, blow up to full steps.
    """
    if len(parts) == 1:
        backward_of(parts[0])
        return
    half = len(parts) // 2
    add_gradients(backward_of, parts[:half], parameters)
    first = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    add_gradients(backward_of, parts[half:], parameters)
    for parameter, gradient in zip(parameters, first, strict=True):
        if parameter.grad is not None and gradient is not None:
            parameter.grad += gradient


def backward(loss: Tensor, scaler: torch.amp.GradScaler) -> None:
    """Add the loss's gradients, scaled against fp16 underflow, to those there are."""
    scaler.scale(loss).backward()


def update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, parameters: list[nn.Parameter]) -> None:
    """Mean gradients over the processes, then the optimizer step (which the scaler skips on an fp16 overflow)."""
    average_gradients(parameters)
    scaler.step(optimizer)
    scaler.update()


def add_up(sums: dict[str, Tensor], values: dict[str, Tensor], share: float) -> None:
    """Add this share of each value to the sum of its name."""
    for name, value in values.items():
        sums[name] = sums.get(name, 0) + share * value.detach()


def set_trainable(parameters: list[nn.Parameter], flag: bool) -> None:
    """Let gradients of the parameters be computed, or not."""
    for parameter in parameters:
        parameter.requires_grad_(flag)
