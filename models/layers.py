"""Layers that several of the networks share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Repeat(nn.Module):
    """A grey image as `channels` equal ones, (N, 1, H, W) -> (N, channels, H, W); other images pass unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, self.channels, -1, -1)


def stem_channels(in_channels: int) -> int:
    """Channels of the stem's weights: ENet, ESPNet, MobileNetV2 and PSPNet see a grey image three times (Table 2)."""
    return 3 if in_channels == 1 else in_channels


def conv_norm_relu(channels: int, out: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias that keeps the size at stride 1, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, dilation * (kernel // 2), dilation, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


class Segmenter(nn.Module):
    """Trunk, head, and the logits resized bilinearly to the image: (N, C, H, W) -> (N, classes, H, W), any H and W."""

    def __init__(self, trunk: nn.Module, head: nn.Module, *, align_corners: bool = False) -> None:
        super().__init__()
        self.trunk, self.head, self.align_corners = trunk, head, align_corners

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(self.trunk(x))
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=self.align_corners)
