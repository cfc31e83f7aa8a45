"""Enhanced DICOM: a whole scan in one multi-frame file, as newer MR and CT scanners write it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
from pydicom.dataset import Dataset

from imaging.dicom import LPS_TO_RAS
from imaging.dicom_header import quiet
from imaging.errors import InputError
from imaging.geometry import blank
from imaging.volume import Volume


@dataclass(frozen=True)
class DicomMultiframe:
    """One multi-frame file that holds one volume."""

    path: Path
    grid: Volume = field(compare=False, repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self) -> Volume:
        """The scan as float32, rescaled as the file says."""
        try:
            with quiet():
                volume = _image(self.path).get_volume(dtype=np.float32, apply_real_world_transform=False)
        except Exception as error:  # each decoder has errors of its own
            raise InputError(
                "the pixels are cut short or damaged", where=self.path, fix="export this file again"
            ) from error
        return Volume(volume.array, self.grid.affine, self.grid.modality)


def multiframe(path: Path, dataset: Dataset) -> DicomMultiframe:
    """A multi-frame file as a scan, from its header.

    Raises: InputError when its frames are not the evenly spaced slices of one volume.
    """
    try:
        with quiet():
            found = _image(path).get_volume_geometry(allow_duplicate_positions=False)
    except Exception as error:  # highdicom checks the whole header, and fails in many ways
        raise _unusable(path) from error
    if found is None or found.spatial_shape[0] < 2 or not np.isfinite(found.affine).all():
        raise _unusable(path)
    return DicomMultiframe(
        path, blank(found.spatial_shape, LPS_TO_RAS @ found.affine, str(dataset.get("Modality", "")))
    )


def _image(path: Path) -> Any:
    return highdicom.imread(path, lazy_frame_retrieval=True)


def _unusable(path: Path) -> InputError:
    return InputError(
        "a multi-frame file whose frames are not the evenly spaced slices of one volume",
        where=path,
        fix="export it as classic single-frame DICOM, each time point or echo as a series of its own",
    )
