"""DeepLabV3+, Chen et al. 2018 (ECCV), on Xception-65 at stride 8."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import xception
from models.layers import conv_norm_relu

RATES = (12, 24, 36)
"""Dilations of the pyramid at stride 8."""


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1×1, three dilated 3×3 and the image's mean, (N, C, h, w) -> (N, out, h, w)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        branches = [conv_norm_relu(channels, out, 1), *(conv_norm_relu(channels, out, 3, dilation=d) for d in RATES)]
        self.branches = nn.ModuleList(branches)
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_norm_relu(channels, out, 1))
        self.project = nn.Sequential(conv_norm_relu((len(RATES) + 2) * out, out, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        pyramid = [*(branch(x) for branch in self.branches), self.image(x).expand(-1, -1, *x.shape[-2:])]
        out: Tensor = self.project(torch.cat(pyramid, dim=1))
        return out


class DeepLabV3Plus(nn.Module):
    """(N, in_channels, H, W) -> (N, classes, H, W), any H and W. Fig. 2.

    Departs: the printed count holds the unused ImageNet classifier of Xception, Linear(2048, 1000), 2,049,000
    parameters; ours has none.
    """

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.entry, self.trunk = xception.entry(in_channels), xception.trunk()
        self.aspp = ASPP(2048, 256)
        self.low = conv_norm_relu(128, 48, 3)
        self.fuse = nn.Sequential(
            conv_norm_relu(256 + 48, 256, 3),
            nn.Dropout(0.5),
            conv_norm_relu(256, 256, 3),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(256, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        low = self.entry(x)
        deep = F.interpolate(self.aspp(self.trunk(low)), low.shape[-2:], mode="bilinear")
        logits = self.classifier(self.fuse(torch.cat([deep, self.low(low)], dim=1)))
        return F.interpolate(logits, x.shape[-2:], mode="bilinear")
