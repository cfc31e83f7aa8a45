"""Relational knowledge: how the slices of a batch lie to each other, whatever the single slice looks like."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 of the distances between every two slices, each network's in units of its own mean, scalar.

    Shapes: student (N, d), teacher (N, d'). Source: Park et al. 2019, as AMTML-KD takes it; 0 for a single slice.
    """
    return F.smooth_l1_loss(_distances(student), _distances(teacher))


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 of the cosines of the angles that every three slices make, scalar. Shapes and source as above."""
    return F.smooth_l1_loss(_angles(student), _angles(teacher))


def _distances(x: Tensor) -> Tensor:
    """(N, N), in units of the mean over pairs that differ; the root's slope at 0 is infinite, hence the least value."""
    squares = (x[:, None] - x[None]).square().sum(2).clamp_min(1e-12)
    apart = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    distances = squares.sqrt().where(apart, 0.0)
    return distances / (distances.sum() / apart.sum().clamp_min(1)).clamp_min(1e-6)


def _angles(x: Tensor) -> Tensor:
    """Cosine at slice i between slices j and k, (N, N, N)."""
    towards = F.normalize(x[None] - x[:, None], dim=2)
    return towards @ towards.transpose(1, 2)
