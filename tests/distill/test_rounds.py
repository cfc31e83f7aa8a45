"""Answers that come in rounds: each learned from for its share of the steps, and waited for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from torch.testing import assert_close

from distill.job import WaitsError, prepare, run_job
from imaging.errors import InputError
from study.run import Run

if TYPE_CHECKING:
    from tests.distill.conftest import MadeRun

MakeRun = Callable[..., "MadeRun"]


def in_rounds(run: MadeRun, rounds: int) -> MadeRun:
    """A run whose answers so far are those of the first of so many rounds; later ones are of its teachers exchanged."""
    answers = run.study.answers.model_copy(update={"rounds": rounds})
    plan = run.study.distill.model_copy(update={"variants": {"alone": {"mono_teacher": "north"}}})
    study, sites = run.study.model_copy(update={"answers": answers, "distill": plan}), list(run.teachers)
    exchanged = {site: run.teachers[other] for site, other in zip(sites, [*sites[1:], sites[0]], strict=True)}
    return replace(run, study=study, teachers=exchanged)


def test_each_round_is_learned_from_for_its_share_of_the_steps(make_run: MakeRun) -> None:
    run = make_run()
    once = run_job(run.study, run.folder, "amtkd", label="once")
    run, seen = in_rounds(run, 2), list[int]()
    with pytest.raises(WaitsError, match=r"learned from round 1 of 2 .*; the next has not been collected yet; collect"):
        run_job(run.study, run.folder, "amtkd", progress=lambda done: seen.append(done.step))
    assert seen == [1, 2, 3, 4]
    run.answer("north")
    with pytest.raises(WaitsError):
        run_job(run.study, run.folder, "amtkd", progress=lambda done: seen.append(done.step))
    for site in ("east", "south"):
        run.answer(site)
    card = run_job(run.study, run.folder, "amtkd", progress=lambda done: seen.append(done.step))
    assert seen == list(range(1, 8))
    whole = run_job(run.study, run.folder, "amtkd", label="whole")
    assert card.weights_hash == whole.weights_hash
    assert [check.terms for check in card.history] == [check.terms for check in whole.history]
    assert card.history[0].terms == once.history[0].terms, "both learned from the first round"
    assert card.history[-1].terms != once.history[-1].terms
    assert run_job(run.study, run.folder, "supervised").steps == 7, "whom no teacher teaches waits for no round"


def test_the_record_of_each_round_is_its_own(make_run: MakeRun) -> None:
    run = in_rounds(make_run(), 2)
    for site in run.teachers:
        run.answer(site)
    first, second = prepare(run.study, run.folder, "consensus", 0).rounds
    records = [one.answers(run.slices.labelled.nonzero()[0][:1]).record for one in (first, second)]
    assert records[0] is not None
    assert records[1] is not None
    assert records[0].abs().max() > 0
    assert_close(records[1], records[0].roll(-1))  # its teachers are the first round's, exchanged


def test_a_site_that_is_left_out_of_a_round_is_heard_as_it_answered_before(make_run: MakeRun) -> None:
    run = in_rounds(make_run(), 2)
    for site in ("east", "south"):
        run.answer(site)
    Run(run.folder).event("site-left-out", site="north", phase="collect", round=0, cause="of before", remedy="")
    with pytest.raises(WaitsError):
        run_job(run.study, run.folder, "amtkd")
    Run(run.folder).event("site-left-out", site="north", phase="collect", round=1, cause="silent", remedy="")
    card = run_job(run.study, run.folder, "amtkd")
    assert card.teachers == ["north", "east", "south"]
    alone = run.study.varied("alone")
    assert run_job(alone, run.folder, "mono-teacher", label="alone").teachers == ["north"]
    run.answer("north", [0])
    Run(run.folder).event("collected", site="north", shard=0, round=1)
    with pytest.raises(
        InputError, match="has learned from 2 rounds of answers, and 1 are there whole; go on collecting"
    ):
        run_job(run.study, run.folder, "amtkd")
    run.answer("north")
    assert run_job(run.study, run.folder, "amtkd").history[-1].terms != card.history[-1].terms, "late answers count"


def test_damage_in_a_round_that_is_over_is_told_until_the_file_is_back(make_run: MakeRun) -> None:
    run = in_rounds(make_run(), 2)
    for site in run.teachers:
        run.answer(site)
    card = run_job(run.study, run.folder, "consensus")
    chunks = (run.folder / "store" / "east" / "round-000" / "logits" / "logits" / "c").rglob("*")
    chunk = next(path for path in chunks if path.is_file())
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-1] + bytes([whole[-1] ^ 64]))
    shutil.rmtree(run.folder / "distill" / "answers-cache")
    for scheme in ("kd", "consensus", "consensus"):
        plan = run.changed(mono_teacher="east")
        with pytest.raises(InputError, match="of site east is damaged; put a copy of its files back, or learn"):
            run_job(plan if scheme == "kd" else run.study, run.folder, scheme)
    chunk.write_bytes(whole)
    assert run_job(run.study, run.folder, "consensus", label="again").weights_hash == card.weights_hash


def test_answers_of_other_rounds_than_the_study_asks_for_are_refused(make_run: MakeRun) -> None:
    run = in_rounds(make_run(), 2)
    run.answer("north", withheld=["attention"])
    for site in ("east", "south"):
        run.answer(site)
    with pytest.raises(InputError, match="site north withholds attention in round-001, before it was nothing"):
        run_job(run.study, run.folder, "amtkd")
    for path in (run.folder / "store" / "north" / "round-000").glob("*/zarr.json"):
        path.write_text(path.read_text().replace('"finished": true', '"finished": false'))
    with pytest.raises(
        InputError, match=r"the teacher of site north answered after 1 epochs, the study asks after \d+"
    ):
        run_job(run.study, run.folder, "consensus")
