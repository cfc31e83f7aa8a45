"""Phantom cohorts on disk: readable by anyone's tools, marked as synthetic, and whole whatever interrupts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest

from imaging import phantom
from imaging.cohort import inspect
from imaging.commands import phantom_command
from imaging.errors import InputError
from imaging.phantom import Phantom, make, write_cohort
from tests.imaging.corners import corner_distance_mm


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def dicom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dicom") / "cohort"
    write_cohort("promise12", folder, cases=2, seed=5, format="dicom")
    return folder


@pytest.fixture(scope="module")
def nifti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nifti") / "cohort"
    write_cohort("duke", folder, cases=2, seed=5)
    return folder


def test_a_series_reads_back_as_it_was_made(dicom: Path) -> None:
    made = make("promise12", seed=5, index=1)
    slices = [pydicom.dcmread(path) for path in sorted((dicom / "case-0001/scan").glob("*.dcm"))]
    assert np.array_equal(np.stack([one.pixel_array for one in slices]), made.image.array)
    step = np.subtract(slices[1].ImagePositionPatient, slices[0].ImagePositionPatient)
    assert np.linalg.norm(step) == pytest.approx(made.image.spacing_mm[0])
    normal = np.cross(*np.reshape(slices[0].ImageOrientationPatient, (2, 3)))
    assert step @ normal == pytest.approx(made.image.spacing_mm[0]), "feet to head along the normal"
    assert len({one.SOPInstanceUID for one in slices}) == len(slices)
    assert all(one.SOPInstanceUID.is_valid for one in slices)
    assert "SYNTHETIC" in slices[0].SeriesDescription
    assert slices[0].QualityControlSubject == "YES"
    assert slices[0].MagneticFieldStrength == 3


def test_the_seg_lies_on_its_series(dicom: Path) -> None:
    made = make("promise12", seed=5, index=0)
    slices = [pydicom.dcmread(path) for path in sorted((dicom / "case-0000/scan").glob("*.dcm"))]
    seg = hd.seg.segread(dicom / "case-0000/seg.dcm")
    frames = seg.get_pixels_by_source_instance([one.SOPInstanceUID for one in slices], combine_segments=True)
    assert np.array_equal(frames, made.mask.array)
    assert seg.get_segment_description(1).segmented_property_type.meaning == "Prostate"
    assert seg.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    assert "SYNTHETIC" in seg.SeriesDescription


def test_ct_series_store_hounsfield_units(tmp_path: Path) -> None:
    write_cohort("decathlon", tmp_path / "ct", cases=1, seed=2, format="dicom")
    middle = pydicom.dcmread(tmp_path / "ct/case-0000/scan/0013.dcm")
    hu = middle.pixel_array * float(middle.RescaleSlope) + float(middle.RescaleIntercept)
    assert np.array_equal(hu, make("decathlon", seed=2, index=0).image.array[12])
    assert (middle.Modality, middle.ContrastBolusAgent) == ("CT", "iodine, portal venous")


def test_nifti_pairs_share_their_place_and_say_what_they_are(nifti: Path) -> None:
    made = make("duke", seed=5, index=1)
    image, mask = (nib.nifti1.load(nifti / f"case-0001/{name}.nii.gz") for name in ("image", "mask"))
    assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), made.image.array)
    assert np.array_equal(np.asarray(mask.dataobj).transpose(2, 1, 0), made.mask.array)
    assert np.allclose(image.affine, mask.affine)
    assert image.header.get_zooms() == pytest.approx(made.image.spacing_mm[::-1])
    assert b"SYNTHETIC" in bytes(image.header["descrip"])


def test_a_site_reads_either_format_with_masks_and_without_problems(dicom: Path, nifti: Path) -> None:
    for folder, profile in ((dicom, "promise12"), (nifti, "duke")):
        found = inspect(folder, classes=2)
        assert found.problems == ()
        assert len(found.cases) == len({case.patient for case in found.cases}) == 2
        made = make(profile, seed=5, index=0)
        image, mask = found.cases[0].read_image(), found.cases[0].read_mask()
        assert mask is not None
        assert corner_distance_mm(image, made.image) < 1e-3
        assert mask.array.sum() == made.mask.array.sum()


def test_the_same_seed_writes_the_same_bytes_and_a_case_does_not_depend_on_the_count(
    dicom: Path, tmp_path: Path
) -> None:
    write_cohort("promise12", tmp_path / "again", cases=1, seed=5, format="dicom")
    again, known = digests(tmp_path / "again"), digests(dicom)
    assert all(known[name] == value for name, value in again.items())
    assert len(again) > 15


def test_what_is_there_is_kept_and_what_a_kill_left_is_cleared(nifti: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digests(nifti)
    half = nifti / ".case-0002.0123abcd.tmp"
    half.mkdir()
    (half / "image.nii.gz").write_bytes(b"half")

    def refuse(*_: object, **__: object) -> Phantom:
        raise AssertionError("made a case that is there")

    monkeypatch.setattr(phantom, "make", refuse)
    seen: list[tuple[int, int]] = []
    write_cohort("duke", nifti, cases=2, seed=5, progress=lambda done, of: seen.append((done, of)))
    assert digests(nifti) == before
    assert seen == [(1, 2), (2, 2)]


def test_a_cohort_says_that_it_is_synthetic(nifti: Path) -> None:
    manifest = json.loads((nifti / "phantom.json").read_text())
    assert manifest == {"synthetic": True, "profile": "duke", "seed": 5, "format": "nifti", "version": 1}


def test_another_cohort_s_folder_is_refused(nifti: Path, tmp_path: Path) -> None:
    before = digests(nifti)
    with pytest.raises(InputError, match="were made otherwise"):
        write_cohort("duke", nifti, cases=2, seed=6)
    with pytest.raises(InputError, match="holds 2 cases, 1 were asked for"):
        write_cohort("duke", nifti, cases=1, seed=5)
    (tmp_path / "letter.txt").write_text("a hospital's own file")
    with pytest.raises(InputError, match="not made here"):
        write_cohort("duke", tmp_path, cases=1, seed=5)
    assert digests(nifti) == before


def test_the_command_writes_cases_and_a_sheet_and_its_help_names_every_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phantom_command("nci-isbi", tmp_path / "site", cases=1, seed=3, sheet=tmp_path / "sheet.png")
    assert "1 synthetic cases of nci-isbi" in capsys.readouterr().out
    assert (tmp_path / "site/case-0000/image.nii.gz").exists()
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert all(f"`{name}`" in (phantom_command.__doc__ or "") for name in phantom.PROFILES)


def test_a_file_is_no_place_for_a_cohort(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"file: is no folder; name another folder"):
        write_cohort("promise12", tmp_path / "file", cases=1, seed=0)
