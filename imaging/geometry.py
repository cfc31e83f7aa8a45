"""Where a grid of voxels lies, and a mask put on its scan's own voxels by geometry alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from imaging.errors import InputError
from imaging.volume import Volume, reorient

TOLERANCE_MM = 0.25
"""How far the corners of a mask may lie from its scan's: half of a fine voxel. Quaternions in NIfTI headers, rounded
to 32 bits, move corners of a ProstateX scan by up to 0.06 mm."""


class Source(Protocol):
    """Files of one scan or mask; reads them when asked to."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that it reads, in the order of the slices."""

    @property
    def grid(self) -> Volume:
        """Its place, known from the headers: a volume without values."""

    def read(self) -> Volume:
        """Scan: float32; mask: uint8. InputError when a file is damaged."""


def blank(shape: tuple[int, ...], affine: NDArray[np.float64], modality: str = "") -> Volume:
    """A volume (D, H, W) of zeros that takes no memory: a place without values."""
    return Volume(np.broadcast_to(np.uint8(0), shape), affine, modality)


def onto(mask: Volume, scan: Volume) -> Volume:
    """The mask on the scan's voxels (its array's axes and affine): axes flipped and swapped, nothing interpolated.

    The mask may hold some of the scan's slices only, as a DICOM SEG does; it is 0 on the others.

    Raises: InputError when it does not lie on the scan's grid within `TOLERANCE_MM`, or holds slices that
    the scan lacks.
    """
    mask = reorient(mask, axes_of(scan))
    slices = _slices(mask, scan)
    array = np.zeros(scan.array.shape, mask.array.dtype)
    array[slices] = mask.array
    return replace(scan, array=array, modality=mask.modality)


def misfit(mask: Volume, scan: Volume) -> InputError | None:
    """Why `onto` would not take the mask; None where it would."""
    try:
        _slices(reorient(mask, axes_of(scan)), scan)
    except InputError as error:
        return error
    return None


def axes_of(volume: Volume) -> str:
    """Where its axes point, such as "SPL"."""
    return "".join(nib.aff2axcodes(volume.affine))


def _slices(mask: Volume, scan: Volume) -> NDArray[np.int64]:
    """Which slice of the scan each slice of the mask is, from where its four corners lie among the scan's voxels."""
    d, h, w = mask.array.shape
    corners = np.array([(k, i, j, 1) for k in range(d) for i in (0, h - 1) for j in (0, w - 1)], np.float64).T
    index = np.linalg.solve(scan.affine, mask.affine @ corners)
    target = np.vstack([np.rint(index[:1]), corners[1:]])
    apart_mm = float(np.linalg.norm((scan.affine @ (index - target))[:3], axis=0).max())
    slices: NDArray[np.int64] = target[0].reshape(d, 4).astype(np.int64)
    if (h, w) != scan.array.shape[1:] or apart_mm > TOLERANCE_MM or len(set(slices[:, 0])) < d:
        raise another_grid(difference(mask, scan) or f"up to {apart_mm:.1f} mm off the scan's voxels")
    outside = int(((slices[:, 0] < 0) | (slices[:, 0] >= len(scan.array))).sum())
    if outside:
        raise InputError(f"the mask holds {outside} slice{'s' * (outside > 1)} that the scan does not have", fix=REMEDY)
    return slices[:, 0]


REMEDY = "export the scan that the mask was drawn on, or resample the mask onto this scan's grid"


def another_grid(difference: str) -> InputError:
    """The error of a mask that lies elsewhere than its scan."""
    return InputError(f"the mask lies on another grid than its scan ({difference})", fix=REMEDY)


def difference(mask: Volume, scan: Volume) -> str:
    """In what two grids differ at first sight, the size of a slice or of a voxel; "" in neither."""
    mask = reorient(mask, axes_of(scan))
    if mask.array.shape[1:] != scan.array.shape[1:]:
        return f"{_times(mask.array.shape)} voxels, the scan {_times(scan.array.shape)}"
    if not np.allclose(mask.spacing_mm, scan.spacing_mm, rtol=0.01):
        return f"{_times(mask.spacing_mm)} mm voxels, the scan {_times(scan.spacing_mm)}"
    return ""


def _times(numbers: tuple[Any, ...]) -> str:
    return " × ".join(f"{number:g}" for number in np.round(numbers, 3))
