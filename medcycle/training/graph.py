"""The step as one CUDA graph: a GPU that is told once what to do does not wait for 1,500 launches a step.

After some ordinary steps, which choose kernels and make the optimizers' state, the arithmetic of one step is recorded
and from then on replayed on new images. Where that cannot be done, ordinary steps go on, and the reason is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medcycle.training.runtime import Processes
from medcycle.training.step import CycleGAN, LossSettings, after_step, before_step, step_on_device, training_step

WARM_UP = 3  # ordinary steps before the recording


class Stepper:
    """training_step, recorded where that is possible.

    Args:
        gan: the state. Its optimizers, pools and networks must stay the same objects.
        loss: kind and weights.
        microbatch: samples computed at once.
        record: whether to try.
        process: of the run: gradients that travel between several are not recorded.
        tell: called once with a line on what was chosen, on a CUDA device.
    """

    def __init__(
        self,
        gan: CycleGAN,
        loss: LossSettings,
        microbatch: int | None = None,
        *,
        record: bool = True,
        process: Processes | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._gan, self._loss, self._microbatch, self._tell = gan, loss, microbatch, tell
        self._hindrance = hindrance(gan, process or Processes()) if record else "train.cuda_graph is false"
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] | None = None
        self._outputs: dict[str, Tensor] = {}
        if gan.device.type == "cuda" and self._hindrance:
            tell(f"The step is not recorded as a CUDA graph: {self._hindrance}")

    def __call__(self, real_a: Tensor, real_b: Tensor, *pair: Tensor) -> dict[str, Tensor]:
        """As :func:`medcycle.training.step.training_step`; the images of a registered pair follow."""
        self._calls += 1
        images = real_a, real_b, *pair
        if self._hindrance or self._calls <= WARM_UP or not self._fits(images):
            return training_step(*self._arguments(images))
        before_step(self._gan, len(real_a), self._loss)
        if self._graph is None and not self._record(images):
            losses = step_on_device(*self._arguments(images))
        else:
            assert self._graph is not None
            assert self._inputs is not None
            for held, image in zip(self._inputs, images, strict=True):
                held.copy_(image, non_blocking=True)
            self._graph.replay()
            losses = {name: value.clone() for name, value in self._outputs.items()}
        after_step(self._gan)
        return losses

    def _arguments(self, images: tuple[Tensor, ...]) -> tuple[Any, ...]:
        """Of the step."""
        real_a, real_b, *pair = images
        return self._gan, real_a, real_b, self._loss, self._microbatch, tuple(pair) or None

    def _fits(self, images: tuple[Tensor, ...]) -> bool:
        """Whether the images have the shapes that were recorded, if one was."""
        return self._inputs is None or [held.shape for held in self._inputs] == [image.shape for image in images]

    def _record(self, images: tuple[Tensor, ...]) -> bool:
        """Record the step, which does not run it; the caches that recording leaves belong to the graph."""
        for group in (group for optimizer in self._gan.optimizers for group in optimizer.param_groups):
            group["lr"] = torch.tensor(float(group["lr"]), device=self._gan.device)
        inputs = tuple(image.clone() for image in images)
        graph = torch.cuda.CUDAGraph()
        # The gradients shall be made again inside the recording, in the graph's own memory.
        for optimizer in self._gan.optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize(self._gan.device)
        stream = torch.cuda.current_stream(self._gan.device)
        try:
            # Other threads go on copying batches to the device meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = step_on_device(*self._arguments(inputs))
        except RuntimeError as error:
            self._hindrance = (str(error).splitlines() or ["unknown"])[0]
            self._tell(f"The step cannot be recorded as a CUDA graph, ordinary steps go on: {self._hindrance}")
            torch.cuda.set_stream(stream)  # a recording that fails at its end leaves its own in place
            for optimizer in self._gan.optimizers:
                optimizer.zero_grad(set_to_none=True)
            return False
        self._graph, self._inputs, self._outputs = graph, inputs, outputs
        self._tell("The step is recorded as one CUDA graph")
        return True


def hindrance(gan: CycleGAN, process: Processes) -> str:
    """Why a step cannot be recorded, or "" if nothing is known to be in the way."""
    if gan.device.type != "cuda":
        return "the device is no GPU"
    if gan.precision == "fp16":
        return "fp16 decides in every step whether it overflowed; bf16 need not"
    if process.world > 1:
        return "several processes exchange their gradients in every step"
    return ""
