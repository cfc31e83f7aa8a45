"""MobileNetV2, Sandler et al. 2018 (CVPR), as a dense network of stride 8 with a 1×1 classifier."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torchvision.models.mobilenetv2 import MobileNetV2

from models.layers import Repeat, Segmenter, stem_channels

# expansion t, channels c, repeats n, stride s: Table 2 of the paper, with two strides of 2 taken out.
STAGES = [
    [1, 16, 1, 1],
    [6, 24, 2, 1],
    [6, 32, 3, 2],
    [6, 64, 4, 1],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]


def mobilenetv2(in_channels: int, classes: int) -> nn.Module:
    """The trunk of torchvision at stride 8, 1280 features, and a linear classifier a pixel.

    Departs: the printed count holds an unused Linear(1280, classes), 2,562 parameters for two classes; ours has none.
    """
    channels = stem_channels(in_channels)
    features = MobileNetV2(inverted_residual_setting=STAGES).features
    features[0][0] = nn.Conv2d(channels, 32, 3, stride=2, padding=1, bias=False)
    trunk = nn.Sequential(OrderedDict(repeat=Repeat(channels), features=features))
    return Segmenter(trunk, nn.Conv2d(1280, classes, 1), align_corners=True)
