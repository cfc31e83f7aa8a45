"""Self-distillation by the distance of pooled features, which DSD's authors tried and left out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.bottleneck import Bottlenecks
from models.entry import Stage
from study.learners.dsd_terms import whole

POOLED = 128
"""Channels to which each stage is brought (the authors' code)."""
_PAIRS = (("E2", "E4"), ("E3", "E4"), ("D3", "D1"), ("D2", "D1"))
"""Which stage is drawn to which (the authors' code)."""
TAUGHT = ("E2", "E3", "E4", "D3", "D2", "D1")


class FeatureL2(nn.Module):
    """Sum over four pairs of stages of the mean squared difference of their pooled features, a scalar, unweighted.

    A stage is pooled by a bottleneck module to 128 channels and the mean over the whole image, which two stages of
    equal channels and stride share. Shapes: features {stage: (N, c, *grid)}. Source: DSD, section 4, and the authors'
    code, which has it for UNETR alone.
    """

    def __init__(self, stages: Mapping[str, Stage], channels: Mapping[str, int], *, dims: int) -> None:
        super().__init__()
        of = {name: stages[name] for name in TAUGHT}
        self.bottlenecks = Bottlenecks(of, channels, POOLED, dims=dims, shared=True)

    def forward(self, features: Mapping[str, Tensor], *, detach: bool = False) -> Tensor:
        pooled = {name: whole(vector) for name, vector in self.bottlenecks.pooled(features).items()}
        teachers = {name: vector.detach() if detach else vector for name, vector in pooled.items()}
        return torch.stack([(pooled[a] - teachers[b]).square().mean() for a, b in _PAIRS]).sum()
