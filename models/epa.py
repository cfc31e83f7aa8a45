"""Efficient paired attention of UNETR++ (Shaker et al. 2024, IEEE TMI): along channels and along space at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.blocks.dynunet_block import UnetResBlock
from torch import Tensor, nn


def merged(x: Tensor) -> Tensor:
    """The heads' answers side by side: (N, heads, tokens, d) -> (N, tokens, heads · d)."""
    return x.transpose(1, 2).flatten(2)


def scrambled(x: Tensor) -> Tensor:
    """The same numbers as the authors' code reads them: (N, heads, tokens, d) laid out (N, d, heads, tokens)."""
    n, heads, tokens, d = x.shape
    return x.permute(0, 3, 1, 2).reshape(n, tokens, heads * d)


class EPA(nn.Module):
    """Two attentions on the same queries and keys, summed: (N, tokens, width) -> the same. Fig. 2b.

    One attends among a head's channels; the other among tokens, whose keys and values one learned matrix brings from
    `tokens` to `few`, so that its cost grows with their number alone. Queries and keys are scaled to unit length along
    the tokens; the few keys come of those before that.

    Departs: the authors' code lays the spatial answer out with channels before tokens, as only the channels' one needs,
    which mixes both up before the sum. Ours keeps each token's answer at its token; `legacy` does as the code.
    """

    def __init__(self, tokens: int, width: int, few: int, *, heads: int = 4, legacy: bool = False) -> None:
        super().__init__()
        self.heads, self.spatial = heads, scrambled if legacy else merged
        self.qkvv = nn.Linear(width, 4 * width, bias=False)
        self.few = nn.Parameter(torch.empty(tokens, few).uniform_(-(few**-0.5), few**-0.5))
        self.channel_heat = nn.Parameter(torch.ones(heads, 1, 1))
        self.space_heat = nn.Parameter(torch.ones(heads, 1, 1))
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v_channel, v_space = self.qkvv(x).unflatten(2, (4, self.heads, -1)).permute(2, 0, 3, 4, 1)
        few_keys, few_values = k @ self.few, v_space @ self.few  # (N, heads, d, few), the others (N, heads, d, tokens)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        channel = self.drop((q @ k.mT * self.channel_heat).softmax(-1)) @ v_channel
        space = self.drop((q.mT @ few_keys * self.space_heat).softmax(-1)) @ few_values.mT
        return merged(channel.mT) + self.spatial(space)


class EPABlock(nn.Module):
    """Learned positions, attention, then a residual block of convolutions: (N, width, *grid) -> the same. Fig. 2a."""

    def __init__(self, grid: tuple[int, ...], width: int, few: int, *, legacy: bool) -> None:
        super().__init__()
        tokens = torch.Size(grid).numel()
        self.positions = nn.Parameter(torch.zeros(tokens, width))
        self.norm = nn.LayerNorm(width)
        self.attention = EPA(tokens, width, few, legacy=legacy)
        self.gain = nn.Parameter(torch.full((width,), 1e-6))
        self.convolutions = nn.Sequential(
            UnetResBlock(3, width, width, kernel_size=3, stride=1, norm_name="batch"),
            nn.Dropout3d(0.1),
            nn.Conv3d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT + self.positions
        tokens = tokens + self.gain * self.attention(self.norm(tokens))
        x = tokens.mT.reshape(x.shape)
        out: Tensor = x + self.convolutions(x)
        return out


def epa_blocks(grid: tuple[int, ...], width: int, few: int, *, legacy: bool) -> nn.Sequential:
    """The three blocks that every stage has."""
    return nn.Sequential(*(EPABlock(grid, width, few, legacy=legacy) for _ in range(3)))
