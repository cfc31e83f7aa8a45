"""Region contrast: how alike two regions look to a network, compared between networks."""

from __future__ import annotations

from torch import Tensor
from torch.linalg import vector_norm


def contrast_distance(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """L2 distance of two region contrasts over the class pairs that both networks could measure.

    Shapes: student and teacher (N, P) cosines, P = C (C - 1) / 2; valid (N, P) bool, both valid; returns (N,), 0 where
    no pair is valid. Source: AMTKD, Eq. 4, with the region contrast of EMKD (Qin et al. 2021).
    """
    distance: Tensor = vector_norm((student - teacher).where(valid, 0.0), dim=1)
    return distance


def region_affinity(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Sum over class pairs of the squared difference of two region contrasts, (N,); shapes as above.

    Source: EMKD (Qin et al. 2021), region affinity, which has one pair.
    """
    return (student - teacher).where(valid, 0.0).square().sum(1)
