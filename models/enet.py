"""ENet, Paszke et al. 2016 (arXiv:1606.02147), as EMKD builds it.

The authors' own network widens a unit's main path with zeros and has a PReLU between the asymmetric halves; this one
widens it by a 1×1 convolution and has none there. It is the one that Table 2 of AMTKD counts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import Repeat, stem_channels


class Initial(nn.Module):
    """ENet's first block, (N, C, H, W) -> (N, out, H/2, W/2), H and W even. Fig. 2a."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out - channels, 3, stride=2, padding=1, bias=False)
        self.norm = nn.Sequential(nn.BatchNorm2d(out), nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.norm(torch.cat([self.conv(x), F.max_pool2d(x, 2)], dim=1))
        return joined


def extension(channels: int, inner: int, out: int, core: nn.Module) -> nn.Sequential:
    """The branch every unit adds to its main path: 1×1 down to `inner` channels, `core`, 1×1 up to `out`. Fig. 2b."""
    return nn.Sequential(
        nn.Conv2d(channels, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.PReLU(),
        core,
        nn.BatchNorm2d(inner),
        nn.PReLU(),
        nn.Conv2d(inner, out, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.Dropout2d(0.1),
    )


class Regular(nn.Module):
    """A unit that keeps size and channels: 3×3, dilated, or asymmetric (5×1 then 1×5)."""

    def __init__(self, channels: int, inner: int, *, dilation: int = 1, asymmetric: bool = False) -> None:
        super().__init__()
        if asymmetric:
            core: nn.Module = nn.Sequential(
                nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False),
                nn.Conv2d(inner, inner, (1, 5), padding=(0, 2), bias=False),
            )
        else:
            core = nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation, bias=False)
        self.extension, self.act = extension(channels, inner, channels, core), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(x + self.extension(x))
        return out


class Down(nn.Module):
    """A unit that halves the size; gives its features and where each maximum stood, for the matching `Up`."""

    def __init__(self, channels: int, inner: int, out: int) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out))
        self.extension = extension(channels, inner, out, nn.Conv2d(inner, inner, 2, stride=2, bias=False))
        self.act = nn.PReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, where = F.max_pool2d_with_indices(x, (2, 2))
        return self.act(self.main(pooled) + self.extension(x)), where


def unpool(x: Tensor, where: Tensor) -> Tensor:
    """Each value put where its maximum stood, zeros elsewhere: (N, C, h, w) -> (N, C, 2h, 2w).

    `F.max_unpool2d` does the same, but refuses torch's deterministic mode even where no two places can be equal.
    """
    n, channels, height, width = x.shape
    flat = x.new_zeros(n, channels, 4 * height * width).scatter(2, where.flatten(2), x.flatten(2))
    return flat.view(n, channels, 2 * height, 2 * width)


class Up(nn.Module):
    """A unit that doubles the size, putting its values where the matching `Down` found the maxima."""

    def __init__(self, channels: int, inner: int, out: int) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out))
        self.extension = extension(channels, inner, out, nn.ConvTranspose2d(inner, inner, 2, stride=2, bias=False))
        self.act = nn.PReLU()

    def forward(self, x: Tensor, where: Tensor) -> Tensor:
        out: Tensor = self.act(unpool(self.main(x), where) + self.extension(x))
        return out


def context(channels: int, inner: int) -> nn.Sequential:
    """The eight units of stages 2 and 3: plain, dilated and asymmetric by turns. Table 1."""
    return nn.Sequential(
        Regular(channels, inner),
        Regular(channels, inner, dilation=2),
        Regular(channels, inner, asymmetric=True),
        Regular(channels, inner, dilation=4),
        Regular(channels, inner),
        Regular(channels, inner, dilation=8),
        Regular(channels, inner, asymmetric=True),
        Regular(channels, inner, dilation=16),
    )


class ENet(nn.Module):
    """(N, in_channels, H, W) -> (N, classes, H, W), H and W multiples of 8. Table 1.

    Departs: EMKD never calls its unit 3.5, which leaves 17,795 parameters dead; we call all eight units of stage 3.
    """

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        channels = stem_channels(in_channels)
        self.initial = nn.Sequential(Repeat(channels), Initial(channels, 16))
        self.down1, self.stage1 = Down(16, 16, 64), nn.Sequential(*(Regular(64, 16) for _ in range(4)))
        self.down2, self.stage2 = Down(64, 32, 128), context(128, 32)
        self.stage3 = context(128, 32)
        self.up4, self.stage4 = Up(128, 16, 64), nn.Sequential(Regular(64, 16), Regular(64, 16))
        self.up5, self.stage5 = Up(64, 4, 16), Regular(16, 4)
        self.classifier = nn.ConvTranspose2d(16, classes, 2, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x, where1 = self.down1(self.initial(x))
        x, where2 = self.down2(self.stage1(x))
        x = self.stage3(self.stage2(x))
        x = self.stage4(self.up4(x, where2))
        x = self.stage5(self.up5(x, where1))
        logits: Tensor = self.classifier(x)
        return logits
