"""A student that is ready to read scans, whatever its network runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.preprocess import Preprocess, Sampled, sample, to_native
from imaging.volume import Volume
from imaging.windows import Place, blended, windows
from study.student import Leaflet

BATCH = 16
"""Slices at once."""


def whole(
    network: Callable[[NDArray[Any]], NDArray[np.float32]],
    images: NDArray[Any],
    plan: Preprocess,
    box: Place | None = None,
) -> NDArray[np.float32]:
    """Logits (N, C, H, W) of a whole case's slices (N, c, H, W), `BATCH` at a time, or patch by patch (`logits_of`).

    `network` gives logits (n, C, *shape) of images (n, c, *shape).
    """
    if plan.patch is None:
        return np.concatenate([network(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])
    size = len(images), images.shape[2], images.shape[3]
    place = box or (slice(0, size[0]), slice(0, size[1]), slice(0, size[2]))
    return blended(network, images, windows(place, size, plan.patch, plan.overlap), plan.patch)


@dataclass(frozen=True)
class Reader:
    """A student's leaflet, and its network as a function of a scan's own intensities."""

    leaflet: Leaflet
    logits: Callable[[Sampled], NDArray[np.float32]]
    """Logits (N, C, H, W) of the slices of one whole scan."""

    @property
    def plan(self) -> Preprocess:
        """How a scan is prepared for it."""
        return Preprocess.model_validate(self.leaflet.preprocess)

    def labels(self, image: Volume) -> NDArray[np.uint8]:
        """Class numbers (D, H, W) on the scan's own voxels; InputError where the scan cannot be prepared."""
        sampled = sample(image, self.plan)
        return to_native(self.logits(sampled), sampled.grid)
