"""`preceptor site check` says what a folder is good for, in words that can be acted on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from client.check import check
from client.check_command import check_command
from imaging.cohort import COPY
from imaging.errors import InputError
from imaging.sheet import OUTLINES

AFFINE = np.diag([0.5, 0.8, 3.0, 1.0])


def save(path: Path, array: Any) -> None:
    nib.save(nib.Nifti1Image(array, AFFINE), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four patients: whole, with a mask of class 2, without a mask, and with NaN in the scan; and a broken file."""
    random = np.random.default_rng(1)
    folder = tmp_path / "scans"
    folder.mkdir()
    for n in (1, 2, 3, 4):
        scan = random.normal(100, 30, (43, 41, 7)).astype(np.float32)
        labels = np.zeros((43, 41, 7), np.uint8)
        labels[10:20, 10:30, 2:5] = 1
        labels[15:20, 20:30, 3:5] = n
        if n == 4:
            scan[3, 5, 1] = np.nan
        save(folder / f"patient{n}.nii.gz", scan)
        if n != 3:
            save(folder / f"patient{n}_seg.nii.gz", labels)
    (folder / "patient5.nii.gz").write_bytes(b"\x1f\x8b cut")
    return folder


def run(*arguments: object) -> Any:
    app = typer.Typer()
    app.command()(check_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})


def test_every_case_is_sorted_by_what_it_is_good_for(folder: Path) -> None:
    report = check(folder)
    assert [(row.case, row.use) for row in report.rows] == [
        ("patient1", "training"),
        ("patient2", "training"),
        ("patient3", "answering only"),
        ("patient4", "no"),
    ]
    assert report.rows[1].size == (43, 41, 7)
    assert report.rows[1].spacing_mm == pytest.approx((0.5, 0.8, 3.0))
    voxel_ml = 0.5 * 0.8 * 3.0 / 1000
    assert report.rows[1].volumes_ml == pytest.approx({1: 500 * voxel_ml, 2: 100 * voxel_ml})
    assert {problem.where.name: problem.what for problem in report.problems} == {
        "patient4.nii.gz": "the scan holds NaN or infinity in 1 voxels",
        "patient5.nii.gz": "empty, cut short, or not what its name says",
    }


def test_the_printed_report_names_files_and_remedies(folder: Path) -> None:
    result = run(folder, "--classes", "2")
    assert result.exit_code == 0
    for words in (
        "patient1   –      43×41×7     0.5×0.8×3   1: 0.72     training",
        "• the mask holds class 2; the study's classes are 0 to 1\n  to mend it: renumber the mask's values",
        "    patient2_seg.nii.gz\n",
        "1 case usable for: training (scan and mask: a teacher can learn from it)",
        "2 cases usable for: answering only",
        "1 case usable for: no (put aside for the reason above)",
        "need masks of at least 3 patients; there is 1.",
    ):
        assert words in result.stdout, result.stdout


def test_json_is_all_that_stands_on_stdout(folder: Path) -> None:
    result = run(folder, "--json")
    note = json.loads(result.stdout)
    assert note["usable"] is True
    assert [case["use"] for case in note["cases"]] == ["training", "training", "answering only", "no"]
    assert note["cases"][0]["mask"] == str(folder / "patient1_seg.nii.gz")
    assert {Path(problem["where"]).name for problem in note["problems"]} == {"patient4.nii.gz", "patient5.nii.gz"}


