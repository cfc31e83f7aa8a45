"""Patches to train on: each lies about a voxel drawn from its case, of an organ or of any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.slice_parts import CachedCase
from imaging.windows import Patch


def crop_origins(
    outlines: NDArray[np.uint8],
    cases: Sequence[CachedCase],
    patch: Patch,
    random: np.random.Generator,
    *,
    foreground: float,
) -> NDArray[np.int64]:
    """Where a patch of each of these outlined cases begins in the masks (M, H, W) of all slices, (n, 3).

    With the chance `foreground` it lies about a voxel of an organ, else about any voxel of the scan; at the stack's
    border it is moved inside. Source: MONAI's RandCropByPosNegLabel, with any voxel in place of one of the background.
    """
    found = []
    for case in cases:
        mask = outlines[case.start : case.stop]
        centre = _of_organ(mask, random) if random.random() < foreground else _of_scan(case, random)
        begin = np.clip(centre - np.array(patch) // 2, 0, np.array(mask.shape) - patch)
        found.append(begin + np.array([case.start, 0, 0]))
    return np.array(found, np.int64)


def _of_organ(mask: NDArray[Any], random: np.random.Generator) -> NDArray[np.int64]:
    """A voxel of any organ; every one has the same chance."""
    places = np.flatnonzero(mask)  # milliseconds a scan, and nothing of it is kept
    return np.array(np.unravel_index(places[random.integers(len(places))], mask.shape))


def _of_scan(case: CachedCase, random: np.random.Generator) -> NDArray[np.int64]:
    """A voxel of the scan, not of the padding about it."""
    return np.array([random.integers(side.start, side.stop) for side in case.grid.box()])
