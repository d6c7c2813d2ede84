"""The image buffer: discriminators also see generated images of earlier steps (Shrivastava 2017, section 2.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """Up to `size` earlier images, kept on the device they came from.

    Each image that comes in, while the pool is not full, is kept and returned. Once it is full, with probability 1/2
    a random old image is returned and the new one takes its place; otherwise the new one is returned.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.images: list[Tensor] = []
        self.random = torch.Generator().manual_seed(seed)

    def query(self, images: Tensor) -> Tensor:
        """Shape (batch, channel, *space) in and out, detached; the decision is made for each image."""
        images = images.detach()
        if self.size == 0:
            return images
        answer = []
        for image in images:
            if len(self.images) < self.size:
                self.images.append(image.clone())
                answer.append(image)
            elif torch.rand((), generator=self.random) < 0.5:
                index = int(torch.randint(self.size, (), generator=self.random))
                answer.append(self.images[index])
                self.images[index] = image.clone()
            else:
                answer.append(image)
        return torch.stack(answer)

    def state_dict(self) -> dict[str, Any]:
        """Contents and random state."""
        return {"images": [image.cpu() for image in self.images], "random": self.random.get_state()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Go on where `state_dict` was taken."""
        self.images = [image.to(device) for image in state["images"][: self.size]]
        self.random.set_state(state["random"].cpu())
