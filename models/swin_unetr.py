"""Swin UNETR, Hatamizadeh et al. 2022 (BrainLes), and its V2, He et al. 2023 (MICCAI), as MONAI's."""

from __future__ import annotations

from monai.networks.nets.swin_unetr import SwinUNETR
from torch import nn


def swin_unetr(in_channels: int, classes: int, *, width: int = 48) -> nn.Module:
    """Attention in shifted windows of 7³ at strides 2 to 16, and a U of convolutions down to 1/32. Fig. 1.

    Shapes: (N, in_channels, D, H, W) -> logits (N, classes, D, H, W), each side a multiple of 32 and not all of them
    32, since the deepest instance norm needs two voxels; `width` channels at full size, a multiple of 12.
    """
    net: nn.Module = SwinUNETR(in_channels=in_channels, out_channels=classes, feature_size=width)
    return net


def swin_unetr_v2(in_channels: int, classes: int, *, width: int = 48) -> nn.Module:
    """The same with a residual convolution block before each stage of attention, which V2 adds."""
    net: nn.Module = SwinUNETR(in_channels=in_channels, out_channels=classes, feature_size=width, use_v2=True)
    return net
