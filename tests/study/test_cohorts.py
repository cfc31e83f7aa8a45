from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from imaging.errors import InputError
from imaging.slices import SliceCache
from study.cohorts import assignment, lead_inspection, lead_slices, lead_split, make_shard, shards
from study.draws import generator
from study.plan import Study
from study.run import Run
from study.wire import NO_MASK, Shard


def write_scans(folder: Path, patients: int, *, seed: int = 0, depth: int = 4) -> None:
    """Scans of 17 × 23 × (`depth` + patient number), each with a mask of two classes, named after the patient."""
    folder.mkdir(parents=True)
    draw, affine = generator(seed, "scans"), np.diag([1.5, 1.5, 3.0, 1.0])
    for patient in range(patients):
        shape = (17, 23, depth + patient)
        mask = np.zeros(shape, np.uint8)
        mask[4:9, 5:11], mask[9:13, 5:11] = 1, 2
        scan = draw.normal(100.0 * mask, 20).astype(np.float32)
        for name, array in ((f"patient{patient:02d}", scan), (f"patient{patient:02d}_seg", mask)):
            nib.Nifti1Image(array, affine).to_filename(folder / f"{name}.nii.gz")


@pytest.fixture
def study(content: dict[str, Any], tmp_path: Path) -> Study:
    """Two folders: five patients with masks, and four of which two keep theirs."""
    write_scans(tmp_path / "a", 5)
    write_scans(tmp_path / "b", 4, seed=1, depth=3)
    content["student"]["sources"] = [{"folder": tmp_path / "a"}, {"folder": tmp_path / "b", "masks": 2}]
    content["distill"] = {"split": [0.5, 0.25, 0.25]}
    return Study.model_validate(content)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_sources_are_joined_under_ids_of_their_own(study: Study, run_folder: Path) -> None:
    cases = lead_inspection(study, run_folder).cases
    assert len(cases) == 9
    assert len({case.id for case in cases}) == len({case.patient for case in cases}) == 9
    assert [case.labelled for case in cases] == [True] * 7 + [False] * 2
    assert {case.patient[:2] for case in cases} == {"0-", "1-"}


def test_slices_are_split_by_patient_and_unlabelled_ones_train(study: Study, run_folder: Path) -> None:
    cache = lead_slices(study, run_folder)
    assert cache.images.shape == (sum(range(4, 9)) + sum(range(3, 7)), 1, 16, 24)
    assert cache.folder == run_folder / "student"
    parts = lead_split(study, cache)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(cache.images)))
    patients = {part: {cache.cases[cache.case_index[i]].patient for i in ids} for part, ids in parts.items()}
    assert sum(map(len, patients.values())) == 9, "a patient is in two parts"
    assert all(patients.values())
    assert cache.labelled[np.concatenate([parts["val"], parts["test"]])].all()
    for ids in parts.values():
        assert ids.dtype == np.int64
        assert (np.diff(ids) > 0).all()


def test_the_split_depends_on_the_seed_alone(study: Study, run_folder: Path) -> None:
    cache = lead_slices(study, run_folder)
    again = lead_split(study, SliceCache.open(run_folder / "student"))
    assert_array_equal(lead_split(study, cache)["train"], again["train"])
    others = [lead_split(study.model_copy(update={"seed": seed}), cache)["val"].tolist() for seed in range(9)]
    assert len({tuple(other) for other in others}) > 2


def test_shards_are_the_training_slices_in_order(study: Study, run_folder: Path) -> None:
    cache = lead_slices(study, run_folder)
    cut = shards(study, cache)
    train = lead_split(study, cache)["train"]
    assert_array_equal(np.concatenate(cut), train)
    assert [len(ids) for ids in cut[:-1]] == [5] * (len(cut) - 1)
    assert 1 <= len(cut[-1]) <= 5


