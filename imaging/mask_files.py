"""A mask that a network made, as a file beside its scan: NIfTI on the scan's own grid, or a DICOM SEG of its series."""

from __future__ import annotations

import gzip
from importlib.metadata import version
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

from imaging.atomic import write_bytes
from imaging.dicom import DicomSeries
from imaging.dicom_header import quiet
from imaging.errors import InputError
from imaging.geometry import Source
from imaging.nifti import Nifti, opened

Labels = NDArray[np.uint8]


def write_mask(path: Path, labels: Labels, source: Source, *, classes: list[str], maker: str) -> None:
    """Write a mask (D, H, W) of class numbers on the voxels of `source`; the file's name says in which format.

    `classes` are the class names, background first; `maker` names the network in a DICOM SEG. The file is whole or
    not there. Raises: InputError for another suffix, or a SEG of a scan that is no DICOM series.
    """
    check_name(path)
    if path.suffix == ".dcm":
        write_bytes(path, segmentation(labels, source, classes=classes, maker=maker))
    else:
        body = nifti(labels, source)
        write_bytes(path, gzip.compress(body, mtime=0) if path.name.endswith(".gz") else body)


def check_name(path: Path) -> None:
    """InputError unless a mask can be written under that name."""
    if not path.name.endswith((".nii.gz", ".nii", ".dcm")):
        raise InputError("a mask is written as .nii.gz, .nii or .dcm (DICOM SEG)", where=path, fix="rename the output")


def nifti(labels: Labels, source: Source) -> bytes:
    """The bytes of an uncompressed NIfTI; beside a NIfTI scan its shape and both its affines with their codes are that
    file's own, and nothing else of its header: descriptions and extensions can name a patient.
    """
    array = labels.transpose(2, 1, 0)  # NIfTI counts columns first
    if not isinstance(source, Nifti):
        image = nib.Nifti1Image(array, source.grid.affine[:, [2, 1, 0, 3]])
        image.header.set_xyzt_units("mm")
        return bytes(image.to_bytes())
    with opened(source.path) as scan:
        header = type(scan.header)()
        header.set_data_dtype(np.uint8)
        header.set_data_shape(scan.shape)
        header.set_zooms(scan.header.get_zooms())
        header.set_xyzt_units(*scan.header.get_xyzt_units())
        for field in ("qform_code", "sform_code", *PLACE):
            header[field] = scan.header[field]
        header["pixdim"][0] = scan.header["pixdim"][0]  # the sign of the third axis
        image = type(scan)(array.reshape(scan.shape), None, header)
    return bytes(image.to_bytes())


PLACE = (
    "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip
"""Where a scan lies, in a NIfTI header."""


def segmentation(labels: Labels, source: Source, *, classes: list[str], maker: str) -> bytes:
    """The bytes of a binary DICOM SEG with a segment a foreground class, which refers to every image of the series.

    What de-identification took away stays away: empty where DICOM allows it. Raises: InputError where it does not.
    """
    if not isinstance(source, DicomSeries):
        fix = "write a .nii.gz, or predict from the series of single files"
        raise InputError("a DICOM SEG needs a DICOM series of single-frame files", where=source.files[0], fix=fix)
    try:
        with quiet():
            return _segmentation(labels, source, classes, maker)
    except (AttributeError, ValueError, TypeError) as error:  # highdicom's, for attributes that are missing or odd
        what = f"no DICOM SEG can refer to this series ({error})"
        raise InputError(what, where=source.files[0].parent, fix="write a .nii.gz") from error


def _segmentation(labels: Labels, source: DicomSeries, classes: list[str], maker: str) -> bytes:
    slices = [_completed(pydicom.dcmread(path, force=True), source) for path in source.files]
    seg = hd.seg.Segmentation(
        source_images=slices,
        pixel_array=labels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(n, name, maker) for n, name in enumerate(classes[1:], start=1)],
        series_instance_uid=hd.UID(),
        series_number=int(slices[0].get("SeriesNumber") or 0) + 1000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="Preceptor",
        manufacturer_model_name=maker[:64],
        software_versions=version("preceptor"),
        device_serial_number="0",
        series_description="Segmentation by a network, not reviewed",
        omit_empty_frames=bool(labels.any()),
    )
    buffer = pydicom.filebase.DicomBytesIO()
    seg.save_as(buffer, enforce_file_format=True)
    return bytes(buffer.getvalue())


MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""Attributes that every object must have and may leave empty (DICOM's type 2)."""


def _completed(dataset: pydicom.Dataset, source: DicomSeries) -> pydicom.Dataset:
    """A slice's header with what a SEG copies from it, in memory only."""
    for keyword in MAY_BE_EMPTY:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    if "SliceThickness" not in dataset:
        dataset.SliceThickness = round(source.grid.spacing_mm[0], 6)
    return dataset


def _segment(number: int, name: str, maker: str) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=_code(name),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            maker[:64], codes.cid7162.ArtificialIntelligence, version("preceptor")
        ),
    )


def _code(name: str) -> Any:
    """SNOMED's code of a structure by its name, such as right-ventricle; that of any structure where it has none."""
    keyword = "".join(part.capitalize() for part in name.replace("_", "-").split("-"))
    return getattr(codes.SCT, keyword) if keyword in dir(codes.SCT) else codes.SCT.AnatomicalStructure
