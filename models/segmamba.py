"""SegMamba, Xing et al. 2024 (MICCAI): a U whose encoder is of Mamba layers."""

from __future__ import annotations

from itertools import pairwise

from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock
from torch import Tensor, nn

from models.mamba import TriMamba


def conv_norm_relu(channels: int, kernel: int) -> nn.Sequential:
    """Convolution, instance norm, ReLU; the norm takes the convolution's bias away, which the counts hold."""
    conv = nn.Conv3d(channels, channels, kernel, padding=kernel // 2)
    return nn.Sequential(conv, nn.InstanceNorm3d(channels), nn.ReLU())


class GatedConvolution(nn.Module):
    """The gated spatial convolution before a stage's Mamba layers, GSC: (N, channels, *grid) -> the same.

    Departs: the paper multiplies its two branches, the authors' code adds them, as ours does.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Sequential(conv_norm_relu(channels, 3), conv_norm_relu(channels, 3))
        self.narrow, self.last = conv_norm_relu(channels, 1), conv_norm_relu(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.last(self.wide(x) + self.narrow(x))
        return out


class MambaLayer(nn.Module):
    """Layer norm and Mamba over all voxels, plus the input: (N, channels, d, h, w) -> the same.

    Departs: the authors' code orders the third direction by 64, 32, 16 and 8 slices at the four stages, whatever the
    image. Ours takes the slices that there are, which are those for 128³; any depth fits.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.mamba = nn.LayerNorm(channels), TriMamba(channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.mamba(self.norm(x.flatten(2).mT), x.shape[2])
        return x + tokens.mT.reshape(x.shape)


class Encoder(nn.Module):
    """Four stages at strides 2, 4, 8 and 16, each with a small perceptron on what leaves to the side."""

    def __init__(self, in_channels: int, widths: list[int]) -> None:
        super().__init__()
        self.downs = nn.ModuleList([nn.Conv3d(in_channels, widths[0], 7, stride=2, padding=3)])
        for channels, out in pairwise(widths):
            self.downs.append(nn.Sequential(nn.InstanceNorm3d(channels), nn.Conv3d(channels, out, 2, stride=2)))
        self.stages = nn.ModuleList(
            nn.Sequential(GatedConvolution(width), MambaLayer(width), MambaLayer(width)) for width in widths
        )
        self.sides = nn.ModuleList(
            nn.Sequential(
                nn.InstanceNorm3d(width), nn.Conv3d(width, 2 * width, 1), nn.GELU(), nn.Conv3d(2 * width, width, 1)
            )
            for width in widths
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for down, stage, side in zip(self.downs, self.stages, self.sides, strict=True):
            x = stage(down(x))
            features.append(side(x))
        return features


def block(channels: int, out: int) -> nn.Module:
    """Two 3×3×3 convolutions with instance norms, and a shortcut."""
    made: nn.Module = UnetrBasicBlock(3, channels, out, kernel_size=3, stride=1, norm_name="instance", res_block=True)
    return made


def up(channels: int, out: int) -> nn.Module:
    """A transposed convolution, the skip beside it, and such a block."""
    made: nn.Module = UnetrUpBlock(
        3, channels, out, kernel_size=3, upsample_kernel_size=2, norm_name="instance", res_block=True
    )
    return made


class SegMamba(nn.Module):
    """(N, in_channels, D, H, W) -> (N, classes, D, H, W), each side a multiple of 16 and not all of them 16.

    `width` channels at full size and twice as many a stage down; `hidden` at the bottom, 16 times the width where it is
    left out. The whole of 128³ voxels needs a GPU and the fused kernel; on 32³ a width of 16 and 128 at the bottom do
    on a CPU. Mamba's authors keep weight decay from `a_log` and `skip` of every `models.mamba.Direction`.
    """

    def __init__(self, in_channels: int, classes: int, *, width: int = 48, hidden: int | None = None) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        hidden = hidden or 16 * width
        self.encoder = Encoder(in_channels, widths)
        self.encoder1 = block(in_channels, width)
        self.encoder2, self.encoder3, self.encoder4 = (block(one, 2 * one) for one in widths[:3])
        self.encoder5 = block(widths[3], hidden)
        self.decoder5 = up(hidden, widths[3])
        self.decoder4, self.decoder3, self.decoder2 = (up(2 * one, one) for one in reversed(widths[:3]))
        self.decoder1 = block(width, width)
        self.out = nn.Conv3d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        half, quarter, eighth, bottom = self.encoder(x)
        deep = self.decoder5(self.encoder5(bottom), self.encoder4(eighth))
        deep = self.decoder4(deep, self.encoder3(quarter))
        deep = self.decoder3(deep, self.encoder2(half))
        logits: Tensor = self.out(self.decoder1(self.decoder2(deep, self.encoder1(x))))
        return logits
