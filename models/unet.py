"""U-Net, Ronneberger et al. 2015 (MICCAI), as MONAI's residual one (Kerfoot et al. 2018, STACOM)."""

from __future__ import annotations

from monai.networks.nets.unet import UNet
from torch import nn


def unet(in_channels: int, classes: int, *, width: int = 32) -> nn.Module:
    """Four halvings, `width` channels at the top and twice as many a level down; H and W are multiples of 16.

    Shapes: (N, in_channels, H, W) -> logits (N, classes, H, W). It starts from random weights throughout.
    """
    return UNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=classes,
        channels=[width * 2**level for level in range(5)],
        strides=(2, 2, 2, 2),
        num_res_units=2,
        norm="batch",
    )
