"""Masks as DICOM SEG; a segment's number is its class value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from highdicom.seg import SegmentationTypeValues, segread
from pydicom.dataset import Dataset

from imaging.dicom import LPS_TO_RAS
from imaging.dicom_header import quiet
from imaging.errors import InputError
from imaging.geometry import blank
from imaging.volume import Volume


@dataclass(frozen=True)
class DicomSeg:
    """One DICOM SEG. It may hold some of its scan's slices only: `imaging.geometry.onto` puts it in place."""

    path: Path
    grid: Volume = field(compare=False, repr=False)
    series: str
    """SeriesInstanceUID of the scan it was drawn on, "" where it does not say."""

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self) -> Volume:
        """Class values, uint8 (D, H, W), on the SEG's own grid.

        Raises: InputError when the file is damaged, holds probabilities, or two segments claim one voxel: which of
        them is meant cannot be told (the higher number would be a guess), so it is not guessed.
        """
        volume = _labels(self.path)
        return Volume(volume.array, LPS_TO_RAS @ volume.affine, "SEG")


def dicom_seg(path: Path, dataset: Dataset) -> tuple[DicomSeg, tuple[int, ...]]:
    """A SEG as a mask, and the values in it; read once, since overlaps show only in the pixels."""
    volume = _labels(path)
    values = tuple(int(value) for value in np.unique(volume.array))
    referenced = dataset.get("ReferencedSeriesSequence") or [Dataset()]
    grid = blank(volume.array.shape, LPS_TO_RAS @ volume.affine, "SEG")
    return DicomSeg(path, grid, str(referenced[0].get("SeriesInstanceUID", ""))), values


def _labels(path: Path) -> Any:
    """The volume of class values as highdicom reads it, in LPS."""
    try:
        with quiet():
            seg = segread(path)
            if max(seg.segment_numbers) > 254:
                raise InputError("the mask has segment numbers above 254", where=path, fix="number the segments from 1")
            if (
                seg.segmentation_type == SegmentationTypeValues.FRACTIONAL
                and seg.SegmentationFractionalType == "PROBABILITY"
            ):
                raise InputError(
                    "the mask holds probabilities, not classes", where=path, fix="export it as a binary SEG"
                )
            return seg.get_volume(combine_segments=True, dtype=np.uint8)
    except InputError:
        raise
    except RuntimeError as error:
        if "overlap" not in str(error):
            raise _damaged(path) from error
        raise InputError(
            "segments of the mask overlap: which class such a voxel has cannot be told",
            where=path,
            fix="export the mask again with segments that do not overlap",
        ) from error
    except Exception as error:  # highdicom checks the whole header, and fails in many ways
        raise _damaged(path) from error


def _damaged(path: Path) -> InputError:
    return InputError(
        "the DICOM SEG is damaged, or its frames are not evenly spaced slices",
        where=path,
        fix="export the mask again, for example with 3D Slicer",
    )
