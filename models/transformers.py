"""What the two networks on MONAI's vision transformer have in common."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def heads(hidden: int) -> int:
    """Attention heads for tokens of that width, a multiple of 12: 12 where each is 32 wide or more, 6 below."""
    return 12 if hidden >= 12 * 32 else 6


def cut_idle(blocks: Iterable[nn.Module]) -> None:
    """Take out the layer norm that MONAI 1.4 and later build for cross attention, where there is none to call it."""
    for block in blocks:
        del block.norm_cross_attn
