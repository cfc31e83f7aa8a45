"""A student at work: masks on the scan's own voxels, whatever its axes, and clear words for what it cannot take."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nibabel as nib
import numpy as np
import pytest

from distill.predict import Prediction, predict, write
from imaging.cohort import inspect
from imaging.errors import InputError
from imaging.phantom import make
from imaging.phantom_files import write_dicom
from imaging.preprocess import Preprocess
from imaging.volume import Volume, reorient
from preceptor import main
from study.prediction import load_student
from study.student import WEIGHTS
from study.training import weights_hash
from tests.study.small_student import write_student

MakeStudent = Callable[..., Path]
PREPROCESS = Preprocess(size=(64, 64), spacing_mm=(1.75, 1.75))


@pytest.fixture
def student(tmp_path: Path) -> MakeStudent:
    """A folder with a student who calls bright places organ: untrained, but with an opinion on every scan."""

    def made(**changes: object) -> Path:
        return write_student(tmp_path / "student", ["bg", "prostate"], PREPROCESS, **changes)

    return made


def nifti(path: Path, scan: Volume) -> Path:
    nib.save(nib.Nifti1Image(scan.array.transpose(2, 1, 0), scan.affine[:, [2, 1, 0, 3]]), path)
    return path


@pytest.fixture(scope="module")
def scan() -> Volume:
    return make("nci-isbi", seed=0, index=0).image


@pytest.mark.parametrize("axes", ["IPL", "SAL", "SPR", "RSP", "PIR", "ALS"])
def test_the_mask_is_the_same_in_the_patient_however_the_scan_is_stored(
    axes: str, student: MakeStudent, scan: Volume, tmp_path: Path
) -> None:
    folder = student()
    plain = predict(nifti(tmp_path / "plain.nii.gz", scan), folder)
    turned = predict(nifti(tmp_path / "turned.nii.gz", reorient(scan, axes)), folder)
    assert 0 < plain.labels.mean() < 1
    back = reorient(Volume(turned.labels, turned.scan.affine))
    np.testing.assert_array_equal(back.array, reorient(Volume(plain.labels, plain.scan.affine)).array)
    assert turned.volumes_ml == pytest.approx(plain.volumes_ml, rel=1e-4)


def test_the_command_writes_mask_and_picture(
    student: MakeStudent, scan: Volume, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = nifti(tmp_path / "scan.nii.gz", scan), tmp_path / "found.nii.gz"
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(path), "--out", str(out), "--student", str(student()), "--json"])
    assert not ended.value.code
    told = json.loads(capsys.readouterr().out)
    assert told["volumes_ml"]["prostate"] > 0
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    found = nib.Nifti1Image.from_filename(out)
    np.testing.assert_array_equal(found.affine, nib.Nifti1Image.from_filename(path).affine)
    assert found.shape == nib.Nifti1Image.from_filename(path).shape


def test_a_scan_that_does_not_say_how_it_lies_is_told(
    student: MakeStudent, scan: Volume, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = nifti(tmp_path / "scan.nii.gz", scan)
    for codes, told in ((1, False), (0, True)):
        image = nib.Nifti1Image.from_filename(path)
        image.set_sform(image.affine, codes)
        image.set_qform(image.affine, codes)
        nib.save(image, tmp_path / "s.nii.gz")
        words = ["predict", str(tmp_path / "s.nii.gz"), "-o", str(tmp_path / "m.nii.gz"), "--student", str(student())]
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert not ended.value.code
        assert ("neither sform nor qform" in capsys.readouterr().err) is told


def test_a_dicom_series_gets_a_seg(student: MakeStudent, tmp_path: Path) -> None:
    case = make("promise12", seed=0, index=0)
    write_dicom(tmp_path / "case", case.image, case.mask, organ="prostate", note=case.note, tags=case.tags)
    words = ["predict", str(tmp_path / "case" / "scan"), "-o", str(tmp_path / "seg.dcm"), "--student", str(student())]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    assert (tmp_path / "seg.png").exists()
    (tmp_path / "seg.dcm").replace(tmp_path / "case" / "seg.dcm")  # read back by what reads everybody's masks
    (read,) = inspect(tmp_path / "case").cases
    found, expected = read.read_mask(), predict(tmp_path / "case" / "scan", tmp_path / "student")
    assert found is not None
    np.testing.assert_array_equal(found.array, expected.labels)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"modality": "CT", "preprocess": Preprocess(normalise="window").model_dump(mode="json")},
            "scan is MR, the stu",
        ),
        ({"pixel_mm": 0.1}, "pixels are .* mm wide in the axial plane, the student's 0.10 mm"),
        ({"pixel_mm": 10.0, "preprocess": Preprocess().model_dump(mode="json")}, "the student's 10.00 mm"),
        ({"weights_hash": "0"}, "these are not the weights of its card; copy both files again"),
    ],
)
def test_a_scan_or_student_that_does_not_fit_is_told(
    changes: dict[str, object], words: str, student: MakeStudent, tmp_path: Path
) -> None:
    case = make("promise12", seed=0, index=0)
    write_dicom(tmp_path / "case", case.image, case.mask, organ="prostate", note=case.note, tags=case.tags)
    with pytest.raises(InputError, match=words):
        predict(tmp_path / "case", student(**changes))


@pytest.mark.parametrize(
    ("modality", "lowest", "words"),
    [
        ("MR", -1024.0, "values go down to -1024, as a CT's do"),
        ("CT", 0.0, "no value of the scan is below 0"),
        ("MR", -3.0, ""),
    ],
)
def test_a_file_that_does_not_say_what_it_is_is_judged_by_its_values(  # noqa: PLR0917
    modality: str, lowest: float, words: str, student: MakeStudent, scan: Volume, tmp_path: Path
) -> None:
    array = np.maximum(scan.array, lowest)
    array[0, 0, 0] = lowest
    path = nifti(tmp_path / "scan.nii.gz", replace(scan, array=array))
    plan = Preprocess(normalise="window" if modality == "CT" else "percentile-zscore")
    with pytest.raises(InputError, match=words) if words else nullcontext():
        predict(path, student(modality=modality, preprocess=plan.model_dump(mode="json")))


def test_bad_input_is_told(student: MakeStudent, scan: Volume, tmp_path: Path) -> None:
    folder = student()
    with pytest.raises(InputError, match="there is no such file or folder"):
        predict(tmp_path / "none.nii.gz", folder)
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        nifti(tmp_path / "two" / f"{name}.nii.gz", scan)
    with pytest.raises(InputError, match="holds 2 scans; name one of them"):
        predict(tmp_path / "two", folder)
    (tmp_path / "text.txt").write_text("no scan")
    with pytest.raises(InputError, match="holds no scan that can be read"):
        predict(tmp_path / "text.txt", folder)
    (tmp_path / "two" / "cut.nii.gz").write_bytes((tmp_path / "two" / "a.nii.gz").read_bytes()[:50])
    with pytest.raises(InputError, match=r"cut\.nii\.gz: the file is cut short or damaged"):
        predict(tmp_path / "two" / "cut.nii.gz", folder)
    with pytest.raises(InputError, match="holds no finished student"):
        predict(tmp_path / "two" / "a.nii.gz", tmp_path)
    (folder / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(InputError, match="weights cannot be read"):
        predict(tmp_path / "two" / "a.nii.gz", folder)


def test_the_scan_itself_is_never_written_over(student: MakeStudent, scan: Volume, tmp_path: Path) -> None:
    path = nifti(tmp_path / "scan.nii.gz", scan)
    before = path.read_bytes()
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(path), "--out", str(path), "--student", str(student())])
    assert ended.value.code == 1
    assert path.read_bytes() == before


def test_mask_and_picture_are_two_files(student: MakeStudent, scan: Volume, tmp_path: Path) -> None:
    found, out = predict(nifti(tmp_path / "scan.nii.gz", scan), student()), tmp_path / "mask.nii.gz"
    with pytest.raises(InputError, match="is to hold both mask and picture; name another file with `--preview`"):
        write(found, out, out)
    assert not out.exists()


def test_a_tilted_voxel_is_as_large_as_it_is() -> None:
    affine = np.diag([3.0, 0.5, 0.5, 1.0])
    affine[1, 0] = 3.0 * np.tan(np.deg2rad(20))
    labels = np.ones((5, 10, 10), np.uint8)
    card = SimpleNamespace(classes=["bg", "organ"])
    found = Prediction(*cast(Any, (None, Volume(labels, affine), labels, card, 0.0)))
    assert found.volumes_ml == {"organ": pytest.approx(500 * 0.75 / 1000)}


def test_the_network_is_the_one_that_was_shipped(student: MakeStudent) -> None:
    folder = student()
    card, network = load_student(folder)
    assert weights_hash(network.state_dict()) == card.weights_hash
