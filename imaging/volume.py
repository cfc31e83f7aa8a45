"""A scan or a mask with its place in the patient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray

AXIAL = "SPL"
"""Slices feet to head, rows front to back, columns right to left: the axial view as radiologists read it."""


@dataclass(frozen=True)
class Volume:
    """One scan or mask, slice by slice.

    `array` (D, H, W) is slices × rows × columns, with a fourth axis of channels where a scan has several; `affine`
    (4, 4) takes its index (k, i, j, 1) to millimetres in RAS+ (nibabel's and NIfTI's world). `modality` is DICOM's
    code ("MR", "CT", "SEG") or "" where the file does not say. `case` and `patient` are the site's own ids and never
    leave it.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    modality: str = ""
    case: str = ""
    patient: str = ""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbours in millimetres, along slices, rows and columns."""
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)

    @property
    def channels(self) -> int:
        """How many sequences lie in it, one on the other."""
        return self.array.shape[3] if self.array.ndim == 4 else 1

    @property
    def corners_mm(self) -> NDArray[np.float64]:
        """The eight corner voxels' centres, (8, 3), in RAS+ millimetres."""
        ends = [(0, n - 1) for n in self.array.shape[:3]]
        index = np.array([(*corner, 1) for corner in product(*ends)], dtype=np.float64)
        return (index @ self.affine.T)[:, :3]


def reorient(volume: Volume, axes: str = AXIAL) -> Volume:
    """The same scan with its axes flipped and swapped, without interpolation, to point nearest to `axes`."""
    turn = ornt_transform(nib.io_orientation(volume.affine), axcodes2ornt(tuple(axes)))
    array = apply_orientation(volume.array, turn)
    affine = volume.affine @ inv_ornt_aff(turn, volume.array.shape[:3])
    return replace(volume, array=array, affine=affine)
