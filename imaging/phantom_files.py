"""Made scans as a hospital would store them: a DICOM series with a DICOM SEG, or a pair of NIfTI files.

Everything in the files follows from the case (UIDs too, of the form 2.25.<number>), and each says that it is synthetic.
"""

from __future__ import annotations

import gzip
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from imaging.atomic import write_text
from imaging.errors import InputError
from imaging.volume import Volume

DATE, TIME = "20240101", "120000"
SYNTHETIC = "SYNTHETIC PHANTOM"
ROOT = uuid.UUID("6f1d8f2c-4c43-4a53-9f0c-8b6f5f1c0c11")
"""Namespace of our UIDs."""
ORGANS = {"prostate": codes.SCT.Prostate, "spleen": codes.SCT.Spleen}


def uid(*parts: object) -> str:
    """A DICOM UID that is the same for the same parts (PS3.5 B.2: 2.25 and a UUID as one number)."""
    return f"2.25.{uuid.uuid5(ROOT, '/'.join(str(part) for part in parts)).int}"


def claim(folder: Path, name: str, manifest: dict[str, Any]) -> None:
    """See that a folder is ours to write scans in, clear what a kill left half-written, and write its manifest.

    Raises: InputError where it holds something else, or scans of another manifest.
    """
    fix = "name another folder, or empty this one"
    path = folder / name
    if folder.exists() and not folder.is_dir():
        raise InputError("is no folder", where=folder, fix=fix)
    if path.exists():
        if json.loads(path.read_text()) != manifest:
            raise InputError("holds scans that were made otherwise", where=folder, fix=fix)
    elif folder.exists() and any(folder.iterdir()):
        raise InputError("holds files that were not made here", where=folder, fix=fix)
    for half in filter(Path.is_dir, folder.glob(".*.tmp")):
        shutil.rmtree(half)
    write_text(path, json.dumps(manifest, indent=1) + "\n")


def write_nifti(folder: Path, image: Volume, mask: Volume | None, *, note: str) -> None:
    """`image.nii.gz`, and `mask.nii.gz` where there is one, in a new folder."""
    folder.mkdir(parents=True)
    for name, volume in (("image", image), *([("mask", mask)] if mask else [])):
        affine = volume.affine[:, [2, 1, 0, 3]]  # NIfTI counts columns first
        nifti = nib.Nifti1Image(volume.array.transpose(2, 1, 0), affine)
        nifti.header.set_xyzt_units("mm")
        nifti.header["descrip"] = note.encode()[:79]
        (folder / f"{name}.nii.gz").write_bytes(gzip.compress(nifti.to_bytes(), compresslevel=1, mtime=0))


def write_dicom(folder: Path, image: Volume, mask: Volume, *, organ: str, note: str, tags: dict[str, Any]) -> None:
    """`scan/0001.dcm` … feet to head and `seg.dcm`, which refers to them, in a new folder."""
    (folder / "scan").mkdir(parents=True)
    slices = series(image, organ=organ, note=note, tags=tags)
    for number, data in enumerate(slices, start=1):
        data.save_as(folder / "scan" / f"{number:04d}.dcm", enforce_file_format=True)
    segmentation(slices, mask.array, organ=organ, note=note).save_as(folder / "seg.dcm", enforce_file_format=True)


def series(image: Volume, *, organ: str, note: str, tags: dict[str, Any]) -> list[Dataset]:
    """One DICOM image a slice, MR or CT by the volume's modality; lengths in mm, patient axes as DICOM's (LPS)."""
    to_lps = np.diag([-1.0, -1.0, 1.0])
    steps = to_lps @ image.affine[:3, :3]
    spacing = image.spacing_mm
    slices = []
    for k in range(image.array.shape[0]):
        data = _study(image, note=note)
        data.SeriesDescription = f"{SYNTHETIC} {organ} {image.modality}"
        data.SOPInstanceUID = uid(image.case, "image", k)
        data.InstanceNumber = k + 1
        data.ImagePositionPatient = _decimals(to_lps @ image.affine[:3] @ [k, 0, 0, 1])
        data.ImageOrientationPatient = _decimals([*steps[:, 2] / spacing[2], *steps[:, 1] / spacing[1]])
        data.PixelSpacing = _decimals(spacing[1:])
        data.SliceThickness = data.SpacingBetweenSlices = _decimals(spacing[:1])[0]
        _pixels(data, image.array[k], image.modality)
        for keyword, value in tags.items():
            setattr(data, keyword, value)
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slices.append(data)
    return slices


