"""A DICOM SEG comes onto its scan's voxels by geometry, or is one clear problem."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from imaging.cohort import Case, inspect
from imaging.errors import InputError
from imaging.volume import Volume

if TYPE_CHECKING:
    from tests.imaging.conftest import Dicom

REVERSED = (-0.96, -0.28, 0.0, -0.168, 0.576, -0.8)
"""The conftest's oblique orientation with its rows read from the other end, and so its slices from the other side."""


@pytest.fixture
def labels() -> NDArray[np.uint8]:
    """Two organs in the middle slices of 11 × 5 × 7 voxels."""
    mask = np.zeros((11, 5, 7), np.uint8)
    mask[3:6, 1:3, 2:6] = 1
    mask[5:8, 3:4, 2:6] = 2
    return mask


def labelled(folder: Path) -> Case:
    found = inspect(folder)
    assert not found.problems
    (case,) = found.cases
    return case


def mask_of(case: Case) -> Volume:
    mask = case.read_mask()
    assert mask is not None
    return mask


def problem(folder: Path) -> str:
    """The one problem of a folder whose scan stays, without a mask."""
    found = inspect(folder)
    assert len(found.problems) == 1
    assert all(case.mask is None for case in found.cases)
    return f"{found.problems[0].what}; {found.problems[0].fix}"


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segment_numbers_are_class_values_on_the_scans_voxels(
    tmp_path: Path, dicom: Dicom, labels: NDArray[np.uint8], kind: str
) -> None:
    dicom.seg(tmp_path / "seg", dicom.series(tmp_path / "scan"), labels, kind=kind)
    mask = mask_of(labelled(tmp_path))
    image = labelled(tmp_path).read_image()
    assert mask.array.dtype == np.uint8
    assert_array_equal(mask.array, labels)
    assert_array_equal(mask.affine, image.affine)


def test_a_seg_of_some_slices_in_any_order_finds_its_place(
    tmp_path: Path, dicom: Dicom, labels: NDArray[np.uint8]
) -> None:
    written = dicom.series(tmp_path / "scan")
    labels[4:7] = 0  # slices 3 and 7 stay, with a gap between them
    chosen = [7, 3]
    dicom.seg(tmp_path / "seg", [written[k] for k in chosen], labels[chosen])
    assert_array_equal(mask_of(labelled(tmp_path)).array, labels)


def test_a_seg_with_its_axes_the_other_way_round_is_turned(
    tmp_path: Path, dicom: Dicom, labels: NDArray[np.uint8]
) -> None:
    dicom.series(tmp_path / "scan")
    turned = type(dicom)()
    row, _ = np.array(REVERSED).reshape(2, 3)
    turned.origin = tuple(np.array(dicom.origin) - row * 0.9 * 6)
    mirrored = turned.series(tmp_path / "elsewhere", orientation=REVERSED, step=-3.0)
    dicom.seg(tmp_path / "scan" / "seg", mirrored, labels[:, :, ::-1])
    assert_array_equal(mask_of(labelled(tmp_path / "scan")).array, labels)


def test_two_series_each_get_the_seg_that_names_them(tmp_path: Path, dicom: Dicom, labels: NDArray[np.uint8]) -> None:
    for name, mask in (("one", labels), ("two", np.roll(labels, 1, axis=1))):
        dicom.seg(tmp_path / f"{name}.seg", dicom.series(tmp_path / name, patient=name), mask)
    one, two = inspect(tmp_path).cases
    assert_array_equal(mask_of(one).array, labels)
    assert_array_equal(mask_of(two).array, np.roll(labels, 1, axis=1))


def test_overlapping_segments_are_refused(tmp_path: Path, dicom: Dicom, labels: NDArray[np.uint8]) -> None:
    stacked = np.stack([labels > 0, labels > 1], axis=-1).astype(np.uint8)
    dicom.seg(tmp_path / "seg", dicom.series(tmp_path / "scan"), stacked)
    assert problem(tmp_path).startswith("segments of the mask overlap: which class such a voxel has cannot be told;")


def test_a_probability_map_is_refused(tmp_path: Path, dicom: Dicom, labels: NDArray[np.uint8]) -> None:
    dicom.seg(tmp_path / "seg", dicom.series(tmp_path / "scan"), (labels == 1) * 0.7, kind="FRACTIONAL")
    assert "probabilities, not classes; export it as a binary SEG" in problem(tmp_path)


def test_a_seg_on_another_grid_than_the_series_it_names(
    tmp_path: Path, dicom: Dicom, labels: NDArray[np.uint8]
) -> None:
    written = dicom.series(tmp_path / "scan")
    for dataset in written:
        dataset.PixelSpacing = [0.8, 0.9]
    dicom.seg(tmp_path / "seg", written, labels)
    assert problem(tmp_path).startswith(
        "the mask lies on another grid than its scan (3 × 0.8 × 0.9 mm voxels, the scan"
    )


