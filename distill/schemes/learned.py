"""The law `learned`: what each teacher weighs is learned beside the student (AMTML-KD, Liu et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.weights import shares


class Learned(nn.Module):
    """w = softmax_j(W . (b * theta_j)): b the student's encoder feature, its maximum over places; theta and W learned.

    Source: AMTML-KD, section 3.1. Departs: their code trains the weighing together with the student first, and the
    student alone after; ours trains both throughout.
    """

    def __init__(self, teachers: int, width: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn(teachers, width))
        self.projection = nn.Parameter(torch.randn(width))

    def forward(self, feature: Tensor, answered: Tensor) -> Tensor:
        """Weights (N, T) by the encoder's feature maps (N, d, h, w); whoever did not answer, (N, T) bool, weighs 0."""
        scores = learned_scores(feature.float().flatten(2).amax(2), self.theta, self.projection)
        scores = scores.where(answered, torch.finfo(scores.dtype).min)
        return shares(scores.softmax(1), answered)

    def decay(self) -> Tensor:
        """||W||² + ||theta||², a scalar."""
        return self.theta.square().sum() + self.projection.square().sum()


def learned_scores(b: Tensor, theta: Tensor, projection: Tensor) -> Tensor:
    """W . (b * theta_j), (N, T): b (N, d), theta (T, d), W (d). Source: AMTML-KD, section 3.1."""
    return (b * projection) @ theta.T
