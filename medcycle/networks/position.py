"""Where in the body a voxel lies, as further input channels (coordinates as channels: Liu 2018, CoordConv)."""

from __future__ import annotations

import torch
from torch import Tensor

BODY = -0.9  # brighter is no air


def with_position(images: Tensor) -> Tensor:
    """Images and, behind their channels, one of coordinates for each space axis, relative to the body they show.

    -1 and 1 are its two ends along that axis, told by mean and spread of the body's voxels (those of an evenly filled
    body lie within sqrt(3) standard deviations), so that a nose or a speck of noise moves nothing far; beyond, the
    coordinates stay -1 and 1. Where there is no body, the sample's own ends are taken.

    Args:
        images: (batch, channel, *space) in [-1, 1], -1 being air.

    Returns:
        (batch, channel + number of space axes, *space) of the same type.
    """
    body = (images.detach() > BODY).any(1).float()
    space = images.shape[2:]
    channels = [images]
    for axis, n in enumerate(space, start=1):
        others = [other for other in range(1, body.ndim) if other != axis]
        share = body.sum(others)
        share = torch.where(share.sum(1, keepdim=True) > 0, share, torch.ones_like(share))
        share = share / share.sum(1, keepdim=True)
        places = torch.arange(n, device=images.device, dtype=torch.float32)
        centre = (share * places).sum(1, keepdim=True)
        spread = (share * (places - centre).square()).sum(1, keepdim=True)
        relative = ((places - centre) / (3 * spread).sqrt().clamp_min(0.5)).clamp(-1, 1).to(images.dtype)
        shape = [n if other == axis else 1 for other in range(1, body.ndim)]
        channels.append(relative.reshape(len(images), 1, *shape).expand(-1, -1, *space))
    return torch.cat(channels, dim=1)
