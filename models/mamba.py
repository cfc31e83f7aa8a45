"""Mamba in three directions through a volume: the tri-orientated Mamba of SegMamba (Xing et al. 2024, MICCAI)."""

from __future__ import annotations

from math import ceil, log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.scan import selective_scan

STATES = 16
"""States n of each channel."""
KERNEL = 4
"""Tokens that the causal convolution sees."""


def across(x: Tensor, slices: int) -> Tensor:
    """Tokens (..., T) of so many slices, one slice after the other, put place by place: of 12 in 3, 0, 4, 8, 1, 5, …

    `across(across(x, slices), T // slices)` is x again.
    """
    return x.reshape(*x.shape[:-1], slices, -1).mT.flatten(-2)


class Direction(nn.Module):
    """What Mamba does along one order of the tokens, with weights of its own: (N, channels, T) -> the same."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL - 1, groups=channels)
        self.select = nn.Linear(channels, rank + 2 * STATES, bias=False)
        self.delta = nn.Linear(rank, channels)
        self.a_log = nn.Parameter(torch.arange(1.0, STATES + 1).log().repeat(channels, 1))
        self.skip = nn.Parameter(torch.ones(channels))
        nn.init.uniform_(self.delta.weight, -(rank**-0.5), rank**-0.5)
        steps = torch.empty(channels).uniform_(log(1e-3), log(1e-1)).exp()
        with torch.no_grad():
            self.delta.bias.copy_(steps + (-torch.expm1(-steps)).log())  # softplus takes it back to `steps`

    def forward(self, u: Tensor, gate: Tensor) -> Tensor:
        u = F.silu(self.conv(u)[..., : u.shape[-1]])
        rank = self.delta.in_features
        delta, b, c = self.select(u.mT).split((rank, STATES, STATES), dim=-1)
        delta = F.softplus(self.delta(delta)).mT
        scanned = selective_scan(u, delta, a=-self.a_log.exp(), b=b.mT, c=c.mT, skip=self.skip)
        return scanned * F.silu(gate)


class TriMamba(nn.Module):
    """Mamba forwards, backwards and across the slices, summed: (N, T, width) -> the same.

    Twice `width` channels inside, 16 states each, time steps of rank width / 16, rounded up.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = nn.Linear(width, 4 * width, bias=False)
        self.forwards, self.backwards, self.across = (Direction(2 * width, ceil(width / 16)) for _ in range(3))
        self.out = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor, slices: int) -> Tensor:
        u, gate = self.into(x).mT.chunk(2, dim=1)
        total = self.forwards(u, gate)
        total = total + self.backwards(u.flip(-1), gate.flip(-1)).flip(-1)
        total = total + across(self.across(across(u, slices), across(gate, slices)), x.shape[1] // slices)
        out: Tensor = self.out(total.mT)
        return out
