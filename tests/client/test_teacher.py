"""Teaching and answering, without a socket between."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

import models
from client.scans import Scans, open_scans
from client.status import Status
from client.teacher import Teacher, folder_of, load_teacher
from client.training import Course
from imaging.errors import InputError
from imaging.preprocess import Preprocess
from models import encoders
from models.contents import CONTENTS, Grid, Precision
from models.registry import ends_of
from study.answers import Answers
from study.encoding import decoded
from study.schedule import one_cycle_lr
from study.tables import Encoding
from study.wire import NO_MASK, Assignment, Shard
from tests.client.hospital import DAMAGED, make_assignment, write_site


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def course(scans: Path, tmp_path_factory: pytest.TempPathFactory, assignment: Assignment) -> Course:
    config = write_site(tmp_path_factory.mktemp("course"), scans)
    return Course(config, assignment, open_scans(config, assignment))


def make_shard(assignment: Assignment, n: int = 19) -> Shard:
    rng = np.random.default_rng(5)
    height, width = assignment.preprocess.size
    images = rng.normal(size=(n, 1, height, width)).astype(np.float16)
    masks = rng.integers(0, 3, (n, height, width)).astype(np.uint8)
    masks[3] = NO_MASK
    masks[4] = 0
    return Shard(assignment, 2, np.arange(100, 100 + n), images, masks)


@pytest.fixture(scope="module")
def teacher(assignment: Assignment) -> Teacher:
    torch.manual_seed(0)
    options = assignment.teacher.options
    network = models.create(assignment.teacher.model, 1, 3, **options)
    return Teacher("north", assignment, network.eval(), "hash")


def test_answers_are_the_same_again_to_the_last_bit_and_pass_the_coordinators_check(teacher: Teacher) -> None:
    shard = make_shard(teacher.assignment)
    body = teacher.answer(shard).pack()
    assert teacher.answer(shard).pack() == body
    answers = Answers.unpack(body, shard)
    assert answers.header.weights_hash == "hash"
    assert answers.contents == {"logits", "attention", "contrast"}


def test_answers_are_the_networks_own(teacher: Teacher) -> None:
    shard = make_shard(teacher.assignment)
    answers = teacher.answer(shard)
    with torch.inference_mode(), models.tap(teacher.network, ["decoder"]) as features:
        logits = teacher.network(torch.from_numpy(shard.images.astype(np.float32)))
    assert np.allclose(answers.arrays["logits"], logits.numpy(), atol=2e-3)
    theirs = features["decoder"].abs().sum(1).flatten(1).numpy()
    ours = answers.arrays["attention/decoder"].reshape(len(theirs), -1).astype(np.float32)
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosine == pytest.approx(1, abs=1e-4)
    assert ours.max(1) == pytest.approx(1)


def test_contrast_is_valid_where_both_classes_are_outlined(teacher: Teacher) -> None:
    valid = teacher.answer(make_shard(teacher.assignment)).arrays["valid/encoder"]
    assert not valid[3].any(), "a slice without a mask"
    assert not valid[4].any(), "a slice of background alone"
    assert valid[5].all()


@pytest.mark.parametrize(
    "wants", [("logits",), ("logits", "attention"), ("logits", "contrast"), CONTENTS, ("features",)]
)
def test_only_what_is_asked_for_is_answered(teacher: Teacher, wants: tuple[str, ...]) -> None:
    shard = replace(make_shard(teacher.assignment, 5), wants=wants)
    answers = Answers.unpack(teacher.answer(shard).pack(), shard)
    assert answers.contents == set(wants)


def test_logits_beyond_half_precision_stay_finite(teacher: Teacher) -> None:
    network = models.create("deeplabv3plus", 1, 3, **teacher.assignment.teacher.options).eval()
    next(reversed([*network.parameters()])).data += torch.tensor([1e6, -1e6, 0.0])  # the last layer's bias
    logits = replace(teacher, network=network).answer(make_shard(teacher.assignment, 5)).arrays["logits"]
    assert np.isfinite(logits).all()
    assert np.abs(logits).max() > 1e4


@pytest.mark.parametrize("grid", get_args(Grid))
@pytest.mark.parametrize("precision", get_args(Precision))
def test_answers_of_every_encoding_pass_the_check_and_say_the_same(
    teacher: Teacher, precision: Precision, grid: Grid
) -> None:
    plain = make_shard(teacher.assignment, 5)
    encoding = Encoding(precision=precision, grid=grid)
    shard = replace(plain, assignment=plain.assignment.model_copy(update={"encoding": encoding}), wants=CONTENTS)
    answers = Answers.unpack(teacher.answer(shard).pack(), shard)
    assert answers.contents == set(CONTENTS)
    with torch.inference_mode():
        logits = teacher.network(torch.from_numpy(shard.images.astype(np.float32))).numpy()
    plan, size = teacher.assignment.teacher, shard.assignment.preprocess.size
    found = decoded(answers.arrays, encoding, size=size, ends=ends_of(plan.model, plan.options))
    if precision == "float32":
        assert np.array_equal(found["logits"], logits), "exact on the teacher's own grid too"
    far = {"4bit": 0.04, "uint8": 0.004}.get(precision, 0.002)
    assert np.abs(found["logits"] - logits).max() < far * np.ptp(logits)
    others = teacher.answer(replace(plain, wants=CONTENTS)).arrays
    assert found.keys() == others.keys()
    for name in others.keys() - {"logits"}:
        assert np.abs(found[name].astype(np.float32) - others[name]).max() < 0.005, name
    height, width = (48, 32) if grid == "full" else (12, 8)
    assert answers.arrays["logits"].shape[2:] == (height, width // 2 if precision == "4bit" else width)


def test_a_network_without_a_grid_of_its_own_answers_on_half_of_the_slices(teacher: Teacher) -> None:
    network = models.create("unet", 1, 3, width=4).eval()
    plain = make_shard(teacher.assignment, 5)
    shapes = {}
    for grid in get_args(Grid):
        asks = plain.assignment.model_copy(update={"encoding": Encoding(grid=grid)})
        shard = replace(plain, assignment=asks, wants=("logits",))
        answers = Answers.unpack(replace(teacher, network=network).answer(shard).pack(), shard)
        shapes[grid] = answers.arrays["logits"].shape[2:]
    assert shapes == {"full": (48, 32), "teacher": (48, 32), "half": (24, 16)}


def test_a_shard_prepared_otherwise_is_refused(teacher: Teacher) -> None:
    other = make_assignment(preprocess=Preprocess(size=(48, 32), percentiles=(1, 99)))
    with pytest.raises(InputError, match="was prepared as"):
        teacher.answer(make_shard(other))


def test_only_what_changes_a_teacher_gives_it_another_folder(course: Course) -> None:
    plan = course.assignment.teacher
    folders = [
        folder_of(course.config, make_assignment(**changes))
        for changes in (
            {},
            {"study": "other", "study_hash": "4567", "teacher": plan.model_copy(update={"round_epochs": 2})},
            {"seed": 4},
            {"teacher": plan.model_copy(update={"lr": 0.1})},
        )
    ]
    assert folders[0] == folders[1]
    assert len(set(folders)) == 3


def test_pretrained_weights_are_fetched_once_and_not_to_go_on(
    course: Course, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(encoders, "weights", lambda name, pretrained: asked.append(bool(pretrained)))
    plan = course.assignment.teacher
    plan = plan.model_copy(update={"options": {**plan.options, "pretrained": 1}})
    again = replace(course, assignment=course.assignment.model_copy(update={"teacher": plan}))
    for epoch in (1, 2):
        again.teach(epoch, Status("north"))
    load_teacher(again.config, again.assignment)
    assert asked == [True, False, False]


def test_nobody_answers_before_a_teacher_is_trained(course: Course) -> None:
    with pytest.raises(InputError, match="no teacher has been trained"):
        load_teacher(course.config, make_assignment(seed=999))


def test_the_learning_rate_climbs_to_its_peak_and_falls_to_nearly_nothing() -> None:
    rates = [one_cycle_lr(step, peak=0.01, steps=97) for step in range(97)]
    assert max(rates) == pytest.approx(0.01, rel=1e-2)
    assert np.argmax(rates) in range(23, 27)
    assert 0 < rates[0] < 0.001
    assert 0 < rates[-1] < 0.0001
    assert one_cycle_lr(0, peak=0.01, steps=1) > 0


def test_an_epoch_shows_each_slice_once_at_most_and_differs_from_the_next(course: Course) -> None:
    batches = course.batches
    train = set(course.scans.slices("train").tolist())
    assert batches.steps == len(train) // 5
    orders = [
        np.concatenate([batches.chosen(epoch * batches.steps + i) for i in range(batches.steps)]) for epoch in (0, 1)
    ]
    assert all(len(set(order)) == len(order) and set(order) <= train for order in orders)
    assert orders[0].tolist() != orders[1].tolist()
    (images, masks), (again, _) = batches[7], batches[7]
    assert torch.equal(images, again)
    assert images.shape == (5, 1, 48, 32)
    assert masks.shape == (5, 48, 32)
    assert set(masks.flatten().tolist()) <= {0, 1, 2}


def test_parts_share_no_patient_and_the_damaged_file_is_counted(course: Course) -> None:
    scans = course.scans
    owners = [{case.patient for case in scans.parts[part]} for part in ("train", "val", "test")]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 7
    assert not any(DAMAGED in owner for part in owners for owner in part)
    assert scans.set_aside == 1


def test_who_comes_after_the_training_began_is_in_no_part(scans: Path, tmp_path: Path, assignment: Assignment) -> None:
    data = tmp_path / "scans"
    shutil.copytree(scans, data)
    later = {path: path.read_bytes() for path in sorted(data.iterdir())[:2]}
    for path in later:
        path.unlink()
    config = write_site(tmp_path, data)
    before = open_scans(config, assignment)
    folder = folder_of(config, assignment)
    for path, content in later.items():
        path.write_bytes(content)
    assert sum(open_scans(config, assignment).patients().values()) > sum(before.patients().values()), "nobody has begun"
    for path in later:
        path.unlink()
    before = open_scans(config, assignment)
    (folder / "checkpoint.pt").touch()
    for path, content in later.items():
        path.write_bytes(content)
    after = open_scans(config, assignment)
    assert len(after.cache.cases) > len(before.cache.cases)
    assert after.patients() == before.patients()
    assert after.identity() == before.identity()


def test_a_study_that_leaves_nobody_to_validate_on_is_refused_before_training(course: Course) -> None:
    bare = Scans(course.scans.cache, course.scans.parts | {"val": []}, 0)
    with pytest.raises(InputError, match="4 are for training and 0 for validation"):
        replace(course, scans=bare).teach(1, Status("north"))
    with pytest.raises(InputError, match="epochs count from 1"):
        course.teach(0, Status("north"))


def test_a_site_without_masks_is_told_what_is_missing(scans: Path, tmp_path: Path, assignment: Assignment) -> None:
    config = write_site(tmp_path, scans, more="masks = 0")
    with pytest.raises(InputError, match="no outlined MR scan") as caught:
        open_scans(config, assignment)
    assert "site check" in str(caught.value.fix)