def _study(image: Volume, *, note: str) -> Dataset:
    """Patient, study, series, frame of reference and equipment, as every image of the series repeats them."""
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.PatientName, data.PatientID = f"Phantom^{image.patient}", image.patient
    data.PatientBirthDate = data.PatientSex = data.AccessionNumber = data.ReferringPhysicianName = ""
    data.QualityControlSubject, data.QualityControlImage = "YES", "YES"
    data.ImageComments = f"{SYNTHETIC}, no patient: {note}"
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = DATE
    data.StudyTime = data.SeriesTime = data.AcquisitionTime = data.ContentTime = TIME
    data.StudyID, data.StudyDescription, data.SeriesNumber, data.AcquisitionNumber = "1", SYNTHETIC, 1, 1
    data.StudyInstanceUID, data.SeriesInstanceUID = uid(image.case, "study"), uid(image.case, "series")
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = uid(image.case, "frame"), ""
    data.Manufacturer, data.ManufacturerModelName, data.SoftwareVersions = "Preceptor", "phantom", "1"
    data.Modality, data.PatientPosition = image.modality, "HFS"
    return data


def _pixels(data: Dataset, pixels: NDArray[np.int16], modality: str) -> None:
    """Stored values, unsigned 16 bit; CT counts from -1024 HU."""
    offset = -1024 if modality == "CT" else 0
    if modality == "CT":
        data.SOPClassUID, data.ImageType = CTImageStorage, ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.RescaleIntercept, data.RescaleSlope, data.RescaleType = offset, 1, "HU"
        data.WindowCenter, data.WindowWidth = 40, 400
    else:
        data.SOPClassUID, data.ImageType = MRImageStorage, ["ORIGINAL", "PRIMARY", "M", "SE"]
        data.ScanningSequence, data.SequenceVariant, data.ScanOptions, data.MRAcquisitionType = "SE", "SK", "", "2D"
        data.RepetitionTime, data.EchoTime, data.EchoTrainLength = 5000, 101, 21
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.PixelData = (pixels.astype(np.int32) - offset).astype("<u2").tobytes()


def segmentation(slices: list[Dataset], mask: NDArray[np.uint8], *, organ: str, note: str) -> hd.seg.Segmentation:
    """A binary DICOM SEG of one segment, (D, H, W), on those slices."""
    maker = hd.AlgorithmIdentificationSequence("Preceptor phantom", codes.cid7162.DeformableModels, "1")
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=organ,
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=ORGANS[organ],
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=maker,
    )
    frame = slices[0].FrameOfReferenceUID
    seg = hd.seg.Segmentation(
        source_images=slices,
        pixel_array=mask,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=uid(frame, "seg series"),
        series_number=2,
        sop_instance_uid=uid(frame, "seg"),
        instance_number=1,
        manufacturer="Preceptor",
        manufacturer_model_name="phantom",
        software_versions="1",
        device_serial_number="0",
        content_description=note[:64],
        series_description=f"{SYNTHETIC} {organ} mask",
    )
    settled = {
        "DimensionOrganizationUID": uid(frame, "dimensions"),
        "InstanceCreationDate": DATE,
        "InstanceCreationTime": TIME,
        "ContentDate": DATE,
        "ContentTime": TIME,
        "ContributionDateTime": DATE + TIME,
    }
    for (
        element
    ) in seg.iterall():  # highdicom stamps the clock and a random id, and the same case is to be the same bytes
        if element.keyword in settled:
            element.value = settled[element.keyword]
    return seg


def _decimals(values: Any) -> list[str]:
    """Numbers as DICOM decimal strings: at most 16 characters, exact to about 1e-9."""
    return [f"{float(value):.9f}".rstrip("0").rstrip(".") if value else "0" for value in values]
