"""V-Net, Milletari et al. 2016 (3DV), as MONAI's."""

from __future__ import annotations

from monai.networks.nets.vnet import VNet
from torch import nn


def vnet(in_channels: int, classes: int) -> nn.Module:
    """Residual levels of 16 to 256 channels, 5×5×5 convolutions throughout. Fig. 2.

    Shapes: (N, in_channels, D, H, W) -> logits (N, classes, D, H, W), each side a multiple of 16; `in_channels` divides
    16, since the first level adds the image, repeated, to its features. A single image of 16³ cannot be trained on: the
    deepest level's batch norm would see one voxel.

    Departs: with MONAI, batch norm and ELU where the paper has no norm and PReLU, and dropout of whole channels. The
    biases of its four transposed convolutions stand before a batch norm, which takes them away; they are counted.
    """
    net: nn.Module = VNet(spatial_dims=3, in_channels=in_channels, out_channels=classes)
    return net
