"""The original's whole training step, written plainly from its published description: the oracle of test_original.py.

Separate network calls, torch's own criteria, two Adams, a pool that draws from Python's random, and LambdaLR stepped at
the end of every epoch. Names are the original's: G_A makes B from A, G_B makes A from B, D_A judges B, D_B judges A.
"""

from __future__ import annotations

import itertools
import random
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

LAMBDA = 10.0


class Draws(Protocol):
    """What the pool asks of Python's random."""

    def uniform(self, a: float, b: float) -> float: ...

    def randint(self, a: int, b: int) -> int: ...


class Pool:
    """Earlier images: while it is not full, keep and return; then half the answers are old images, exchanged."""

    def __init__(self, size: int, draws: Draws) -> None:
        self.size, self.draws = size, draws
        self.images: list[Tensor] = []

    def query(self, images: Tensor) -> Tensor:
        if self.size == 0:
            return images
        answers = []
        for image in images.detach():
            if len(self.images) < self.size:
                self.images.append(image)
                answers.append(image)
            elif self.draws.uniform(0, 1) > 0.5:
                index = self.draws.randint(0, self.size - 1)
                answers.append(self.images[index])
                self.images[index] = image
            else:
                answers.append(image)
        return torch.stack(answers)


def schedule(optimizer: torch.optim.Optimizer, epochs: int, decay_epochs: int) -> LambdaLR:
    """The published rate for `epochs` epochs, then a line towards zero over `decay_epochs` more."""
    return LambdaLR(optimizer, lambda epoch: 1.0 - max(0, epoch + 1 - epochs) / float(decay_epochs + 1))


class OriginalStep:
    """Four networks and everything that a step changes."""

    def __init__(
        self,
        g_a: nn.Module,
        g_b: nn.Module,
        d_a: nn.Module,
        d_b: nn.Module,
        *,
        identity: float = 0.5,
        pool: int = 50,
        draws_a: Draws = random,
        draws_b: Draws = random,
        epochs: int = 100,
        decay_epochs: int = 100,
    ) -> None:
        self.g_a, self.g_b, self.d_a, self.d_b = g_a, g_b, d_a, d_b
        self.identity = identity
        self.fake_a_pool, self.fake_b_pool = Pool(pool, draws_a), Pool(pool, draws_b)
        self.mse, self.l1 = nn.MSELoss(), nn.L1Loss()
        generators, discriminators = (
            itertools.chain(x.parameters(), y.parameters()) for x, y in ((g_a, g_b), (d_a, d_b))
        )
        self.optimizer_g = torch.optim.Adam(generators, lr=2e-4, betas=(0.5, 0.999))
        self.optimizer_d = torch.optim.Adam(discriminators, lr=2e-4, betas=(0.5, 0.999))
        self.schedules = [schedule(o, epochs, decay_epochs) for o in (self.optimizer_g, self.optimizer_d)]

    def step(self, real_a: Tensor, real_b: Tensor) -> dict[str, float]:
        """One step; every loss by our name for it, without its weight."""
        fake_b = self.g_a(real_a)
        back_a = self.g_b(fake_b)
        fake_a = self.g_b(real_b)
        back_b = self.g_a(fake_a)

        self.require_gradients(False)
        self.optimizer_g.zero_grad()
        losses = {
            "adversarial_b": self.against(self.d_a(fake_b), 1.0),
            "adversarial_a": self.against(self.d_b(fake_a), 1.0),
            "cycle_a": self.l1(back_a, real_a),
            "cycle_b": self.l1(back_b, real_b),
        }
        total = (
            losses["adversarial_b"] + losses["adversarial_a"] + LAMBDA * losses["cycle_a"] + LAMBDA * losses["cycle_b"]
        )
        if self.identity > 0:
            losses["identity_b"] = self.l1(self.g_a(real_b), real_b)
            losses["identity_a"] = self.l1(self.g_b(real_a), real_a)
            total = total + LAMBDA * self.identity * (losses["identity_a"] + losses["identity_b"])
        losses["generator"] = total
        total.backward()
        self.optimizer_g.step()

        self.require_gradients(True)
        self.optimizer_d.zero_grad()
        losses["discriminator_b"] = self.discriminate(self.d_a, real_b, self.fake_b_pool.query(fake_b))
        losses["discriminator_a"] = self.discriminate(self.d_b, real_a, self.fake_a_pool.query(fake_a))
        self.optimizer_d.step()
        return {name: float(value.detach()) for name, value in losses.items()}

    def discriminate(self, network: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        loss: Tensor = (self.against(network(real), 1.0) + self.against(network(fake.detach()), 0.0)) * 0.5
        loss.backward()
        return loss

    def against(self, judged: Tensor, wanted: float) -> Tensor:
        answer: Tensor = self.mse(judged, torch.full_like(judged, wanted))
        return answer

    def require_gradients(self, flag: bool) -> None:
        for parameter in itertools.chain(self.d_a.parameters(), self.d_b.parameters()):
            parameter.requires_grad_(flag)

    def end_epoch(self) -> None:
        for each in self.schedules:
            each.step()
