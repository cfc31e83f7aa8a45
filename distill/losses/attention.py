"""Attention transfer: where a network looks, whatever the number of its channels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """L1 distance of two attention maps, each scaled to unit L2 norm: 0 where they agree, whatever their gain.

    Shapes: student (N, h, w); teacher (N, h', w'), resized bilinearly to (h, w); returns (N,). It grows with sqrt(h w).
    Source: AMTKD, Eq. 3. Departs: Eq. 3 as printed norms the difference, so it cannot tell near from far and its
    gradient never pulls the maps together; we norm each map, as its [34], Zagoruyko and Komodakis 2017.
    """
    teacher = F.interpolate(teacher[:, None], student.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    return (unit(student) - unit(teacher)).abs().sum((1, 2))


def unit(maps: Tensor) -> Tensor:
    """Each map (N, h, w) scaled to unit L2 norm; a map of zeros stays zero."""
    return F.normalize(maps.flatten(1), dim=1).view_as(maps)
