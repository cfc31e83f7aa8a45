"""FCN, Long et al. 2015 (CVPR), on a dilated ResNet-101, as torchvision builds it."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torchvision.models import resnet101
from torchvision.models.resnet import ResNet
from torchvision.models.segmentation.fcn import FCNHead

from models.layers import Segmenter


def trunk_of(resnet: ResNet, stem: nn.Module) -> nn.Sequential:
    """A ResNet up to its last stage, (N, C, H, W) -> (N, 2048, h, w), with another first convolution."""
    layers = OrderedDict(resnet.named_children())
    del layers["avgpool"], layers["fc"]
    layers["conv1"] = stem
    return nn.Sequential(layers)


def fcn(in_channels: int, classes: int) -> nn.Module:
    """The `fcn_resnet101` of torchvision without auxiliary head: ResNet-101 at stride 8, then 3×3 and 1×1."""
    resnet = resnet101(weights=None, replace_stride_with_dilation=[False, True, True])
    stem = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    return Segmenter(trunk_of(resnet, stem), FCNHead(2048, classes))
