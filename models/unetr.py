"""UNETR, Hatamizadeh et al. 2022 (WACV), as MONAI's."""

from __future__ import annotations

from monai.networks.nets.unetr import UNETR
from torch import nn

from models.transformers import cut_idle, heads


def unetr(
    in_channels: int, classes: int, *, size: tuple[int, int, int], width: int = 16, hidden: int = 768
) -> nn.Module:
    """Twelve transformer layers on patches of 16³ voxels, and a U that reads layers 3, 6, 9 and 12. Fig. 2.

    Shapes: (N, in_channels, *size) -> logits (N, classes, *size), each side a multiple of 16; `width` channels at full
    size, tokens `hidden` wide, 4 times that between them.

    Departs: MONAI's layers hold a norm for cross attention that nothing calls, 18,432 parameters in all at width 768,
    which DSD's authors' version had not; it is cut, so that counts are those they print.
    """
    net: nn.Module = UNETR(
        in_channels,
        classes,
        size,
        feature_size=width,
        hidden_size=hidden,
        mlp_dim=4 * hidden,
        num_heads=heads(hidden),
    )
    cut_idle(net.get_submodule("vit.blocks").children())
    return net
