"""The small networks that PatchNCE compares features by (Park 2020, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

WIDTH = 256


class Projections(nn.Module):
    """One perceptron of two layers for each level of a generator's features.

    Args:
        channels: of each level.
        width: of the vectors that come out.
    """

    batch_independent = True

    def __init__(self, channels: Sequence[int], width: int = WIDTH) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Linear(n, width), nn.ReLU(), nn.Linear(width, width)) for n in channels
        )

    def forward(self, features: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
        """The vectors at some places of every level.

        Args:
            features: (batch, channel, *space) of each level.
            places: (batch, n) of each level: indices into its flattened space.

        Returns:
            (batch, width, n) for each level.
        """
        vectors = []
        for level, found, at in zip(self.levels, features, places, strict=True):
            flat = found.flatten(2)
            picked = flat.gather(2, at[:, None].expand(-1, flat.shape[1], -1))
            vectors.append(level(picked.transpose(1, 2)).transpose(1, 2))
        return vectors
