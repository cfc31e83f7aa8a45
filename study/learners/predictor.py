"""The dense predictor: what was masked, rebuilt from the feature map by a light decoder that training alone has."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from study.learners.masking import tokens_of


class Predictor(nn.Module):
    """A feature map (N, c, *grid) to the voxels of each of its cells, (N, T, channels · cell^dims).

    Learned positions, a light decoder, one linear layer. Source: MOD, section III-A-2, which gives no decoder: a
    transformer block twice as wide within as its tokens, or two convolutions, are ours.
    """

    def __init__(self, c: int, grid: tuple[int, ...], voxels: int, *, decoder: str = "transformer") -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(1, c, *grid))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.decoder = _Block(c) if decoder == "transformer" else _convolutions(c, len(grid))
        self.last = nn.Linear(c, voxels)

    def forward(self, features: Tensor) -> Tensor:
        rebuilt: Tensor = self.last(tokens_of(self.decoder(features + self.positions)))
        return rebuilt


class _Block(nn.Module):
    """One transformer block over the places of a map (N, c, *grid), which keeps its shape."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(
            c, math.gcd(c, 8), 2 * c, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )

    def forward(self, features: Tensor) -> Tensor:
        tokens: Tensor = self.block(tokens_of(features))
        return tokens.transpose(1, 2).reshape(features.shape)


def _convolutions(c: int, dims: int) -> nn.Sequential:
    """Two convolutions of width 3, each after a norm and before a GELU."""
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    return nn.Sequential(
        *(part for _ in range(2) for part in (nn.GroupNorm(1, c), conv(c, c, 3, padding=1), nn.GELU()))
    )


def masked_l1(rebuilt: Tensor, patches: Tensor, hidden: Tensor) -> Tensor:
    """Mean absolute difference over all voxels and channels of hidden cells, a scalar.

    Shapes: rebuilt and patches (N, T, v); hidden (N, T) bool, some of them. Source: MOD, Eq. 4.
    Departs: as printed it divides by all patches and compares the feature map itself with the image; one sentence of
    the paper counts the cells that are not masked, the next, which we follow, those that are.
    """
    return (rebuilt[hidden] - patches[hidden]).abs().mean()
