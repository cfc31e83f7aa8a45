"""UNETR++, Shaker et al. 2024 (IEEE TMI), for the sizes and strides of its tumour network."""

from __future__ import annotations

from math import gcd

from monai.networks.blocks.dynunet_block import UnetResBlock
from torch import Tensor, nn

from models.epa import epa_blocks

FEW = (64, 64, 64, 32)
"""Tokens that each stage of the encoder attends to; 64 in the decoder."""


def down(channels: int, out: int, stride: int, groups: int) -> nn.Sequential:
    """A convolution as large as its stride, and a group norm: (N, channels, *s) -> (N, out, *s / stride)."""
    return nn.Sequential(nn.Conv3d(channels, out, stride, stride, bias=False), nn.GroupNorm(groups, out))


def residual(channels: int, out: int) -> nn.Module:
    """Two 3×3×3 convolutions with instance norms, and a shortcut."""
    block: nn.Module = UnetResBlock(3, channels, out, kernel_size=3, stride=1, norm_name="instance")
    return block


class Up(nn.Module):
    """A transposed convolution as large as its stride, plus the skip, then `after`."""

    def __init__(self, channels: int, out: int, stride: int, after: nn.Module) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose3d(channels, out, stride, stride, bias=False)
        self.after = after

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = self.after(self.enlarge(x) + skip)
        return out


class UNETRPP(nn.Module):
    """(N, in_channels, *size) -> (N, classes, *size), each side a multiple of 32. Fig. 2.

    Four stages of paired attention at strides 4, 8, 16 and 32, `width` channels at the first and twice as many a stage
    down; a decoder of the same blocks that adds the skips, and convolutions of width / 2 channels at full size. A
    single image of 32³ cannot be trained on: the deepest batch norm would see one voxel.

    Departs: the authors' network has two auxiliary outputs for training, at strides 4 and 8, ours none (42,647,195
    parameters instead of 42,647,489 at 4×128³ and 3 classes); for `legacy` see `models.epa`. The stem's norm has as
    many groups as the image channels, ours their greatest common divisor with `width`, the same for 1, 2, 4 and 8.
    """

    def __init__(
        self, in_channels: int, classes: int, *, size: tuple[int, ...], width: int = 32, legacy: int = 0
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        grids = [tuple(side // (4 * 2**level) for side in size) for level in range(4)]
        stages = [
            epa_blocks(grid, channels, few, legacy=bool(legacy))
            for grid, channels, few in zip(grids, widths, FEW, strict=True)
        ]
        ups = [
            Up(2 * channels, channels, 2, epa_blocks(grid, channels, 64, legacy=bool(legacy)))
            for grid, channels in zip(grids[:3], widths[:3], strict=True)
        ]
        self.downs = nn.ModuleList([down(in_channels, width, 4, gcd(in_channels, width))])
        self.downs.extend(down(channels, 2 * channels, 2, channels) for channels in widths[:3])
        self.stages = nn.ModuleList(stages)
        self.encoder1 = residual(in_channels, width // 2)
        self.decoder3, self.decoder4, self.decoder5 = ups
        self.decoder2 = Up(width, width // 2, 4, residual(width // 2, width // 2))
        self.out = nn.Conv3d(width // 2, classes, 1)
        for module in self.stages.modules():
            if isinstance(module, nn.Linear):  # the encoder's only, as in the authors' code
                nn.init.trunc_normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.encoder1(x)]
        for shrink, stage in zip(self.downs, self.stages, strict=True):
            x = stage(shrink(x))
            skips.append(x)
        skips.pop()
        for up in (self.decoder5, self.decoder4, self.decoder3, self.decoder2):
            x = up(x, skips.pop())
        logits: Tensor = self.out(x)
        return logits
