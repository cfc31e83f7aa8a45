"""A student that is ready to read scans, whatever its network runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.preprocess import Preprocess, Sampled, sample, to_native
from imaging.volume import Volume
from study.student import Leaflet

BATCH = 16
"""Slices at once."""


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
