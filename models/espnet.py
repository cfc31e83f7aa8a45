"""ESPNet, Mehta et al. 2018 (ECCV), with its light decoder, p = 2 and q = 3."""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import Repeat, stem_channels

DILATIONS = (1, 2, 4, 8, 16)
FUSION = 5
"""Channels of the decoder's ESP block. The original's are as many as there are classes, which cannot be built below
five: the block splits its channels into five branches (EMKD's choice)."""


def norm_act(channels: int) -> nn.Sequential:
    """Batch norm and a PReLU with a slope a channel."""
    return nn.Sequential(nn.BatchNorm2d(channels, eps=1e-3), nn.PReLU(channels))


def halve(image: Tensor) -> Tensor:
    """The image at half size, to be shown to the next level again."""
    return F.avg_pool2d(image, 3, stride=2, padding=1)


class ESP(nn.Module):
    """Efficient spatial pyramid: reduce, five dilations side by side, running sums, join. Sec. 3.

    (N, channels, H, W) -> (N, out, H, W), or half that size with stride 2. The sums (hierarchical feature fusion) begin
    at the second branch and take the gridding of the dilations away; `residual` adds the input.
    """

    def __init__(self, channels: int, out: int, *, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        branch = out // len(DILATIONS)
        first = out - (len(DILATIONS) - 1) * branch
        kernel = 1 if stride == 1 else 3
        self.reduce = nn.Conv2d(channels, branch, kernel, stride, kernel // 2, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv2d(branch, first if d == 1 else branch, 3, padding=d, dilation=d, bias=False) for d in DILATIONS
        )
        self.residual, self.norm = residual, norm_act(out)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        first, *others = [branch(reduced) for branch in self.branches]
        y = torch.cat([first, *accumulate(others)], dim=1)
        out: Tensor = self.norm(x + y if self.residual else y)
        return out


class ESPNet(nn.Module):
    """(N, in_channels, H, W) -> (N, classes, H, W), H and W multiples of 8. Fig. 4d."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        image = stem_channels(in_channels)
        self.repeat = Repeat(image)
        self.stem = nn.Sequential(nn.Conv2d(image, 16, 3, stride=2, padding=1, bias=False), norm_act(16))
        self.level1 = norm_act(16 + image)
        self.down2 = ESP(16 + image, 64, stride=2)
        self.stage2 = nn.Sequential(*(ESP(64, 64, residual=True) for _ in range(2)))
        self.level2 = norm_act(64 + 64 + image)
        self.down3 = ESP(64 + 64 + image, 128, stride=2)
        self.stage3 = nn.Sequential(*(ESP(128, 128, residual=True) for _ in range(3)))
        self.level3 = norm_act(256)
        self.up3 = nn.Sequential(
            nn.Conv2d(256, classes, 1, bias=False),
            nn.BatchNorm2d(classes, eps=1e-3),
            nn.ConvTranspose2d(classes, classes, 2, stride=2, bias=False),
        )
        self.skip2 = nn.Conv2d(64 + 64 + image, classes, 1, bias=False)
        self.up2 = nn.Sequential(
            norm_act(2 * classes),
            ESP(2 * classes, FUSION),
            nn.ConvTranspose2d(FUSION, classes, 2, stride=2, bias=False),
            norm_act(classes),
        )
        self.fuse1 = nn.Sequential(
            nn.Conv2d(16 + image + classes, classes, 3, padding=1, bias=False), norm_act(classes)
        )
        self.classifier = nn.ConvTranspose2d(classes, classes, 2, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        image = self.repeat(x)
        half = halve(image)
        level1 = self.level1(torch.cat([self.stem(image), half], dim=1))
        down2 = self.down2(level1)
        level2 = self.level2(torch.cat([self.stage2(down2), down2, halve(half)], dim=1))
        down3 = self.down3(level2)
        level3 = self.level3(torch.cat([down3, self.stage3(down3)], dim=1))
        up2 = self.up2(torch.cat([self.skip2(level2), self.up3(level3)], dim=1))
        logits: Tensor = self.classifier(self.fuse1(torch.cat([up2, level1], dim=1)))
        return logits
