"""DynUNet, the network of nnU-Net (Isensee et al. 2021, Nature Methods), of MONAI's blocks."""

from __future__ import annotations

from monai.networks.nets.dynunet import DynUNet as Blocks
from torch import Tensor, nn

WIDEST = 320
"""Channels that no level goes beyond, as in nnU-Net."""


class DynUNet(nn.Module):
    """(N, in_channels, D, H, W) -> (N, classes, D, H, W), each side a multiple of 16 and not all of them 16.

    Five levels of residual blocks, `width` channels at full size and twice as many a level down, to 320; instance norms
    without parameters, as the counts of DSD, Table III, require. Width 16 is its network A, 32 its network B.

    Departs: MONAI's network holds every block twice, once inside nested skip layers, so that its state has each weight
    under two names; ours has its blocks alone, and calls them in the same order.
    """

    initialize_weights = staticmethod(Blocks.initialize_weights)
    """Kaiming's, slope 0.01: what MONAI gives its blocks, and DSD's authors the heads that they attach."""

    def __init__(self, in_channels: int, classes: int, *, width: int = 16) -> None:
        super().__init__()
        blocks = Blocks(
            3,
            in_channels,
            classes,
            kernel_size=(3, 3, 3, 3, 3),
            strides=(1, 2, 2, 2, 2),
            upsample_kernel_size=(2, 2, 2, 2),
            filters=[min(width * 2**level, WIDEST) for level in range(5)],
            norm_name="instance",
            res_block=True,
        )
        self.input_block: nn.Module = blocks.input_block
        self.downsamples: nn.ModuleList = blocks.downsamples
        self.bottleneck: nn.Module = blocks.bottleneck
        self.upsamples: nn.ModuleList = blocks.upsamples
        self.output_block: nn.Module = blocks.output_block

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in (self.input_block, *self.downsamples):
            x = down(x)
            skips.append(x)
        x = self.bottleneck(x)
        for up in self.upsamples:
            x = up(x, skips.pop())
        logits: Tensor = self.output_block(x)
        return logits
