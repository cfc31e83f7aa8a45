"""A NIfTI file is a scan or a mask by what is in it, and one clear error where it is damaged."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from imaging.cohort import inspect
from imaging.errors import InputError
from imaging.geometry import onto
from imaging.nifti import read_nifti
from imaging.volume import Volume, reorient
from tests.imaging.corners import corner_distance_mm

AFFINE = np.array([[0.7, 0.1, 0, -11], [-0.1, 0.8, 0, 23], [0, 0, 3, 5], [0, 0, 0, 1]])


def save(path: Path, array: Any, affine: Any = AFFINE, *, dtype: Any = None) -> Path:
    image = nib.Nifti1Image(np.asarray(array), affine)
    if dtype is not None:
        image.set_data_dtype(dtype)
    nib.save(image, path)
    return path


@pytest.fixture
def values() -> Any:
    return np.random.default_rng(1).gamma(2, 100, (7, 5, 3)).astype(np.float32)


@pytest.fixture
def labels() -> Any:
    mask = np.zeros((7, 5, 3), np.uint8)
    mask[2:5, 1:4, 1:] = 1
    mask[4, 3, 2] = 3
    return mask


def test_a_voxel_lies_where_nibabel_says(tmp_path: Path, values: Any) -> None:
    source, found = read_nifti(save(tmp_path / "scan.nii.gz", values))
    volume = source.read()
    assert not source.is_mask
    assert found == ()
    assert volume.array.shape == source.grid.array.shape == (3, 5, 7)
    for x, y, z in [(0, 0, 0), (6, 4, 2), (3, 1, 2)]:
        assert volume.array[z, y, x] == values[x, y, z]
        assert_allclose(volume.affine @ (z, y, x, 1), AFFINE @ (x, y, z, 1))
    assert_allclose(volume.affine, source.grid.affine)


@pytest.mark.parametrize(("value", "held"), [(-1, "-1, 0, 1, 3"), (np.nan, "0, 1, 3, nan")])
def test_a_mask_with_a_value_that_is_no_class_is_no_scan(tmp_path: Path, labels: Any, value: float, held: str) -> None:
    mask = labels.astype(np.float32)
    mask[0, 0, 0] = value
    save(tmp_path / "mask.nii.gz", mask)
    [problem] = inspect(tmp_path).problems
    assert problem.what == f"neither scan nor mask: it holds {held} only"


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_gzips_checksum_is_compared_when_a_scan_is_read(tmp_path: Path, values: Any, damage: str) -> None:
    path = save(tmp_path / "scan.nii.gz", values)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-6] ^= 0xFF  # of the checksum: the pixels cannot tell
    path.write_bytes(content if damage == "flipped" else content[:-6])
    source, _ = read_nifti(path)
    with pytest.raises(InputError, match="cut short or damaged"):
        source.read()


@pytest.mark.parametrize("slope", [0.5, 1 / 255])
def test_a_scaled_mask_is_taken_neither_for_a_scan_nor_for_a_mask(tmp_path: Path, labels: Any, slope: float) -> None:
    save(tmp_path / "mask.nii.gz", (labels * slope).astype(np.float32))
    [problem] = inspect(tmp_path).problems
    assert problem.what.startswith(f"neither scan nor mask: it holds 0, {slope:g}, {3 * slope:g} only")
    assert problem.fix == "save classes as whole numbers: 0, 1, 2"


@given(axes=st.permutations(range(3)), flips=st.tuples(*[st.sampled_from([-1, 1])] * 3))
def test_however_its_axes_point_it_is_the_same_scan(
    tmp_path_factory: pytest.TempPathFactory, axes: list[int], flips: tuple[int, ...]
) -> None:
    array = np.arange(7 * 5 * 3, dtype=np.float32).reshape(7, 5, 3)
    ornt = np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)])
    image = nib.Nifti1Image(array, AFFINE)
    folder = tmp_path_factory.mktemp("axes")
    nib.save(image, folder / "plain.nii")
    nib.save(image.as_reoriented(ornt), folder / "turned.nii")
    plain, turned = (read_nifti(folder / f"{name}.nii")[0].read() for name in ("plain", "turned"))
    assert corner_distance_mm(plain, turned) < 1e-4
    assert_array_equal(reorient(plain).array, reorient(turned).array)
    assert_array_equal(onto(turned, plain).array, plain.array)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, np.dtype(">i2")])
def test_whole_numbers_with_few_values_are_a_mask_in_any_type(tmp_path: Path, labels: Any, dtype: Any) -> None:
    source, found = read_nifti(save(tmp_path / "scan.nii.gz", labels.astype(dtype), dtype=dtype))
    assert source.is_mask
    assert found == (0, 1, 3)
    assert source.read().array.dtype == np.uint8
    assert_array_equal(source.read().array, labels.transpose(2, 1, 0))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a + np.arange(7).reshape(7, 1, 1) / 9,
        lambda a: np.arange(105, dtype=np.int16).reshape(7, 5, 3) - 9,
        lambda a: np.arange(105, dtype=np.uint8).reshape(7, 5, 3),
    ],
    ids=["fractions", "below zero", "105 values"],
)
def test_anything_else_is_a_scan_whatever_its_name(tmp_path: Path, labels: Any, change: Any) -> None:
    source, _ = read_nifti(save(tmp_path / "mask_seg_label.nii.gz", change(labels)))
    assert not source.is_mask


def test_an_8_bit_scan_with_few_grey_values_is_a_mask_only_up_to_the_studys_classes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.arange(105, dtype=np.uint8).reshape(7, 5, 3))
    assert not read_nifti(path)[0].is_mask
    assert read_nifti(path, most_labels=118)[0].is_mask


def test_the_headers_scale_is_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(105, dtype=np.int16).reshape(7, 5, 3), AFFINE)
    image.header.set_slope_inter(2, -1000)
    nib.save(image, tmp_path / "a.nii")
    assert_array_equal(read_nifti(tmp_path / "a.nii")[0].read().array.max(), 2 * 104 - 1000)


def test_metres_are_turned_to_millimetres(tmp_path: Path, values: Any) -> None:
    image = nib.Nifti1Image(values, np.diag([0.001, 0.001, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    assert_allclose(read_nifti(tmp_path / "a.nii")[0].grid.spacing_mm, (3, 1, 1))


def test_known_by_content_whatever_the_name(tmp_path: Path, values: Any, labels: Any) -> None:
    save(tmp_path / "scan.nii.gz", values).rename(tmp_path / "scan")
    (tmp_path / "mask.nii").write_bytes(gzip.compress(save(tmp_path / "m.nii", labels).read_bytes()))
    (tmp_path / "m.nii").unlink()
    nib.save(nib.Nifti2Image(values + 1, AFFINE + np.diag([0, 0, 1, 0])), tmp_path / "second.nii")
    found = inspect(tmp_path)
    assert not found.problems
    assert [(case.id, case.mask is not None) for case in found.cases] == [("scan", True), ("second", False)]
    assert found.cases[0].read_image().array.shape == (3, 5, 7)


def test_flat_and_trailing_dimensions(tmp_path: Path, values: Any) -> None:
    assert read_nifti(save(tmp_path / "a.nii", values[..., None]))[0].read().array.shape == (3, 5, 7)
    assert read_nifti(save(tmp_path / "b.nii", values[..., 0]))[0].read().array.shape == (1, 5, 7)


def test_time_points_in_one_file_are_refused(tmp_path: Path, values: Any) -> None:
    path = save(tmp_path / "a.nii", np.stack([values] * 2, axis=-1))
    with pytest.raises(InputError, match=r"4 dimensions \(7 × 5 × 3 × 2\): several time points or channels"):
        read_nifti(path)


def test_colour_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros((7, 5, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    with pytest.raises(InputError, match="colour or complex values"):
        read_nifti(path)


def test_no_voxel_size_is_refused(tmp_path: Path, values: Any) -> None:
    path = save(tmp_path / "a.nii", values)
    content = bytearray(path.read_bytes())
    content[280:328] = bytes(48)  # the three rows of the sform
    path.write_bytes(content)
    with pytest.raises(InputError, match="no usable voxel size"):
        read_nifti(path)


@pytest.mark.parametrize("pixdim", [2, 3])
def test_a_voxel_size_of_0_is_not_taken_for_1_mm(tmp_path: Path, values: Any, pixdim: int) -> None:
    image = nib.Nifti1Image(values, None)
    image.header["pixdim"][pixdim] = 0
    (tmp_path / "a.nii").write_bytes(image.header.binaryblock + bytes(4) + values.tobytes("F"))
    with pytest.raises(InputError, match="no usable voxel size"):
        read_nifti(tmp_path / "a.nii")


@pytest.mark.parametrize("count", [0, -3])
def test_a_grid_without_voxels_is_refused(tmp_path: Path, values: Any, count: int) -> None:
    content = bytearray(save(tmp_path / "a.nii", values).read_bytes())
    content[46:48] = count.to_bytes(2, "little", signed=True)  # dim[3]
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(InputError):
        read_nifti(tmp_path / "a.nii")


def test_a_header_that_the_reader_mends_is_no_news(
    tmp_path: Path, values: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path / "a.nii", values)
    content = bytearray(path.read_bytes())
    content[252:254] = b"\x0c\x00"  # a qform code that there is not
    path.write_bytes(content)
    assert read_nifti(path)[0].grid.array.shape == (3, 5, 7)
    assert not caplog.records


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii"])
def test_a_truncated_mask_is_found_when_the_folder_is_read(tmp_path: Path, values: Any, labels: Any, name: str) -> None:
    save(tmp_path / "scan.nii.gz", values)
    path = save(tmp_path / name, np.random.default_rng(2).integers(0, 3, (7, 5, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:-20])
    found = inspect(tmp_path)
    assert [case.id for case in found.cases] == ["scan"]
    assert [(one.what, one.where) for one in found.problems] == [("the file is cut short or damaged", path)]


@pytest.mark.parametrize("end", [".nii.gz", ".nii"])
def test_a_truncated_scan_is_found_at_the_latest_when_it_is_read(tmp_path: Path, end: str) -> None:
    path = save(tmp_path / f"a{end}", np.random.default_rng(3).normal(0, 100, (31, 37, 23)).astype(np.float32))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="the file is cut short or damaged; copy or export it again") as raised:
        read_nifti(path)[0].read()
    assert raised.value.where == path


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08", b"no scan"])
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.nii.gz").write_bytes(content)
    assert [one.what for one in inspect(tmp_path).problems] == ["empty, cut short, or not what its name says"]


def test_nan_in_a_scan(tmp_path: Path, values: Any) -> None:
    values[1, 2, 0] = np.nan
    values[3, 3, 1] = np.inf
    save(tmp_path / "a.nii.gz", values)
    (case,) = inspect(tmp_path).cases
    with pytest.raises(InputError, match="NaN or infinity in 2 voxels"):
        case.read_image()


def test_a_value_that_means_no_mask_is_refused(tmp_path: Path, values: Any, labels: Any) -> None:
    save(tmp_path / "a.nii.gz", values)
    path = save(tmp_path / "a_seg.nii.gz", labels * 85)
    found = inspect(tmp_path)
    assert [one.what for one in found.problems] == ["the mask holds class 255; classes go up to 254"]
    assert found.cases[0].mask is None
    with pytest.raises(InputError, match="class value 255 is above 254"):
        read_nifti(path)[0].read()


def test_real_files_are_told_apart(real: Path) -> None:
    for path in sorted((real / "hippocampus").rglob("*.nii.gz")):
        assert read_nifti(path)[0].is_mask == ("labels" in path.parent.name)


def test_mask_and_scan_with_other_axes_meet(tmp_path: Path, values: Any, labels: Any) -> None:
    save(tmp_path / "a.nii.gz", values)
    nib.save(
        nib.Nifti1Image(labels, AFFINE).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]])), tmp_path / "a_seg.nii"
    )
    (case,) = inspect(tmp_path).cases
    mask = case.read_mask()
    assert isinstance(mask, Volume)
    assert_array_equal(mask.array, labels.transpose(2, 1, 0))
