"""How far two grids lie apart, for tests."""

from __future__ import annotations

import numpy as np

from imaging.volume import Volume, reorient


def corner_distance_mm(a: Volume, b: Volume) -> float:
    """How far the corners of two grids lie apart at most, in millimetres, whatever the order of their axes.

    Infinite where the two hold different numbers of voxels along some axis.
    """
    a, b = reorient(a), reorient(b)
    if a.array.shape != b.array.shape:
        return float("inf")
    return float(np.linalg.norm(a.corners_mm - b.corners_mm, axis=1).max())
