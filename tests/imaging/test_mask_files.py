"""Masks that leave beside their scans: what is written is read again on the scan's own voxels."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from imaging.cohort import inspect
from imaging.errors import InputError
from imaging.mask_files import write_mask
from imaging.nifti import read_nifti
from imaging.phantom_files import series
from imaging.volume import Volume, reorient

CLASSES = ["background", "right-ventricle", "myocardium"]


def scan(affine: NDArray[np.float64]) -> Volume:
    rng = np.random.default_rng(0)
    return Volume(rng.normal(300, 50, (7, 13, 11)).astype(np.float32), affine, "MR")


def some_labels() -> NDArray[np.uint8]:
    labels = np.zeros((7, 13, 11), np.uint8)
    labels[2:5, 3:9, 2:6], labels[3:6, 5:11, 6:9] = 1, 2
    return labels


def tilted() -> NDArray[np.float64]:
    angle = np.deg2rad(17)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 0, -0.7], [0, -0.8, 0], [3.0, 0, 0]])
    affine[:3, 3] = (11, -7, 5)
    return affine


@pytest.mark.parametrize("axes", ["SPL", "IPL", "SAL", "RSP", "PIR", "LAS"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_nifti_mask_lies_on_its_scan_whatever_its_axes(axes: str, suffix: str, tmp_path: Path) -> None:
    image, mask = reorient(scan(tilted()), axes), reorient(Volume(some_labels(), tilted()), axes)
    path, out = tmp_path / "scan.nii.gz", tmp_path / f"mask{suffix}"
    nib.save(nib.Nifti1Image(image.array.transpose(2, 1, 0), image.affine[:, [2, 1, 0, 3]]), path)
    source, _ = read_nifti(path)
    write_mask(out, mask.array, source, classes=CLASSES, maker="test")
    theirs, ours = nib.Nifti1Image.from_filename(path), nib.Nifti1Image.from_filename(out)
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    assert (ours.shape, ours.get_data_dtype()) == (theirs.shape, np.uint8)
    np.testing.assert_array_equal(np.asarray(ours.dataobj), mask.array.transpose(2, 1, 0))
    assert [case.labelled for case in inspect(tmp_path).cases] == [True]


@pytest.mark.parametrize("descending", [False, True])
def test_a_dicom_seg_names_its_series_and_is_found_again(descending: bool, tmp_path: Path) -> None:
    slices = series(scan(tilted()), organ="prostate", note="test", tags=TAGS)
    for number, data in enumerate(reversed(slices) if descending else slices):
        data.InstanceNumber = number + 1
        data.save_as(tmp_path / f"{number * 7 % 11:02d}.dcm", enforce_file_format=True)
    [case] = inspect(tmp_path).cases
    labels = some_labels()
    own = labels if np.allclose(case.image.grid.affine, tilted(), atol=1e-3) else labels[::-1]
    write_mask(tmp_path / "seg.dcm", np.ascontiguousarray(own), case.image, classes=CLASSES, maker="study: amtkd")
    [case] = inspect(tmp_path).cases
    mask = case.read_mask()
    assert mask is not None
    np.testing.assert_array_equal(mask.array, own)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == CLASSES[1:]
    assert seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Right ventricle"
    assert seg.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Anatomical Structure"
    referred = {one.ReferencedSOPInstanceUID for one in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referred == {data.SOPInstanceUID for data in slices}
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == slices[0].SeriesInstanceUID


def test_a_seg_in_which_nothing_was_found_can_be_written(tmp_path: Path) -> None:
    for number, data in enumerate(series(scan(tilted()), organ="prostate", note="test", tags=TAGS)):
        data.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    [case] = inspect(tmp_path).cases
    write_mask(tmp_path / "seg.dcm", np.zeros((7, 13, 11), np.uint8), case.image, classes=CLASSES, maker="m")
    assert not pydicom.dcmread(tmp_path / "seg.dcm").pixel_array.any()


@pytest.mark.parametrize("gone", ["PatientBirthDate", "PatientID", "StudyDate", "AccessionNumber", "SliceThickness"])
def test_a_series_without_what_de_identification_takes_away_gets_its_seg(gone: str, tmp_path: Path) -> None:
    for number, data in enumerate(series(scan(tilted()), organ="prostate", note="test", tags=TAGS)):
        delattr(data, gone)
        data.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    [case] = inspect(tmp_path).cases
    write_mask(tmp_path / "seg.dcm", some_labels(), case.image, classes=CLASSES, maker="m")
    assert pydicom.dcmread(tmp_path / "seg.dcm").get(gone, "") == ""


def test_a_series_that_no_seg_can_refer_to_is_told(tmp_path: Path) -> None:
    for number, data in enumerate(series(scan(tilted()), organ="prostate", note="test", tags=TAGS)):
        del data.FrameOfReferenceUID
        data.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    [case] = inspect(tmp_path).cases
    with pytest.raises(InputError, match=r"no DICOM SEG can refer to this series .*; write a .nii.gz"):
        write_mask(tmp_path / "seg.dcm", some_labels(), case.image, classes=CLASSES, maker="m")
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_scan_is_taken_by_its_content_and_names_nobody_in_the_mask(kind: Any, zipped: bool, tmp_path: Path) -> None:
    image = kind(np.random.default_rng(0).normal(size=(11, 13, 7)), np.diag([-0.7, 0.8, 3, 1]))
    image.header["descrip"] = b"DOE^JANE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE"))
    image.set_sform(np.diag([-0.7, 0.8, 3, 1]), code=1)
    path, body = tmp_path / ("scan.nii" if zipped else "scan.nii.gz"), image.to_bytes()
    path.write_bytes(gzip.compress(body) if zipped else body)
    source, _ = read_nifti(path)
    write_mask(tmp_path / "mask.nii", some_labels(), source, classes=CLASSES, maker="m")
    assert b"DOE" not in (tmp_path / "mask.nii").read_bytes()
    found = kind.from_filename(tmp_path / "mask.nii")
    np.testing.assert_allclose(found.affine, image.affine)
    assert int(found.header["sform_code"]) == 1


def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(11, 13, 7)), np.eye(4)), path)
    source, _ = read_nifti(path)
    with pytest.raises(InputError, match=r"mask.txt: a mask is written as .nii.gz, .nii or .dcm"):
        write_mask(tmp_path / "mask.txt", some_labels(), source, classes=CLASSES, maker="m")
    with pytest.raises(InputError, match=r"a DICOM SEG needs a DICOM series of single-frame files; write a .nii.gz"):
        write_mask(tmp_path / "mask.dcm", some_labels(), source, classes=CLASSES, maker="m")
    assert [one.name for one in tmp_path.iterdir()] == ["scan.nii.gz"]


TAGS: dict[str, Any] = {}
