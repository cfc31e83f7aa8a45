"""A job from a run folder and into it: what it leaves, that one seed gives one student, and what it refuses."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from typer.testing import CliRunner

import models
from distill import schemes
from distill.batches import plain, proven
from distill.commands import distill_command
from distill.job import new_scheme, prepare, run_job
from distill.origin import Origin
from distill.schemes.base import teachers_of
from distill.settings import changed
from distill.sources import StoredAnswers
from distill.weights import track_record
from imaging.errors import InputError
from imaging.lock import Lock
from models.contents import CONTENTS
from preceptor import app
from study.envelope import digest
from study.learners import ALONE
from study.run import events
from study.start import arrays_of, first_student
from study.student import StudentCard
from study.training import Progress, weights_hash

if TYPE_CHECKING:
    from tests.distill.conftest import MadeRun

MakeRun = Callable[..., "MadeRun"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", [name for name in schemes.names() if name not in {*ALONE, "probe"}])
def test_a_job_leaves_a_plain_student_with_its_card(name: str, make_run: MakeRun) -> None:
    run = make_run(3, contents=CONTENTS)
    card = run_job(run.study, run.folder, name)
    folder = run.folder / "distill" / name
    assert StudentCard.model_validate_json((folder / "student.json").read_bytes()) == card
    student = models.create(card.model, 1, len(card.classes), **card.options)
    student.load_state_dict(load_file(folder / "student.safetensors"))
    assert weights_hash(student.state_dict()) == card.weights_hash
    teachers = schemes.create(name, student, run.study.distill, 3).needs.teachers
    assert card.teachers == {"none": [], "one": ["east"], "all": ["north", "east", "south"]}[teachers]
    assert [check.step for check in card.history] == [3, 6, 7]
    assert card.val_dice == max(check.dice or 0 for check in card.history)
    log = events(folder)
    assert [event["step"] for event in log if event["kind"] == "step"] == list(range(1, 8))
    assert [event["dice"] for event in log if event["kind"] == "validation"] == [check.dice for check in card.history]
    assert (folder / "weights.json").exists() == (name != "supervised")


def test_weights_are_told_for_every_training_slice(make_run: MakeRun) -> None:
    run = make_run(2)
    run_job(run.study, run.folder, "amtkd")
    told = json.loads((run.folder / "distill" / "amtkd" / "weights.json").read_text())
    weights = np.array(told["weights"])
    assert told["sites"] == ["north", "east", "south"]
    assert weights.shape == (len(told["slices"]), 3)
    assert weights.sum(1) == pytest.approx(1, abs=1e-5)
    assert weights.std(0).min() > 0
    assert 0 < sum(told["labelled"]) < len(told["slices"])


def test_one_seed_gives_one_student_bit_for_bit(make_run: MakeRun) -> None:
    run = make_run()
    first = run_job(run.study, run.folder, "amtkd")
    second = run_job(run.study, run.folder, "amtkd", label="again")
    other = run_job(run.study, run.folder, "amtkd", seed=1)
    assert first.weights_hash == second.weights_hash
    assert other.weights_hash != first.weights_hash
    assert other.label == "amtkd-seed-1"
    weights = [(run.folder / "distill" / label / "student.safetensors").read_bytes() for label in ("amtkd", "again")]
    assert weights[0] == weights[1]


def test_two_seeds_begin_with_other_weights_and_torchs_own_state_does_not_matter(make_run: MakeRun) -> None:
    study = make_run().study
    first: list[str] = []
    for seed in (0, 1, 0):
        torch.manual_seed(17 + len(first))
        first.append(weights_hash(new_scheme(study, "supervised", seed).student.state_dict()))
    assert first[0] != first[1]
    assert first[0] == first[2]
    assert first[0] == digest(arrays_of(first_student(study))), "what hospitals are sent, and pooled begins with"


KILLED = """
import os, signal, sys
from pathlib import Path
from distill.job import new_scheme, run_job
from study.run import read_study_of

def kill(done):
    if done.step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

