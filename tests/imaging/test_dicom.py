"""A DICOM series is one volume in the right place, or one clear error."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEGLossless, RLELossless, SecondaryCaptureImageStorage, generate_uid
from scipy.spatial.transform import Rotation

from imaging.cohort import Case, Inspection, inspect
from imaging.errors import InputError
from imaging.volume import reorient

if TYPE_CHECKING:
    from tests.imaging.conftest import Dicom

AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)


def only(folder: Path) -> Case:
    """The one case of a folder without problems."""
    found = inspect(folder)
    assert not found.problems
    assert len(found.cases) == 1
    return found.cases[0]


def fault(found: Inspection) -> str:
    """What is wrong with the one scan of a folder, and how to mend it."""
    assert not found.cases
    assert len(found.problems) == 1
    return f"{found.problems[0].what}; {found.problems[0].fix}"


def expected_stored(count: int) -> Any:
    k, i, j = np.indices((count, 5, 7))
    return 100 * k + 10 * i + j


# In its place


def test_an_oblique_series_lies_where_its_headers_say(tmp_path: Path, dicom: Dicom) -> None:
    written = dicom.series(tmp_path)
    volume = only(tmp_path).read_image()
    assert_array_equal(volume.array, expected_stored(11))
    assert volume.array.dtype == np.float32
    assert_allclose(volume.spacing_mm, (3.0, 0.7, 0.9))
    for k, i, j in [(0, 0, 0), (10, 4, 6), (7, 2, 3)]:  # DICOM PS3.3, C.7.6.2.1.1
        row, column = np.array(written[k].ImageOrientationPatient, float).reshape(2, 3)
        lps = np.array(written[k].ImagePositionPatient, float) + row * 0.9 * j + column * 0.7 * i
        assert_allclose(volume.affine @ (k, i, j, 1), (-lps[0], -lps[1], lps[2], 1), atol=1e-4)


def test_rescale_slope_and_intercept_are_applied_slice_by_slice(tmp_path: Path, dicom: Dicom) -> None:
    dicom.series(tmp_path, Modality="CT", RescaleSlope=lambda k: 1 + k, RescaleIntercept=-1024)
    case = only(tmp_path)
    slope = np.arange(1, 12)[:, None, None]
    assert_array_equal(case.read_image().array, expected_stored(11) * slope - 1024)
    assert case.modality == case.read_image().modality == "CT"


@settings(max_examples=15)
@given(
    order=st.permutations(range(7)),
    turn=st.tuples(*[st.floats(-3, 3)] * 3),
    descending=st.booleans(),
)
def test_file_order_and_numbering_do_not_matter(order: list[int], turn: tuple[float, ...], descending: bool) -> None:
    from tests.imaging.conftest import Dicom

    orientation = Rotation.from_rotvec(turn).as_matrix()[:2].round(9).ravel().tolist()
    with tempfile.TemporaryDirectory() as folder:
        plain, mixed = Path(folder, "plain"), Path(folder, "mixed")
        Dicom().series(plain, 7, 2.5, orientation)
        number = (lambda k: 7 - k) if descending else (lambda k: k + 1)
        Dicom().series(mixed, 7, 2.5, orientation, InstanceNumber=number)
        for place, path in zip(order, sorted(mixed.iterdir()), strict=True):
            path.rename(mixed / f"IM{place}")  # neither ending nor order of names tells anything
        expected, found = only(plain).read_image(), only(mixed).read_image()
    assert_array_equal(found.array, expected.array)
    assert_allclose(found.affine, expected.affine, atol=1e-5)


def test_a_tilted_gantry_gives_a_sheared_grid(tmp_path: Path, dicom: Dicom) -> None:
    written = dicom.series(tmp_path, 5, 3.0, AXIAL, shift=(0, 0.8, 0))
    volume = only(tmp_path).read_image()
    assert_allclose(volume.affine @ (4, 0, 0, 1), [*(np.array(written[4].ImagePositionPatient) * (-1, -1, 1)), 1])


def test_files_are_known_by_content(tmp_path: Path, dicom: Dicom) -> None:
    dicom.series(tmp_path / "deep" / "er", 3)
    for path in sorted((tmp_path / "deep" / "er").iterdir()):
        content = path.read_bytes()
        path.with_suffix("").write_bytes(content[128 + 4 :] if path.stem == "002" else content)  # one without preamble
        path.unlink()
    (tmp_path / "notes.txt").write_text("not a scan")
    (tmp_path / ".hidden.dcm").write_text("not a scan")
    assert only(tmp_path).read_image().array.shape == (3, 5, 7)


def test_a_dicomdir_and_a_report_are_no_scans(tmp_path: Path, dicom: Dicom) -> None:
    dicom.series(tmp_path, 3)
    samples = Path(pydicom.__file__).parent / "data" / "test_files"
    for name in ("dicomdirtests/DICOMDIR", "test-SR.dcm", "rtdose.dcm", "rtplan.dcm"):
        (tmp_path / Path(name).name).write_bytes((samples / name).read_bytes())
    only(tmp_path)


def test_the_ids_of_a_case_come_from_the_header(tmp_path: Path, dicom: Dicom) -> None:
    dicom.series(tmp_path, patient="A/7")
    case = only(tmp_path)
    assert (case.id, case.patient) == ("A_7-s3", "A/7")
    assert (case.read_image().case, case.read_image().patient) == ("A_7-s3", "A/7")


def test_scans_of_one_study_without_patient_id_are_one_patient(tmp_path: Path, dicom: Dicom) -> None:
    for name in ("a", "b", "c"):
        study = generate_uid(entropy_srcs=["one" if name != "c" else "other"])
        dicom.series(tmp_path / name, 3, patient="", StudyInstanceUID=study)
    a, b, c = sorted(inspect(tmp_path).cases, key=lambda case: case.files[0])
    assert a.patient == b.patient != c.patient
    assert a.patient.startswith("unnamed-")


# Several in one


def depths(folder: Path) -> list[int]:
    found = inspect(folder)
    assert not found.problems
    assert len({case.id for case in found.cases}) == len(found.cases)
    return sorted(case.read_image().array.shape[0] for case in found.cases)


def test_series_mixed_in_one_folder_are_told_apart(tmp_path: Path, dicom: Dicom) -> None:
    for number, count in enumerate((3, 5, 7)):
        dicom.series(tmp_path / "new", count, patient=f"p{number}")
        for path in (tmp_path / "new").iterdir():
            path.rename(tmp_path / f"{number}{path.name}")
    assert depths(tmp_path) == [3, 5, 7]


def test_localisers_of_three_directions_are_three_scans(tmp_path: Path, dicom: Dicom) -> None:
    series = generate_uid()
    for name, count, orientation in (("a", 3, AXIAL), ("b", 5, SAGITTAL), ("c", 7, (1, 0, 0, 0, 0, -1))):
        dicom.series(tmp_path / name, count, orientation=orientation, series=series)
    assert depths(tmp_path) == [3, 5, 7]


@pytest.mark.parametrize(
    "marks",
    [
        [{"EchoTime": 12}, {"EchoTime": 96}],
        [{"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}],
        [{"DiffusionBValue": 0.0}, {"DiffusionBValue": 50.0}, {"DiffusionBValue": 800.0}],
        [{"AcquisitionNumber": n, "TriggerTime": lambda k, n=n: 10.0 * k + n} for n in (1, 2)],
        [{"EchoTime": e, "ImageType": ["ORIGINAL", "PRIMARY", t]} for e in (12, 96) for t in "MP"],
    ],
)
def test_volumes_of_one_series_are_told_apart(tmp_path: Path, dicom: Dicom, marks: list[dict[str, Any]]) -> None:
    series = generate_uid()
    for number, tags in enumerate(marks):
        dicom.series(tmp_path / "new", 5, series=series, AcquisitionTime=lambda k: f"1200{k:02}", **tags)
        for path in (tmp_path / "new").iterdir():
            path.rename(tmp_path / f"{number}{path.name}")
    assert depths(tmp_path) == [5] * len(marks)


def test_a_copy_in_another_folder_is_another_scan(tmp_path: Path, dicom: Dicom) -> None:
    dicom.series(tmp_path / "a", 5)
    (tmp_path / "b").mkdir()
    for path in sorted((tmp_path / "a").iterdir())[:2]:
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    assert depths(tmp_path) == [2, 5]


# One clear error


@pytest.mark.parametrize(
    ("gone", "what"),
    [
        ([6], "slices 5 and 7 are 6.0 mm apart at 3.0 mm spacing: slice 6 is missing; export the series again"),
        (
            [3, 4],
            "slices 2 and 5 are 9.0 mm apart at 3.0 mm spacing: slices 3 to 4 are missing; export the series again",
        ),
    ],
)
@pytest.mark.parametrize("descending", [False, True])
def test_a_missing_slice_is_named_with_its_remedy(
    tmp_path: Path, dicom: Dicom, gone: list[int], what: str, *, descending: bool
) -> None:
    dicom.series(tmp_path, InstanceNumber=(lambda k: 11 - k) if descending else (lambda k: k + 1))
    for number in gone:
        (tmp_path / f"{12 - number if descending else number:03}.dcm").unlink()
    found = inspect(tmp_path)
    assert fault(found) == what
    assert found.problems[0].where == tmp_path


def test_a_missing_slice_is_seen_without_numbers(tmp_path: Path, dicom: Dicom) -> None:
    dicom.series(tmp_path, 3, InstanceNumber=None)
    assert only(tmp_path).files
    dicom.series(tmp_path, 4, InstanceNumber=None)
    (tmp_path / "002.dcm").unlink()
    assert "slices 1 and 2 are 6.0 mm apart at 3.0 mm spacing: 1 between them is missing" in fault(inspect(tmp_path))


def test_a_duplicate_slice_is_named(tmp_path: Path, dicom: Dicom) -> None:
    dicom.series(tmp_path)
    dataset = pydicom.dcmread(tmp_path / "005.dcm")
    dataset.InstanceNumber = 12
    dataset.save_as(tmp_path / "copy.dcm")
    assert fault(inspect(tmp_path)).startswith("slices 5 and 12 lie at the same place: one is a duplicate; delete")


def test_time_points_that_nothing_tells_apart(tmp_path: Path, dicom: Dicom) -> None:
    series = generate_uid()
    for name in ("a", "b", "c"):
        dicom.series(tmp_path / "new", 5, series=series)
        for path in (tmp_path / "new").iterdir():
            path.rename(tmp_path / f"{name}{path.name}")
    assert fault(inspect(tmp_path)).startswith(
        "3 images lie at each of 5 places, and the header does not tell them apart"
    )


def test_uneven_spacing_is_no_volume(tmp_path: Path, dicom: Dicom) -> None:
    dicom.series(tmp_path, 5)
    dataset = pydicom.dcmread(tmp_path / "005.dcm")
    dataset.ImagePositionPatient = list(np.array(dataset.ImagePositionPatient) + 1.2 * np.cross(*_cosines(dataset)))
    dataset.save_as(tmp_path / "005.dcm")
    assert fault(inspect(tmp_path)).startswith("slices 4 and 5 are 4.2 mm apart at 3.0 mm spacing; export")


def test_slices_beside_one_line_are_no_volume(tmp_path: Path, dicom: Dicom) -> None:
    dicom.series(tmp_path, 5)
    dataset = pydicom.dcmread(tmp_path / "003.dcm")
    dataset.ImagePositionPatient = list(np.array(dataset.ImagePositionPatient) + 40 * _cosines(dataset)[0])
    dataset.save_as(tmp_path / "003.dcm")
    assert fault(inspect(tmp_path)).startswith("the slices do not lie on one line")


def _cosines(dataset: Dataset) -> Any:
    return np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)


def test_a_truncated_file_is_seen_before_its_pixels_are_read(tmp_path: Path, dicom: Dicom) -> None:
    dicom.series(tmp_path)
    path = tmp_path / "004.dcm"
    path.write_bytes(path.read_bytes()[:-6])
    found = inspect(tmp_path)
    assert fault(found) == "1 of 11 slices' files are cut short; export the series again"
    assert found.problems[0].where == path


def test_a_file_cut_within_its_header(tmp_path: Path, dicom: Dicom) -> None:
    dicom.series(tmp_path)
    path = tmp_path / "004.dcm"
    path.write_bytes(path.read_bytes()[:400])
    found = inspect(tmp_path)
    assert not found.cases
    assert {problem.where for problem in found.problems} == {path, tmp_path}  # the file, and the gap it leaves


def test_pixels_that_vanish_between_looking_and_reading(tmp_path: Path, dicom: Dicom) -> None:
    dicom.series(tmp_path)
    case = only(tmp_path)
    path = tmp_path / "004.dcm"
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(InputError, match="cut short or damaged; export this file again") as raised:
        case.read_image()
    assert raised.value.where == path


def test_one_slice_is_a_volume_only_with_a_thickness(tmp_path: Path, dicom: Dicom) -> None:
    dicom.series(tmp_path / "a", 1)
    assert_allclose(only(tmp_path).read_image().spacing_mm, (2.5, 0.7, 0.9))
    dicom.series(tmp_path / "a", 1, SliceThickness=None)
    assert fault(inspect(tmp_path)).startswith("a series of one slice whose header gives neither thickness nor spacing")


def test_compressed_slices_are_read_where_a_decoder_is(tmp_path: Path, dicom: Dicom) -> None:
    dicom.series(tmp_path, 3)
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    assert_array_equal(only(tmp_path).read_image().array, expected_stored(3))


def test_a_missing_decoder_is_named_with_its_remedy(tmp_path: Path, dicom: Dicom, monkeypatch: Any) -> None:
    import imaging.dicom_header

    class Absent:
        is_available = False

    monkeypatch.setattr(imaging.dicom_header, "get_decoder", lambda syntax: Absent)
    dicom.series(tmp_path, 3)
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = JPEGLossless
        dataset.save_as(path)
    assert "which no decoder installed here reads; `pip install pylibjpeg" in fault(inspect(tmp_path))


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "a colour picture"),
        (
            {"ImagePositionPatient": None, "SOPClassUID": SecondaryCaptureImageStorage},
            "no usable position, orientation or pixel",
        ),
        ({"PixelSpacing": None}, "no usable position, orientation or pixel"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no usable position, orientation or pixel"),
        ({"PixelSpacing": [0, 0]}, "no usable position, orientation or pixel"),
        ({"PixelSpacing": [-1, -1]}, "no usable position, orientation or pixel"),
        ({"PixelSpacing": ["nan", "nan"]}, "no usable position, orientation or pixel"),
        ({"PixelSpacing": [1e30, 1e30]}, "no usable position, orientation or pixel"),
        ({"ImagePositionPatient": [0, 0]}, "no usable position, orientation or pixel"),
        ({"ImagePositionPatient": [0, 0, "nan"]}, "no usable position, orientation or pixel"),
        ({"ImagePositionPatient": ["inf", 0, 0]}, "no usable position, orientation or pixel"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")  # pydicom's, as we write them
def test_an_image_without_a_place_in_the_patient(tmp_path: Path, dicom: Dicom, tags: dict[str, Any], what: str) -> None:
    dicom.series(tmp_path, 1, **tags)
    assert what in fault(inspect(tmp_path))


def test_one_value_throughout_is_no_scan(tmp_path: Path, dicom: Dicom) -> None:
    dicom.series(tmp_path, 3, PixelData=bytes(5 * 7 * 2))
    with pytest.raises(InputError, match="one value throughout"):
        only(tmp_path).read_image()


# Multi-frame


def enhanced(written: list[Dataset], order: list[int]) -> Dataset:
    """The slices as one Enhanced MR file, frames in that order."""
    from pydicom.uid import EnhancedMRImageStorage

    first = written[0]
    dataset = Dataset()
    dataset.update({element.tag: element for element in first if element.tag.group != 0x7FE0})
    dataset.file_meta = first.file_meta
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, name)
    dataset.NumberOfFrames = len(order)
    shared, measures, direction, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    direction.ImageOrientationPatient = first.ImageOrientationPatient
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 2, -3, "US"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([direction])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for k in order:
        frame, place, content = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = written[k].ImagePositionPatient
        content.DimensionIndexValues = [k + 1]
        frame.PlanePositionSequence, frame.FrameContentSequence = Sequence([place]), Sequence([content])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    pointer = Dataset()
    pointer.DimensionIndexPointer, pointer.FunctionalGroupPointer = 0x00200032, 0x00209113
    pointer.DimensionOrganizationUID = generate_uid()
    dataset.DimensionIndexSequence = Sequence([pointer])
    dataset.PixelData = b"".join(written[k].PixelData for k in order)
    return dataset


def test_an_enhanced_file_is_the_same_volume_as_its_slices(tmp_path: Path, dicom: Dicom) -> None:
    written = dicom.series(tmp_path / "classic", 5)
    (tmp_path / "enhanced").mkdir()
    enhanced(written, [3, 0, 4, 1, 2]).save_as(tmp_path / "enhanced" / "IM1", enforce_file_format=True)
    classic, found = (reorient(only(tmp_path / name).read_image()) for name in ("classic", "enhanced"))
    assert_array_equal(found.array, 2 * classic.array - 3)
    assert_allclose(found.affine, classic.affine, atol=1e-5)


def test_an_enhanced_file_with_several_time_points_is_refused(tmp_path: Path, dicom: Dicom) -> None:
    written = dicom.series(tmp_path / "classic", 5)
    (tmp_path / "enhanced").mkdir()
    enhanced(written, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]).save_as(tmp_path / "enhanced" / "IM1", enforce_file_format=True)
    assert "export it as classic single-frame DICOM" in fault(inspect(tmp_path / "enhanced"))


# Real scans


def test_real_series_lie_as_their_headers_say(real: Path) -> None:
    volume = only(real / "dicom_t1post").read_image()
    assert volume.array.shape == (22, 320, 280)
    assert_allclose(volume.spacing_mm, (6.5, 0.6875, 0.6875), atol=1e-4)
    assert_allclose(volume.affine[:3, 3], (97.178176, 83.173486, -11.422343), atol=1e-5)  # instance 1, feet-most
    turned = only(real / "dicom_rtstruct" / "oriented_data").read_image()
    assert_allclose(turned.affine @ (2, 0, 0, 1), (-122.0159697, 428.1596334, 38.0798058, 1), atol=1e-5)
    assert only(real / "dicom_hcrop").read_image().array.shape == (40, 50, 34)


def test_a_slice_copied_to_another_folder_does_not_spoil_its_series(real: Path) -> None:
    found = inspect(real / "dicom_rtstruct")
    assert [case.image.grid.array.shape[0] for case in found.cases] == [2, 3]
    whats = [problem.what for problem in found.problems]
    assert whats.count("contours (RTSTRUCT) are not used yet") == 4
    assert sum("one slice" in what for what in whats) == 1
    assert len(whats) == 5
