"""The image buffer: discriminators also see generated images of earlier steps (Shrivastava 2017, section 2.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """Up to `size` earlier images, kept on the device they came from.

    Each image that comes in, while the pool is not full, is kept and returned. Once it is full, with probability 1/2
    a random old image is returned and the new one takes its place; otherwise the new one is returned.

    What happens to the images of a step is drawn on the CPU (:meth:`decide`) before they are there; the exchange itself
    is all on the device, and the same operations whatever was drawn, so a CUDA graph can hold it.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.filled = 0
        self.random = torch.Generator().manual_seed(seed)
        self._buffer: Tensor | None = None  # (size + 1, channel, *space): the last place takes what is not kept
        self._drawn: Tensor | None = None  # (2, images of a step): the place to exchange with, and whether to show its
        self._asked = 0

    @property
    def images(self) -> list[Tensor]:
        """What is kept, each (channel, *space)."""
        return [] if self._buffer is None else list(self._buffer[: self.filled])

    def decide(self, count: int, device: torch.device | str = "cpu") -> None:
        """Draw what becomes of the next `count` images, which :meth:`exchange` is then given in one or several parts.

        The decisions overwrite those of the last step in place where the count is the same.
        """
        places, shown = [], []
        for _ in range(count if self.size else 0):
            place, show = self.size, False
            if self.filled < self.size:
                place = self.filled
                self.filled += 1
            elif torch.rand((), generator=self.random) < 0.5:
                place, show = int(torch.randint(self.size, (), generator=self.random)), True
            places.append(place)
            shown.append(int(show))
        drawn = torch.tensor([places, shown], dtype=torch.long)
        if self._drawn is None or self._drawn.shape != drawn.shape:
            self._drawn = drawn.to(device)
        else:
            drawn = drawn.pin_memory() if self._drawn.device.type == "cuda" else drawn
            self._drawn.copy_(drawn, non_blocking=True)
        self._asked = 0

    def rewind(self) -> None:
        """The next image is the first of those decided upon, again: a recording that failed has gone through them."""
        self._asked = 0

    def exchange(self, images: Tensor) -> Tensor:
        """Shape (batch, channel, *space) in and out, detached: the next images of those decided upon."""
        images = images.detach()
        if self.size == 0:
            return images
        if self._buffer is None:
            self._buffer = images.new_zeros((self.size + 1, *images.shape[1:]))
        assert self._drawn is not None, "decide() comes first"
        answer = []
        for image in images.split(1):
            place, show = self._drawn[:, self._asked : self._asked + 1]
            self._asked += 1
            old = self._buffer.index_select(0, place)
            answer.append(torch.where(show.bool().view(-1, *[1] * (image.ndim - 1)), old, image))
            self._buffer.index_copy_(0, place, image)
        return torch.cat(answer)

    def query(self, images: Tensor) -> Tensor:
        """Shape (batch, channel, *space) in and out, detached; the decision is made for each image."""
        self.decide(len(images), images.device)
        return self.exchange(images)

    def state_dict(self) -> dict[str, Any]:
        """Contents and random state."""
        return {"images": [image.cpu() for image in self.images], "random": self.random.get_state()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Go on where `state_dict` was taken."""
        images = state["images"][: self.size]
        self.filled, self._buffer = len(images), None
        if images:
            self._buffer = torch.zeros((self.size + 1, *images[0].shape), dtype=images[0].dtype, device=device)
            self._buffer[: len(images)] = torch.stack(images)
        self.random.set_state(state["random"].cpu())
