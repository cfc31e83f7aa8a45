"""ResNeXt-101 32×8d, Xie et al. 2017 (CVPR), with a 1×1 classifier at stride 32."""

from __future__ import annotations

from torch import nn
from torchvision.models import resnext101_32x8d

from models.fcn import trunk_of
from models.layers import Segmenter


def resnext101(in_channels: int, classes: int) -> nn.Module:
    """The trunk of torchvision, 2048 features at 1/32 of the size, a linear classifier, and bilinear enlargement."""
    stem = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    return Segmenter(trunk_of(resnext101_32x8d(weights=None), stem), nn.Conv2d(2048, classes, 1))
