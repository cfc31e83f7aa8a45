"""What the header of one DICOM slice says; no pixels are read."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder

from imaging.errors import InputError

MARKS = (
    "EchoNumbers",
    "EchoTime",
    "ImageType",
    "TemporalPositionIdentifier",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "TriggerTime",
    "AcquisitionNumber",
)
"""What may tell several volumes of one series apart, the most telling first."""
MOST_MM = 1000.0
"""A pixel that is not smaller is a mistake."""
TAG_BYTES = 8
"""At least so many bytes name the pixels before they begin."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice's place, and what tells it from others; all of it from the header, in DICOM's LPS millimetres."""

    path: Path
    series: str
    patient: str
    modality: str
    instance: int | None
    """The slice's own number."""
    shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    orientation: tuple[float, ...]
    """Direction of a row and of a column, six cosines."""
    position: tuple[float, ...]
    step_mm: float | None
    """Distance to the next slice, or the slice's thickness, where the header says."""
    marks: tuple[str, ...]
    fault: str
    """What keeps the pixels from being read: compressed without a decoder here, or cut short; "" when nothing does."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence about odd but readable headers, which a site cannot mend: pydicom and highdicom warn of each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_header(path: Path) -> tuple[Dataset, int]:
    """A file's header, and how many bytes follow it: those of the pixels.

    Raises: InputError when the file is damaged or cannot be opened.
    """
    try:
        with path.open("rb") as file, quiet():
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            dataset.get("SeriesInstanceUID")
            return dataset, os.fstat(file.fileno()).st_size - file.tell()
    except OSError as error:
        raise InputError("the file cannot be opened", where=path, fix="check that you may read it") from error
    except Exception as error:  # a damaged header fails anywhere in the parser
        raise damaged_header(path) from error


def damaged_header(path: Path) -> InputError:
    return InputError("the DICOM header is damaged or cut short", where=path, fix="export this file again")


def slice_of(path: Path, dataset: Dataset, pixel_bytes: int) -> Slice:
    """The header of one single-frame image as a `Slice`.

    Raises: InputError when it is a colour image or has no place in the patient, as screenshots and radiographs.
    """
    monochrome = str(dataset.get("PhotometricInterpretation", "")).startswith("MONOCHROME")
    if dataset.get("SamplesPerPixel", 1) != 1 or not monochrome:
        raise InputError("a colour picture, not a slice of a scan", where=path, fix="nothing, if it is a screenshot")
    try:
        with quiet():
            return Slice(
                path=path,
                series=str(dataset.get("SeriesInstanceUID", "")),
                patient=str(dataset.get("PatientID") or ""),
                modality=str(dataset.get("Modality", "")),
                instance=_instance(dataset),
                shape=(int(dataset.Rows), int(dataset.Columns)),
                spacing_mm=_spacing_mm(dataset),
                orientation=_orientation(dataset),
                position=_position(dataset),
                step_mm=_step_mm(dataset),
                marks=tuple(str(dataset.get(mark, "")) for mark in MARKS),
                fault=_fault(dataset, pixel_bytes),
            )
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            "an image whose header gives no usable position, orientation or pixel spacing in the patient",
            where=path,
            fix="export the original axial, sagittal or coronal series; nothing, if it is a radiograph or a screenshot",
        ) from error


def patient_of(dataset: Dataset) -> str:
    """PatientID; where it is empty a word for the study, since the scans of one study are one patient's."""
    study = str(dataset.get("StudyInstanceUID") or "").encode()
    return str(dataset.get("PatientID") or "").strip() or f"unnamed-{hashlib.sha256(study).hexdigest()[:8]}"


def _instance(dataset: Dataset) -> int | None:
    """The slice's own number, which helps to name it; its place does not depend on it."""
    try:
        return int(dataset.InstanceNumber)
    except (AttributeError, TypeError, ValueError):
        return None


def _spacing_mm(dataset: Dataset) -> tuple[float, float]:
    rows, columns = (float(x) for x in dataset.PixelSpacing)
    if not (MOST_MM > rows > 0 and MOST_MM > columns > 0):  # NaN too
        raise ValueError("pixels have a size")
    return rows, columns


def _position(dataset: Dataset) -> tuple[float, ...]:
    x, y, z = (float(x) for x in dataset.ImagePositionPatient)
    if not np.isfinite((x, y, z)).all():
        raise ValueError("a position is three numbers")
    return x, y, z


def _orientation(dataset: Dataset) -> tuple[float, ...]:
    cosines = np.array([float(x) for x in dataset.ImageOrientationPatient]).reshape(2, 3)
    if not np.allclose(cosines @ cosines.T, np.eye(2), atol=0.01):
        raise ValueError("row and column are not two unit vectors at right angles")
    return tuple(cosines.ravel())


def _step_mm(dataset: Dataset) -> float | None:
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        value = dataset.get(name)
        if value not in (None, "") and 0 < abs(float(value)) < MOST_MM:
            return abs(float(value))
    return None


def _fault(dataset: Dataset, pixel_bytes: int) -> str:
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is not None and syntax.is_encapsulated:
        try:
            return "" if get_decoder(syntax).is_available else f"compressed as {syntax.name}"
        except NotImplementedError:
            return f"compressed as {syntax.name}"
    if syntax is not None and syntax.is_deflated:
        return ""
    frame = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8
    return "" if pixel_bytes - TAG_BYTES >= frame else "cut short"
