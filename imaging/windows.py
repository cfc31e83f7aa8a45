"""Where patches lie in a stack of slices, and a whole stack read patch by patch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

Place = tuple[slice, slice, slice]
"""A part of a stack: slices, rows and columns."""
Patch = tuple[int, int, int]
AT_ONCE = 4
"""Patches a network reads together, always: a batch of another size may differ in its last bits."""


def windows(box: Place, whole: Patch, patch: Patch, overlap: float) -> NDArray[np.int64]:
    """First slices, rows and columns (N, 3) of the fewest patches that cover `box`, a part of a stack of size `whole`.

    They are spread evenly, overlap by at least that share of their side, and none reaches beyond the stack. Where the
    box is the smaller, one patch lies about its middle.
    Raises: ValueError when a patch is larger than the stack.
    """
    if any(side > n for side, n in zip(patch, whole, strict=True)):
        raise ValueError(f"patches of {patch} do not fit a stack of {whole}")
    along = [_starts(*axis, overlap) for axis in zip(box, whole, patch, strict=True)]
    return np.array(list(product(*along)), np.int64)


def _starts(extent: slice, size: int, side: int, overlap: float) -> list[int]:
    length = extent.stop - extent.start
    if length <= side:
        middle = extent.start + (length - side) // 2
        return [min(max(middle, 0), size - side)]
    step = max(1, int(side * (1 - overlap)))
    count = ceil((length - side) / step) + 1
    starts: list[int] = (extent.start + np.linspace(0, length - side, count).round().astype(int)).tolist()
    return starts


def places(origins: NDArray[np.int64], patch: Patch) -> Iterator[Place]:
    """The parts of a stack that patches with these origins (N, 3) take up."""
    for z, y, x in origins.tolist():
        yield slice(z, z + patch[0]), slice(y, y + patch[1]), slice(x, x + patch[2])


def blended(
    network: Callable[[NDArray[Any]], NDArray[Any]],
    stack: NDArray[Any],
    origins: NDArray[np.int64],
    patch: Patch,
) -> NDArray[np.float32]:
    """Logits (D, C, H, W) of a stack (D, c, H, W): the mean of all patches' where they overlap, 0 beyond them all.

    `network` gives logits (n, C, *patch) for images (n, c, *patch). Source of the plain mean: DSD's code.
    """
    summed, count = None, np.zeros((stack.shape[0], 1, *stack.shape[2:]), np.float32)
    spots = list(places(origins, patch))
    for start in range(0, len(spots), AT_ONCE):
        part = spots[start : start + AT_ONCE]
        logits = network(np.stack([_taken(stack, spot) for spot in part]))
        if summed is None:
            summed = np.zeros((stack.shape[0], logits.shape[1], *stack.shape[2:]), np.float32)
        for spot, one in zip(part, logits, strict=True):
            summed[spot[0], :, spot[1], spot[2]] += np.moveaxis(one, 0, 1)
            count[spot[0], :, spot[1], spot[2]] += 1
    if summed is None:
        raise ValueError("there is no patch to read")
    return np.divide(summed, np.maximum(count, 1), out=summed)


def _taken(stack: NDArray[Any], place: Place) -> NDArray[Any]:
    """A patch (c, *patch) of a stack (D, c, H, W)."""
    return np.moveaxis(stack[place[0], :, place[1], place[2]], 1, 0)


@dataclass(frozen=True, eq=False)
class Patches:
    """N patches of a stack, read from it when they are asked for: of images (D, c, H, W) or of masks (D, H, W)."""

    stack: NDArray[Any]
    origins: NDArray[np.int64]
    """(N, 3)."""
    patch: Patch

    def __len__(self) -> int:
        return len(self.origins)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, c, *patch) or (N, *patch)."""
        return len(self.origins), *self.stack.shape[1:-2], *self.patch

    def __getitem__(self, chosen: NDArray[np.int64] | slice, /) -> NDArray[Any]:
        """Those of these numbers, (n, c, *patch) or (n, *patch)."""
        spots = places(self.origins[chosen], self.patch)
        taken = [self.stack[spot] if self.stack.ndim == 3 else _taken(self.stack, spot) for spot in spots]
        return np.stack(taken) if taken else np.empty((0, *self.shape[1:]), self.stack.dtype)
