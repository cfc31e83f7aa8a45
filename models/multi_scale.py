"""MISSU's local multi-scale fusion, at a size that is known and in a form that is not."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MultiScale(nn.Module):
    """Features at three ranges fused, (N, c, *grid) -> (N, c, *grid).

    Three 3×3×3 convolutions of dilation 1, 3 and 5, each with a ReLU, summed, and a 1×1×1 convolution; 82·c² weights
    and 4·c biases in 3-D. Source: MISSU (Wang et al. 2023), as DSD's section 3.6 has it.
    Departs: no code has the block, and its form is our guess. The parameters that DSD's Table 4 prints for a UNETR of
    width fs fit some 7080·fs² on its four stages, beside one convolution of its bottom that we leave out; these blocks
    have 6970·fs².
    """

    def __init__(self, channels: int, *, dims: int = 3) -> None:
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.ranges = nn.ModuleList(conv(channels, channels, 3, padding=d, dilation=d) for d in (1, 3, 5))
        self.fuse = conv(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        fused: Tensor = self.fuse(torch.stack([conv(features).relu() for conv in self.ranges]).sum(0))
        return fused