def test_the_sheet_shows_every_case_that_can_be_read(folder: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    check(folder, sheet=sheet)
    picture = matplotlib.image.imread(sheet)[..., :3]
    for colour in OUTLINES[:2]:
        rgb = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        assert (np.abs(picture - rgb).max(-1) < 0.1).sum() > 20  # outlines of both classes
    assert not list(tmp_path.glob("**/.*"))


def test_a_copy_is_told_and_a_pipe_is_not_waited_for(folder: Path) -> None:
    [image, mask] = (folder / f"patient2{end}.nii.gz" for end in ("", "_seg"))
    (folder / "backup").mkdir()
    for path in (image, mask):
        (folder / "backup" / path.name).write_bytes(path.read_bytes())
    os.mkfifo(folder / "pipe.nii.gz")
    report = check(folder)
    assert COPY in [problem.what for problem in report.problems]


def test_a_sheet_of_another_kind_is_refused_before_anything_is_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sheet.jpg: the sheet is a PNG; name it sheet.png"):
        check(folder / "nowhere", sheet=tmp_path / "sheet.jpg")


def test_nothing_usable_exits_with_1(tmp_path: Path) -> None:
    result = run(tmp_path, "--sheet", tmp_path / "sheet.png")
    assert result.exit_code == 1
    assert "no scan was found" in result.stdout
    assert "Nothing here can be used." in result.stdout
    assert not (tmp_path / "sheet.png").exists()


def test_an_absent_folder_is_an_input_error(tmp_path: Path) -> None:
    assert isinstance(run(tmp_path / "nowhere").exception, InputError)


def test_many_files_with_one_fault_are_one_point(tmp_path: Path) -> None:
    for n in range(9):
        (tmp_path / f"{n}.nii.gz").write_bytes(b"")
    result = run(tmp_path)
    assert result.stdout.count("to mend it:") == 1
    assert "… and 3 more (--json names all)" in result.stdout


def test_progress_is_told_for_files_and_cases(folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    check(folder, progress=lambda what, done, total: told.append((what, done, total)))
    assert told[7:9] == [("files", 8, 8), ("cases", 1, 4)]
    assert told[-1] == ("cases", 4, 4)


REAL = {  # cases to train on, to be asked about, unreadable; problems
    "acdc": (60, 0, 0, 0),
    "acdc/HCM": (12, 0, 0, 0),
    "dicom_hcrop": (0, 1, 0, 0),
    "dicom_rtstruct": (0, 2, 0, 5),
    "dicom_rtstruct/empty": (0, 0, 0, 1),
    "dicom_rtstruct/one_slice_data": (0, 0, 0, 1),
    "dicom_rtstruct/oriented_data": (0, 1, 0, 0),
    "dicom_seg": (1, 0, 0, 1),
    "dicom_t1post": (0, 1, 0, 0),
    "hippocampus": (110, 0, 0, 0),
    "hippocampus/labelsTr": (0, 0, 0, 110),
    "msd_spleen_crop": (1, 0, 0, 0),
    "prostatex": (0, 5, 0, 8),
    "prostatex/ProstateX-0001": (0, 3, 0, 0),
}


@pytest.mark.parametrize("name", REAL)
def test_real_folders(name: str) -> None:
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    real = Path(os.environ.get("PRECEPTOR_REAL_DATA", beside))
    if not real.is_dir():
        pytest.skip("no real scans: neither ../shared/data nor PRECEPTOR_REAL_DATA")
    report = check(real / name)
    counts = (report.count("training"), report.count("answering only"), report.count("no"), len(report.problems))
    assert counts == REAL[name]
    assert report.usable is any(counts[:2])


def test_channels_and_a_header_without_orientation(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1, 1, 1])
    four = np.random.default_rng(0).normal(9, 1, (12, 10, 8, 2)).astype(np.float32)
    nib.save(nib.Nifti1Image(four, affine), tmp_path / "a.nii.gz")
    plain = nib.Nifti1Image(four[..., 0], affine)
    plain.set_sform(None, 0)
    plain.set_qform(None, 0)
    nib.save(plain, tmp_path / "b.nii.gz")
    one, two = check(tmp_path), check(tmp_path, channels=2)
    assert [row.oriented for row in one.rows] == [False]
    assert "`--channels`" in one.problems[0].fix
    assert [row.case for row in two.rows] == ["a"]
    console = Console(record=True, width=200)
    one.print(console)
    assert "1 of them do not say how they lie in the patient" in console.export_text()
