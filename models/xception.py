"""The modified aligned Xception-65 of DeepLabV3+, Chen et al. 2018 (ECCV), Fig. 4, at stride 8."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from models.layers import conv_norm_relu


def separable(channels: int, out: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3×3, batch norm, pointwise 1×1."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, dilation, dilation, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, out, 1, bias=False),
    )


class Block(nn.Module):
    """Three separable convolutions, each after a ReLU, beside a shortcut; only the last may stride.

    `widths` are their output channels; `first_relu` is left out where the input is rectified already.
    Departs: EMKD rectifies in place, so that its shortcut carries the rectified input; ours carries the input itself.
    """

    def __init__(
        self,
        channels: int,
        widths: tuple[int, int, int],
        *,
        stride: int = 1,
        dilation: int = 1,
        first_relu: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        strides = (1, 1, stride)
        for before, after, step in zip((channels, *widths), widths, strides, strict=False):
            layers += [nn.ReLU(), separable(before, after, stride=step, dilation=dilation), nn.BatchNorm2d(after)]
        self.body = nn.Sequential(*layers[0 if first_relu else 1 :])
        out = widths[-1]
        self.shortcut = nn.Sequential()
        if (channels, stride) != (out, 1):
            self.shortcut.extend([nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


def entry(in_channels: int) -> nn.Sequential:
    """Stem and first block, rectified: (N, C, H, W) -> (N, 128, H/4, W/4), the low-level feature."""
    return nn.Sequential(
        conv_norm_relu(in_channels, 32, 3, stride=2),
        conv_norm_relu(32, 64, 3),
        Block(64, (128, 128, 128), stride=2, first_relu=False),
        nn.ReLU(),
    )


def trunk() -> nn.Sequential:
    """The rest: (N, 128, H/4, W/4) -> (N, 2048, H/8, W/8); dilation stands for the two strides left out.

    Departs: EMKD leaves out one batch norm of the last block, 2,048 parameters.
    """
    middle = [Block(728, (728, 728, 728), dilation=2) for _ in range(16)]
    last = [(1024, 1536), (1536, 1536), (1536, 2048)]
    exit_ = [
        layer
        for before, after in last
        for layer in (separable(before, after, dilation=4), nn.BatchNorm2d(after), nn.ReLU())
    ]
    stages = OrderedDict[str, nn.Module](
        block2=Block(128, (256, 256, 256), stride=2, first_relu=False),
        block3=Block(256, (728, 728, 728)),
        middle=nn.Sequential(*middle),
        block20=Block(728, (728, 1024, 1024), dilation=2),
        relu=nn.ReLU(),
        exit=nn.Sequential(*exit_),
    )
    return nn.Sequential(stages)
