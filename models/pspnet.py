"""PSPNet, Zhao et al. 2017 (CVPR), on a dilated ResNet-50 whose stem is three 3×3 convolutions."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.resnet import Bottleneck

from models.fcn import trunk_of
from models.layers import Repeat, Segmenter, conv_norm_relu, stem_channels

BINS = (1, 2, 3, 6)


class Pyramid(nn.Module):
    """Features beside their means over 1, 4, 9 and 36 fields, (N, channels, h, w) -> (N, 2 channels, h, w). Fig. 3c."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), conv_norm_relu(channels, channels // len(BINS), 1))
            for bins in BINS
        )

    def forward(self, x: Tensor) -> Tensor:
        levels = [F.interpolate(level(x), x.shape[-2:], mode="bilinear") for level in self.levels]
        return torch.cat([x, *levels], dim=1)


def trunk(in_channels: int) -> nn.Sequential:
    """ResNet-50 with the 128-channel stem of the PSPNet authors, stride 8, (N, C, H, W) -> (N, 2048, h, w)."""
    channels = stem_channels(in_channels)
    resnet = resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
    stem = nn.Sequential(
        Repeat(channels),
        conv_norm_relu(channels, 64, 3, stride=2),
        conv_norm_relu(64, 64, 3),
        nn.Conv2d(64, 128, 3, padding=1, bias=False),
    )
    resnet.bn1 = nn.BatchNorm2d(128)
    widen = nn.Sequential(nn.Conv2d(128, 256, 1, bias=False), nn.BatchNorm2d(256))
    resnet.layer1[0] = Bottleneck(128, 64, downsample=widen)
    return trunk_of(resnet, stem)


def pspnet(in_channels: int, classes: int) -> nn.Module:
    """The trunk, the pyramid, a 3×3 and a 1×1 convolution; no auxiliary head."""
    head = OrderedDict[str, nn.Module](
        pyramid=Pyramid(2048),
        fuse=conv_norm_relu(4096, 512, 3),
        dropout=nn.Dropout2d(0.1),
        classifier=nn.Conv2d(512, classes, 1),
    )
    return Segmenter(trunk(in_channels), nn.Sequential(head))