def test_a_shard_holds_its_slices_and_survives_the_wire(study: Study, run_folder: Path) -> None:
    cache = lead_slices(study, run_folder)
    asked = assignment(study, "north")
    for index, ids in enumerate(shards(study, cache)):
        shard = Shard.unpack(make_shard(asked, cache, index, ids, ["logits"]).pack())
        assert shard.index == index
        assert_array_equal(shard.slice_ids, ids)
        for row, number in enumerate(ids):
            assert_array_equal(shard.images[row], cache.images[number])
            assert_array_equal(shard.masks[row], cache.masks[number])
            assert (shard.masks[row] == NO_MASK).all() == (not cache.labelled[number])


def test_a_site_learns_what_it_must_know_and_nothing_of_the_others(study: Study) -> None:
    asked = assignment(study, "south")
    assert (asked.study, asked.study_hash, asked.seed) == ("small", study.hash(), 3)
    assert (asked.task, asked.preprocess, asked.teacher) == (study.task, study.preprocess, study.teacher_of("south"))
    assert asked.augment == study.augment
    assert "north" not in asked.model_dump_json()
    with pytest.raises(InputError, match="no site is called `sout`, did you mean `south`"):
        assignment(study, "sout")


def test_phantoms_are_read_from_the_run_folder(study: Study, content: dict[str, Any], run_folder: Path) -> None:
    content["student"]["sources"] = [{"phantom": "promise12", "cases": 3, "masks": 1}]
    study = Study.model_validate(content)
    with pytest.raises(
        InputError,
        match=r"lead/0-promise12: the student's scans are missing; `preceptor simulate .* --until scans` writes",
    ):
        lead_inspection(study, run_folder)
    write_scans(run_folder / "lead" / "0-promise12", 3)
    assert [case.labelled for case in lead_inspection(study, run_folder).cases] == [True, False, False]


def test_missing_and_empty_folders_are_told(study: Study, content: dict[str, Any], run_folder: Path) -> None:
    content["student"]["sources"] = [{"folder": run_folder / "nowhere"}]
    with pytest.raises(InputError, match=r"nowhere: the student's scans are missing; mend `student.sources`"):
        lead_inspection(Study.model_validate(content), run_folder)
    (run_folder / "nowhere").mkdir()
    with pytest.raises(InputError, match="nowhere"):
        lead_inspection(Study.model_validate(content), run_folder)


def test_a_case_put_aside_is_told_once_and_stops_nobody(study: Study, run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a" / "patient01.nii.gz"
    path.write_bytes(path.read_bytes()[:99])
    first = lead_slices(study, run_folder)
    again = lead_slices(study, run_folder)
    assert len(first.cases) == len(again.cases) == 8
    told = [event for event in Run(run_folder).events("put-aside") if event["where"] == str(path)]
    assert len(told) == 1
    assert told[0]["what"]
    assert told[0]["fix"]


def test_the_real_cardiac_study_has_its_masks(tmp_path: Path) -> None:
    from study.plan import read_study

    study = read_study(Path(__file__).parents[2] / "studies" / "cardiac.toml")
    if not study.student.sources[0].folder.is_dir():  # type: ignore[union-attr]
        pytest.skip("no real scans beside the checkout")
    cases = lead_inspection(study, tmp_path).cases
    assert len(cases) == 24
    assert sum(case.labelled for case in cases) == 3


def test_a_scan_of_another_modality_is_put_aside(content: dict[str, Any], run_folder: Path, tmp_path: Path) -> None:
    series = Path(os.environ.get("PRECEPTOR_REAL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "dicom_hcrop"
    if not series.is_dir():
        pytest.skip("no real scans beside the checkout, nor in PRECEPTOR_REAL_DATA")
    write_scans(tmp_path / "a", 2)
    shutil.copytree(series, tmp_path / "a" / "series")
    content["task"]["modality"], content["student"]["sources"] = "CT", [{"folder": tmp_path / "a"}]
    content["preprocess"]["normalise"] = "window"
    inspection = lead_inspection(Study.model_validate(content), run_folder)
    assert len(inspection.cases) == 2
    assert [problem.what for problem in inspection.problems] == ["the scan is MR, the study is about CT"]
