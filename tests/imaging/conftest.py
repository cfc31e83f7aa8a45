"""DICOM series and SEGs as a scanner and a workstation write them, small and odd-sized."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid

OBLIQUE = (0.96, 0.28, 0.0, -0.168, 0.576, -0.8)
"""Row and column cosines at right angles, turned about two axes."""
SHAPE = (5, 7)


class Dicom:
    """Writes series; every value of a voxel tells where it lies: 100 × slice + 10 × row + column."""

    origin = (-31.0, 17.0, 5.0)
    spacing = (0.7, 0.9)

    def series(
        self,
        folder: Path,
        count: int = 11,
        step: float = 3.0,
        orientation: Sequence[float] = OBLIQUE,
        *,
        first: float = 0.0,
        patient: str = "Patient-7",
        series: str | None = None,
        shift: Sequence[float] = (0, 0, 0),
        **tags: Any,
    ) -> list[Dataset]:
        """`count` slices along the normal, `step` mm apart, as 001.dcm, 002.dcm, …; the datasets as written."""
        folder.mkdir(parents=True, exist_ok=True)
        series = series or generate_uid()
        row, column = np.array(orientation).reshape(2, 3)
        written = []
        for k in range(count):
            position = np.array(self.origin) + (first + k * step) * np.cross(row, column) + k * np.array(shift)
            dataset = self.slice(k, position, orientation, patient=patient, series=series)
            for name, value in tags.items():
                setattr(dataset, name, value(k) if callable(value) else value)
            dataset.save_as(folder / f"{k + 1:03}.dcm", enforce_file_format=True)
            written.append(dataset)
        return written

    def slice(
        self, k: int, position: NDArray[np.float64], orientation: Sequence[float], *, patient: str, series: str
    ) -> Dataset:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.Modality, dataset.PatientID, dataset.PatientName = "MR", patient, "Doe^Jane"
        dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
        dataset.StudyDate = dataset.StudyTime = dataset.StudyID = ""
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[series, "study"]), UID(series)
        dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[series, "frame"])
        dataset.SeriesNumber, dataset.InstanceNumber = 3, k + 1
        dataset.Rows, dataset.Columns = SHAPE
        dataset.PixelSpacing, dataset.SliceThickness = list(self.spacing), 2.5
        dataset.ImageOrientationPatient = [float(x) for x in orientation]
        dataset.ImagePositionPatient = [round(float(x), 6) for x in position]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        i, j = np.indices(SHAPE)
        dataset.PixelData = (100 * k + 10 * i + j).astype("<u2").tobytes()
        return dataset

    def seg(
        self,
        path: Path,
        source: Sequence[Dataset],
        mask: NDArray[Any],
        *,
        kind: str = "BINARY",
        **tags: Any,
    ) -> None:
        """A SEG drawn on `source`; `mask` (D, H, W) class values, or (D, H, W, segments) where they may overlap."""
        numbers = range(1, (mask.shape[3] if mask.ndim == 4 else int(np.ceil(mask.max()))) + 1)
        descriptions = [
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=f"organ {number}",
                segmented_property_category=codes.SCT.Organ,
                segmented_property_type=codes.SCT.Prostate,
                algorithm_type="MANUAL",
            )
            for number in numbers
        ]
        seg = hd.seg.Segmentation(
            list(source),
            mask,
            segmentation_type=kind,
            segment_descriptions=descriptions,
            series_instance_uid=generate_uid(),
            series_number=9,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="none",
            manufacturer_model_name="none",
            software_versions="1",
            device_serial_number="1",
        )
        for name, value in tags.items():
            setattr(seg, name, value)
        seg.save_as(path)


@pytest.fixture
def dicom() -> Dicom:
    return Dicom()


@pytest.fixture(scope="session")
def real() -> Path:
    """Real scans beside the checkout; skipped where there are none."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("PRECEPTOR_REAL_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no real scans: neither ../shared/data nor PRECEPTOR_REAL_DATA")
    return folder


def edit(path: Path, **tags: Any) -> None:
    """Change a file's header."""
    dataset = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path)
