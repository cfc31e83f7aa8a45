"""Which cells of an image's grid are hidden: in blocks or each by itself, always the same number."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Cells = NDArray[np.bool_]
FAILURES = 10
"""Blocks in a row that do not fit before the rest is hidden cell by cell (iBOT)."""
FLATTEST = 0.3
"""Smallest ratio of two sides of a block; the largest is its inverse (iBOT)."""


def hidden_count(grid: tuple[int, ...], ratio: float) -> int:
    """How many cells of a grid are hidden: the nearest whole number to that share."""
    return round(ratio * math.prod(grid))


def block_mask(grid: tuple[int, ...], count: int, draws: np.random.Generator) -> Cells:
    """Exactly `count` hidden cells of a grid of two or three axes, in blocks of several shapes that may overlap.

    Source: MOD, section III ("blockwise"), by iBOT's algorithm. Departs: blocks have three sides; where ten in a row
    do not fit, single cells make up the count, where iBOT stops short, so that masks of a batch are all of one size.
    """
    cells = np.zeros(grid, dtype=bool)
    while (left := count - int(cells.sum())) > 0:
        if not any(_hide_block(cells, left, draws) for _ in range(FAILURES)):
            return random_mask(grid, count, draws, start=cells)
    return cells


def random_mask(grid: tuple[int, ...], count: int, draws: np.random.Generator, *, start: Cells | None = None) -> Cells:
    """Exactly `count` hidden cells, those of `start` and others drawn alike. Source: MOD, section IV-B ("random")."""
    cells = np.zeros(math.prod(grid), dtype=bool) if start is None else start.flatten()
    cells[draws.choice(np.flatnonzero(~cells), count - int(cells.sum()), replace=False)] = True
    return cells.reshape(grid)


def _hide_block(cells: Cells, left: int, draws: np.random.Generator) -> bool:
    """Hide one block that adds 1 to `left` cells; False where the one that was drawn does not fit."""
    low = max(1, math.prod(side // 3 for side in cells.shape))
    volume = draws.uniform(min(low, left), left)
    ratios = np.exp(draws.uniform(math.log(FLATTEST), -math.log(FLATTEST), size=cells.ndim - 1))
    first = (volume * ratios.prod()) ** (1 / cells.ndim)
    sides = [round(first), *(round(first / ratio) for ratio in ratios)]
    if any(own >= side for own, side in zip(sides, cells.shape, strict=True)):
        return False
    corner = [int(draws.integers(side - own + 1)) for own, side in zip(sides, cells.shape, strict=True)]
    block = cells[tuple(slice(at, at + own) for at, own in zip(corner, sides, strict=True))]
    new = block.size - int(block.sum())
    if not 1 <= new <= left:
        return False
    block[...] = True
    return True


def hidden_voxels(hidden: Tensor, cell: int) -> Tensor:
    """Cells (N, *grid) bool, each `cell` voxels wide, as voxels (N, 1, *size) bool."""
    for axis in range(1, hidden.ndim):
        hidden = hidden.repeat_interleave(cell, axis)
    return hidden[:, None]


def patches_of(images: Tensor, cell: int) -> Tensor:
    """Images (N, c, *size) cut into cells: (N, T, c · cell^dims), T cells in the order of tokens."""
    N, c, *size = images.shape
    cut = images.reshape(N, c, *(part for side in size for part in (side // cell, cell)))
    axes = range(2, cut.ndim, 2)
    return cut.permute(0, *axes, 1, *(axis + 1 for axis in axes)).reshape(N, math.prod(size) // cell ** len(size), -1)


def tokens_of(features: Tensor) -> Tensor:
    """A feature map (N, c, *grid) as tokens (N, T, c), in the order of `patches_of`."""
    return features.flatten(2).transpose(1, 2)


def hidden_cells(n: int, grid: tuple[int, ...], *, ratio: float, blocks: bool) -> Tensor:
    """Masks (n, *grid) bool on the CPU, drawn by one number from torch's generator: equal seed, equal masks."""
    draws = np.random.default_rng(int(torch.randint(2**62, ())))
    one = block_mask if blocks else random_mask
    return torch.from_numpy(np.stack([one(grid, hidden_count(grid, ratio), draws) for _ in range(n)]))