run = Path(sys.argv[1])
run_job(read_study_of(run), run, "amtkd", progress=kill)
"""


@pytest.mark.slow
def test_a_killed_job_goes_on_to_the_same_student(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    whole = tmp_path / "whole"
    shutil.copytree(run.folder, whole)
    expected = run_job(run.study, whole, "amtkd")
    for step in (2, 5):  # before the first checkpoint, and between two
        words = [sys.executable, "-c", KILLED, str(run.folder), str(step)]
        killed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (run.folder / "distill" / "amtkd" / "student.json").exists()
    card = run_job(run.study, run.folder, "amtkd")
    assert card.weights_hash == expected.weights_hash
    assert [check.terms for check in card.history] == [check.terms for check in expected.history]
    log = events(run.folder / "distill" / "amtkd")
    assert [event["step"] for event in log if event["kind"] == "step"] == list(range(1, 8))


@pytest.mark.parametrize("name", ["skd", "cirkd", "amtml-kd", "ca-mkd"])
def test_what_a_scheme_learns_beside_the_student_survives_an_interruption(name: str, make_run: MakeRun) -> None:
    run = make_run(3, contents=CONTENTS, ca_mkd={"hints": 1.0}, amtml_kd={"hints": 1.0})
    expected = run_job(run.study, run.folder, name, label="whole")

    def interrupt(done: Progress) -> None:
        if done.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(run.study, run.folder, name, progress=interrupt)
    assert run_job(run.study, run.folder, name).weights_hash == expected.weights_hash


@pytest.mark.parametrize(("most", "says"), [(0, "what happens cannot be recorded"), (20_000, "the checkpoint cannot")])
def test_a_full_disk_in_mid_job_costs_nothing(most: int, says: str, make_run: MakeRun) -> None:
    """The kernel refuses to let files grow beyond `most` bytes: events at once, checkpoints at the next one."""
    run = make_run()
    expected = run_job(run.study, run.folder, "amtkd", label="whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(done: Progress) -> None:
        if done.step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))

    try:
        with pytest.raises(InputError, match=f"{says}.*; free some space"):
            run_job(run.study, run.folder, "amtkd", progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((run.folder / "distill" / "amtkd").glob(".*tmp"))
    assert run_job(run.study, run.folder, "amtkd").weights_hash == expected.weights_hash
    log = events(run.folder / "distill" / "amtkd")
    assert [event["step"] for event in log if event["kind"] == "step"] == list(range(1, 8))


def test_patience_ends_a_job(make_run: MakeRun) -> None:
    run = make_run(lr=1e-9, lr_min=0.0)  # learns nothing
    card = run_job(run.changed(validate_every=1, patience=2, steps=50), run.folder, "supervised")
    assert card.steps < 50
    dice = [check.dice or 0.0 for check in card.history]
    assert dice.index(max(dice)) == len(dice) - 3


@pytest.mark.slow
def test_jobs_side_by_side_share_what_they_prepare_and_keep_out_of_each_others_folders(make_run: MakeRun) -> None:
    run = make_run(2)
    words = [sys.executable, "-m", "preceptor", "distill", str(run.folder), "--scheme"]
    jobs = {scheme: subprocess.Popen([*words, scheme], cwd=ROOT) for scheme in ("amtkd", "uniform", "mono-teacher")}
    assert [job.wait(300) for job in jobs.values()] == [0, 0, 0]
    for scheme in jobs:
        alone = run_job(run.study, run.folder, scheme, label=f"{scheme}-alone")
        folder = run.folder / "distill"
        assert (
            alone.weights_hash
            == StudentCard.model_validate_json((folder / scheme / "student.json").read_bytes()).weights_hash
        )
    with (
        Lock(run.folder / "distill" / ".amtkd.lock"),
        pytest.raises(InputError, match="another process trains this student"),
    ):
        run_job(run.study, run.folder, "amtkd")


def test_a_finished_job_is_not_run_again(make_run: MakeRun) -> None:
    run = make_run()
    card = run_job(run.study, run.folder, "uniform")

    def fail(done: object) -> None:
        raise AssertionError("trained again")

    assert run_job(run.study, run.folder, "uniform", progress=fail) == card


def test_a_damaged_student_is_shipped_again_from_its_checkpoint(make_run: MakeRun) -> None:
    run = make_run()
    card = run_job(run.study, run.folder, "uniform")
    weights = run.folder / "distill" / "uniform" / "student.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:1000], whole[:-4] + b"\0\0\0\1", None):
        weights.unlink() if damaged is None else weights.write_bytes(damaged)
        assert run_job(run.study, run.folder, "uniform").weights_hash == card.weights_hash
        assert weights.read_bytes() == whole


def test_new_answers_make_a_new_student_and_other_settings_need_another_label(make_run: MakeRun) -> None:
    run = make_run()
    card = run_job(run.study, run.folder, "uniform")
    torch.nn.init.normal_(next(run.teachers["north"].parameters()))
    run.answer("north")
    again = run_job(run.study, run.folder, "uniform")
    assert again.weights_hash != card.weights_hash
    steps = [event["step"] for event in events(run.folder / "distill" / "uniform") if event["kind"] == "step"]
    assert steps == list(range(1, 8))
    with pytest.raises(InputError, match="holds a student of other settings; choose another `--label`"):
        run_job(run.changed(lr=0.001), run.folder, "uniform")
    slower = run_job(run.changed(lr=0.001), run.folder, "uniform", label="slower")
    assert slower.weights_hash != again.weights_hash


def test_a_student_whose_teachers_were_weighed_otherwise_is_made_anew(make_run: MakeRun) -> None:
    run, calls = make_run(2), list[int]()
    card = run_job(run.study, run.folder, "consensus")
    origin = run.folder / "distill" / "consensus" / "origin.json"
    told = json.loads(origin.read_text())
    assert told.pop("record") is True
    others = Origin.model_validate(told | {"record": False})
    assert '"record"' not in others.digest(), "a training that hears no record goes on from a checkpoint of before"
    origin.write_text(json.dumps(told))  # as before there was a record
    again = run_job(run.study, run.folder, "consensus", progress=lambda done: calls.append(done.step))
    assert calls == list(range(1, 8))
    assert again.weights_hash == card.weights_hash


def test_the_card_tells_how_wide_the_training_scans_pixels_are(make_run: MakeRun) -> None:
    run = make_run(2)
    card = run_job(run.study, run.folder, "supervised")
    assert card.pixel_mm == pytest.approx(np.median([max(case.spacing_mm[1:]) for case in run.slices.cases]))


def test_without_validation_patients_the_last_weights_count(make_run: MakeRun) -> None:
    run = make_run(2, split=(1.0, 0.0, 0.0))
    card = run_job(run.study, run.folder, "supervised")
    assert (card.best_step, card.val_dice) == (7, None)
    assert [check.dice for check in card.history] == [None, None, None]


def test_a_variant_hears_fewer_teachers_and_learns_from_fewer_masks(make_run: MakeRun) -> None:
    variants = {"less": {"without": ["east"], "masks": 1}, "none": {"masks": 0}}
    run = make_run(masks=5, variants=variants)
    for name in variants:
        distill_command(run.folder, variant=name, scheme=None, seed=None, settings=None, label=None, track=None)
    less, none = (json.loads((run.folder / "distill" / name / "student.json").read_bytes()) for name in variants)
    assert less["teachers"] == ["north", "south"]
    assert less["settings"] | {"variants": {}} == run.study.distill.of("less").model_dump(mode="json")
    told = {name: json.loads((run.folder / "distill" / name / "weights.json").read_bytes()) for name in variants}
    case = next(case for case in run.slices.cases if case.labelled and case.start in told["less"]["slices"])
    heard = zip(told["less"]["slices"], told["less"]["labelled"], strict=True)
    assert [slice_id for slice_id, labelled in heard if labelled] == list(range(case.start, case.stop))
    assert not any(told["none"]["labelled"])
    assert none["history"][0]["terms"]["dice"] == 0 < less["history"][-1]["terms"]["dice"]
    with pytest.raises(InputError, match="no variant is called `mone`, did you mean `none`"):
        distill_command(run.folder, variant="mone", scheme=None, seed=None, settings=None, label=None, track=None)
    with pytest.raises(InputError, match="no training slice has a mask"):
        run_job(run.changed(masks=0), run.folder, "supervised")


def test_who_stops_it_is_told_how_it_goes_on(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    run = make_run(2)
    monkeypatch.setattr("distill.job.fit", stopped)
    answer = CliRunner().invoke(app, ["distill", str(run.folder), "--scheme", "supervised"])
    assert answer.exit_code == 130
    assert "Stopped. The same command goes on at the last checkpoint." in answer.output


@pytest.mark.parametrize("label", ["answers-cache", "pooled", "local", "fedavg"])
def test_the_name_of_another_folder_is_no_label(make_run: MakeRun, label: str) -> None:
    run = make_run(2, answered=False)
    with pytest.raises(InputError, match=f"`{label}` is what another folder .*; choose another `--label`"):
        run_job(run.study, run.folder, "supervised", label=label)
    assert not (run.folder / "distill" / label).exists()


def test_teachers_are_proven_on_the_masks_that_are_learned_from_and_no_others(make_run: MakeRun) -> None:
    run = make_run(2, masks=5)
    job = prepare(run.changed(masks=1), run.folder, "consensus", 0)
    outlined = job.train[job.slices.labelled[job.train]]
    assert len(outlined) == 5
    part = plain(job.slices, job.rounds[0], outlined)
    answers = teachers_of(part)
    assert answers.record is not None
    assert_close(answers.record, track_record([(answers, part.masks)]))
    assert answers.record.abs().max() > 0
    assert_close(proven(job.slices, job.rounds[0], job.train, chunk=2).answers(outlined).record, answers.record)
    bare = prepare(run.changed(masks=0), run.folder, "consensus", 0)
    assert teachers_of(plain(bare.slices, bare.rounds[0], bare.train[:3])).record is None
    assert isinstance(prepare(run.study, run.folder, "amtkd", 0).rounds[0], StoredAnswers)


def test_a_study_without_any_mask_is_distilled_but_not_supervised(make_run: MakeRun) -> None:
    run = make_run(2, masks=0)
    with pytest.raises(InputError, match="no training slice has a mask, and `supervised` learns from masks alone"):
        run_job(run.study, run.folder, "supervised")
    card = run_job(run.study, run.folder, "amtkd")
    assert card.val_dice is None
    assert all(check.terms["dice"] == 0 < check.terms["kl"] for check in card.history)


@pytest.mark.parametrize("label", ["as_printed", "../x", "A", "a" * 42])
def test_a_label_that_no_site_would_take_is_refused_before_anything_is_trained(label: str, make_run: MakeRun) -> None:
    run = make_run(2)
    with pytest.raises(InputError, match="cannot be a label"):
        run_job(run.study, run.folder, "supervised", label=label)
    assert not (run.folder / "distill").exists()


def test_an_unknown_scheme_writes_nothing(make_run: MakeRun) -> None:
    run = make_run(answered=False)
    with pytest.raises(InputError, match="did you mean `uniform`"):
        run_job(run.study, run.folder, "uniforn")
    with pytest.raises(InputError, match="site north has answered 0 of 3 shards"):
        run_job(run.study, run.folder, "uniform")
    assert not list((run.folder / "distill").glob("[!.]*"))


def test_what_the_sites_were_asked_about_cannot_be_set_for_one_job(make_run: MakeRun) -> None:
    run = make_run()
    assert changed(run.study, ["amtkd.alpha=0"]).distill.amtkd.alpha == 0
    for written in ('{ law = "as-printed" }', '{"law": "as-printed"}'):
        assert changed(run.study, [f"weights={written}"]).distill.weights.law == "as-printed"
    with pytest.raises(InputError, match=r"`split` decides which slices the sites were asked about; change it in"):
        changed(run.study, ["split=[0.8, 0.2, 0.0]"])
