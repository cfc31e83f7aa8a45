"""A module that follows another as its exponential moving average."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def momentum(step: int, steps: int, start: float = 0.996) -> float:
    """How much of itself the average keeps at that step: from `start` at 0 to 1 at `steps`, along half a cosine.

    Source: MOD, section IV-B, .996 and cosine; its form is iBOT's.
    """
    return 1 - (1 - start) * (math.cos(math.pi * step / steps) + 1) / 2


def follower(module: M) -> M:
    """A copy without gradients."""
    return copy.deepcopy(module).requires_grad_(requires_grad=False)


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, keep: float) -> None:
    """θ' <- keep θ' + (1 - keep) θ, over parameters and float buffers; other buffers are copied.

    Departs: Algorithm 1 of MOD prints θ + lr · gradient; iBOT averages parameters alone, wrong for batch norm.
    """
    for old, new in zip(_state(average), _state(module), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - keep)
        else:
            old.copy_(new)


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