def test_a_seg_on_slices_that_the_series_lacks(tmp_path: Path, dicom: Dicom, labels: NDArray[np.uint8]) -> None:
    dicom.seg(tmp_path / "seg", dicom.series(tmp_path / "scan"), labels)
    for number in (7, 8, 9, 10, 11):
        (tmp_path / "scan" / f"{number:03}.dcm").unlink()
    assert problem(tmp_path).startswith("the mask holds 2 slices that the scan does not have;")


def test_a_seg_of_a_scan_that_is_put_aside_says_so(tmp_path: Path, dicom: Dicom, labels: NDArray[np.uint8]) -> None:
    dicom.seg(tmp_path / "seg", dicom.series(tmp_path / "scan"), labels)
    (tmp_path / "scan" / "006.dcm").unlink()
    found = inspect(tmp_path)
    assert not found.cases
    first, second = (one.what for one in found.problems)
    assert first.endswith("slice 6 is missing")
    assert second == "the scan that this mask was drawn on cannot be used"


def test_a_seg_without_its_scan(tmp_path: Path, dicom: Dicom, labels: NDArray[np.uint8]) -> None:
    dicom.seg(tmp_path / "seg", dicom.series(tmp_path / "scan"), labels)
    for path in (tmp_path / "scan").iterdir():
        path.unlink()
    assert problem(tmp_path).startswith("a mask without any scan; put the scan that it was drawn on into the folder")


def test_a_seg_of_another_patient_on_the_same_grid(tmp_path: Path, dicom: Dicom, labels: NDArray[np.uint8]) -> None:
    (tmp_path / "scans").mkdir()
    dicom.seg(tmp_path / "scans" / "seg", dicom.series(tmp_path / "elsewhere", patient="Doe"), labels)
    dicom.series(tmp_path / "scans" / "series", patient="Roe")
    assert problem(tmp_path / "scans").startswith("the scans on this mask's grid are named for other cases;")


def test_an_empty_seg(tmp_path: Path, dicom: Dicom, labels: NDArray[np.uint8]) -> None:
    path = tmp_path / "seg"
    dicom.seg(path, dicom.series(tmp_path / "scan"), labels)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(path)
    assert problem(tmp_path).startswith("the mask is empty")


@pytest.mark.parametrize("left", [300, 900, -5])
def test_a_truncated_seg(tmp_path: Path, dicom: Dicom, labels: NDArray[np.uint8], left: int) -> None:
    path = tmp_path / "seg"
    dicom.seg(path, dicom.series(tmp_path / "scan"), labels)
    path.write_bytes(path.read_bytes()[:left])
    found = inspect(tmp_path)
    assert [case.mask for case in found.cases] == [None]
    assert [one.where for one in found.problems] == [path]


def test_more_segments_than_the_study_has_classes(tmp_path: Path, dicom: Dicom, labels: NDArray[np.uint8]) -> None:
    dicom.seg(tmp_path / "seg", dicom.series(tmp_path / "scan"), labels)
    assert inspect(tmp_path, classes=3).cases[0].mask is not None
    found = inspect(tmp_path, classes=2)
    assert found.cases[0].mask is None
    assert found.problems[0].what == "the mask holds class 2; the study's classes are 0 to 1"


def test_a_mask_replaced_after_the_folder_was_read(tmp_path: Path, dicom: Dicom, labels: NDArray[np.uint8]) -> None:
    written = dicom.series(tmp_path / "scan")
    dicom.seg(tmp_path / "seg", written, labels)
    case = labelled(tmp_path)
    for dataset in written:
        dataset.ImagePositionPatient = list(np.array(dataset.ImagePositionPatient) + np.array([0.4, 0, 0]))
    dicom.seg(tmp_path / "seg", written, labels)
    with pytest.raises(InputError, match="another grid than its scan") as raised:
        case.read_mask()
    assert raised.value.where == tmp_path / "seg"


def test_contours_are_named_as_not_used_yet(real: Path) -> None:
    found = inspect(real / "dicom_rtstruct" / "mock_data")
    assert [case.mask for case in found.cases] == [None]
    assert {(one.what, one.fix) for one in found.problems} == {
        (
            "contours (RTSTRUCT) are not used yet",
            "convert them to DICOM SEG or NIfTI, for example with 3D Slicer",
        )
    }
    assert inspect(real / "dicom_rtstruct" / "empty").cases == ()


def test_a_real_seg_lies_on_its_liver(real: Path) -> None:
    found = inspect(real / "dicom_seg")
    assert [one.what for one in found.problems] == [
        "segments of the mask overlap: which class such a voxel has cannot be told"
    ]
    (case,) = found.cases
    image, mask = case.read_image(), mask_of(case)
    inside: Any = image.array[mask.array == 1]
    assert (mask.array == 1).sum() == 107098  # as highdicom counts them
    assert 30 < np.median(inside) < 70  # HU of a liver
    assert np.median(image.array[mask.array == 0]) < -500
