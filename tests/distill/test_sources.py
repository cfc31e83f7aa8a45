"""Stored answers against the teachers run live, and what happens where the store is not whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch.testing import assert_close

import models
from distill.answered import open_rounds
from distill.schemes.base import Needs
from distill.sources import LiveTeachers, StoredAnswers
from imaging.errors import InputError
from models.contents import CONTENTS, Grid, Precision
from study.cohorts import lead_split
from study.plan import Asked, Teacher
from study.run import Run

if TYPE_CHECKING:
    from tests.distill.conftest import MadeRun

MakeRun = Callable[..., "MadeRun"]
ALL = Needs(contents=("logits", "attention", "contrast"))


def opened(run: MadeRun, needs: Needs = ALL) -> StoredAnswers:
    return open_rounds(run.study, run.folder, run.slices, needs)[0]


@pytest.mark.parametrize("classes", [2, 3])
def test_stored_answers_are_those_of_the_teachers_run_live(classes: int, make_run: MakeRun) -> None:
    run = make_run(classes, contents=CONTENTS)
    stored = opened(run, Needs(contents=CONTENTS))
    live = LiveTeachers(run.teachers, run.slices, classes=classes, contents=CONTENTS)
    ids = lead_split(run.study, run.slices)["train"][[2, 3, 5, 7, 13, 19]]
    said, says = stored.answers(ids), live.answers(ids)
    assert stored.sites == live.sites == ("north", "east", "south")
    assert said.logits.shape == (6, 3, classes, 40, 48)
    assert said.told[0]["valid/encoder"].any()
    assert not said.told[0]["valid/encoder"].all()
    close = partial(assert_close, atol=2e-3, rtol=2e-3)  # float16 holds 11 bits
    close(said.logits.float(), says.logits.float())
    assert_close(said.answered, says.answered)
    for stored_one, live_one in zip(said.told, says.told, strict=True):
        assert stored_one.keys() == live_one.keys()
        for name, array in stored_one.items():
            close(array.float(), live_one[name].float())


@pytest.mark.parametrize(
    ("precision", "grid", "far"), [("float32", "teacher", 0), ("uint8", "teacher", 0.005), ("4bit", "half", 0.05)]
)
def test_compact_answers_are_read_on_the_slices_own_grid(
    precision: Precision, grid: Grid, far: float, make_run: MakeRun
) -> None:
    run = make_run(answered=False)
    teacher = Teacher(model="pspnet", options={"encoder": "resnet18"})
    study = run.study.model_copy(update={"answers": Asked(precision=precision, grid=grid), "teacher": teacher})
    networks = {site: models.create("pspnet", 1, 3, encoder="resnet18").eval() for site in run.teachers}
    run = replace(run, study=study, teachers=dict(networks))
    for site in run.teachers:
        run.answer(site)
    said = opened(run)
    ids = lead_split(run.study, run.slices)["train"][5:16]
    live = LiveTeachers(run.teachers, run.slices, classes=3)
    logits, exact = said.answers(ids).logits.float(), live.answers(ids).logits.float()
    assert logits.shape == (11, 3, 3, 40, 48)
    assert float((logits - exact).abs().max()) < far * float(exact.max() - exact.min()) + 4e-3
    attention = said.answers(ids).told[1]["attention/decoder"].float()
    assert float((attention - live.answers(ids).told[1]["attention/decoder"].float()).abs().max()) < 0.005


def test_only_what_a_scheme_needs_is_read(make_run: MakeRun) -> None:
    run = make_run()
    logits = opened(run, Needs()).answers(run.slices.case_index[:0])
    assert logits.told == [{}, {}, {}]


def test_one_teacher_is_the_best_at_home_or_the_one_that_the_study_names(make_run: MakeRun) -> None:
    run = make_run()
    one = Needs(teachers="one")
    assert opened(run, one).sites == ("east",)
    named = run.changed(mono_teacher="south")
    assert open_rounds(named, run.folder, run.slices, one)[0].sites == ("south",)


def test_answers_are_unpacked_once_and_again_when_they_change(make_run: MakeRun) -> None:
    run = make_run()
    opened(run)
    note = run.folder / "distill" / "answers-cache" / "round-000" / "north" / "logits" / "note.json"
    before = note.stat().st_ino
    opened(run)
    assert note.stat().st_ino == before
    torch.nn.init.zeros_(next(run.teachers["north"].parameters()))
    run.answer("north", [1])
    changed = opened(run)
    assert note.stat().st_ino != before
    ids = lead_split(run.study, run.slices)["train"][11:22]
    live = LiveTeachers({"north": run.teachers["north"]}, run.slices, classes=3)
    assert_close(changed.answers(ids).logits[:, :1], live.answers(ids).logits, atol=2e-3, rtol=2e-3)


def test_room_for_all_answers_is_taken_before_they_are_mapped(make_run: MakeRun) -> None:
    run = make_run()
    opened(run)  # a hole filled through a map kills the process on a full disk
    for path in (run.folder / "distill" / "answers-cache").glob("*/*/*/*.npy"):
        assert path.stat().st_blocks * 512 >= path.stat().st_size


def test_an_unfinished_site_is_named_with_its_first_missing_shard(make_run: MakeRun) -> None:
    run = make_run(answered=False)
    run.answer("north")
    run.answer("south")
    run.answer("east", [0])
    expected = r"site east has answered 1 of 3 shards; the first missing is 1; collect: `preceptor simulate"
    with pytest.raises(InputError, match=expected):
        opened(run)


def test_a_site_that_is_not_heard_need_not_have_answered(make_run: MakeRun) -> None:
    run = make_run(answered=False)
    run.answer("north")
    run.answer("south")
    run.answer("east", [0])
    heard = open_rounds(run.changed(without=["east"]), run.folder, run.slices, ALL)[0]
    assert heard.sites == ("north", "south")


def test_no_answers_at_all(make_run: MakeRun) -> None:
    with pytest.raises(InputError, match=r"site north has answered 0 of 3 shards.*--until collect`"):
        opened(make_run(answered=False))


def test_a_site_that_was_left_out_halfway_counts_where_it_answered(make_run: MakeRun) -> None:
    run = make_run(answered=False)
    run.answer("north")
    run.answer("south", [0, 2])
    Run(run.folder).event("site-left-out", phase="collect", site="south", cause="silent for 3600 s", remedy="")
    Run(run.folder).event("site-left-out", phase="collect", site="east", cause="silent for 3600 s", remedy="")
    answers = opened(run)
    assert answers.sites == ("north", "south")
    said = answers.answers(lead_split(run.study, run.slices)["train"])
    assert said.answered[:, 0].all()
    assert said.answered[:, 1].nonzero()[:, 0].tolist() == [*range(11), *range(22, len(said.answered))]
    assert (said.logits[11:22, 1] == 0).all()


def test_one_teacher_is_chosen_among_those_who_answered_all(make_run: MakeRun) -> None:
    run = make_run(answered=False)
    for site, shards in (("north", None), ("east", [0]), ("south", None)):
        run.answer(site, shards)
    Run(run.folder).event("site-left-out", phase="collect", site="east", cause="silent for 3600 s", remedy="")
    assert opened(run, Needs("one")).sites == ("south",), "east, the best at home, has answered one shard"


def test_too_few_sites(make_run: MakeRun) -> None:
    run = make_run(answered=False)
    for site in ("north", "east", "south"):
        Run(run.folder).event("site-left-out", phase="collect", site=site, cause="silent", remedy="")
    with pytest.raises(InputError, match=r"0 sites have answered all, `federation.min_sites` asks for 1"):
        opened(run)


def test_what_a_policy_withholds_is_learned_from_the_others(make_run: MakeRun) -> None:
    run = make_run(answered=False)
    for site in ("north", "east", "south"):
        run.answer(site, withheld=["contrast"] if site == "east" else [])
    said = opened(run).answers(lead_split(run.study, run.slices)["train"][:2])
    assert said.gives("contrast/encoder").tolist() == [True, False, True]
    assert said.gives("attention/encoder").all()
    assert said.answered.all()


def test_what_no_policy_released_is_told_with_its_remedy(make_run: MakeRun) -> None:
    run = make_run(answered=False)
    for site in ("north", "east", "south"):
        run.answer(site, withheld=["contrast"])
    with pytest.raises(InputError, match=r"no site released contrast.*learn by a scheme that does without"):
        opened(run)
    assert opened(run, Needs()).sites == ("north", "east", "south")


def test_a_content_that_was_not_asked_for_is_told_with_its_remedy(make_run: MakeRun) -> None:
    with pytest.raises(InputError, match=r'not asked for features.*add \["features"\] to `answers.contents`'):
        opened(make_run(), Needs(contents=("logits", "features")))


def chunk_of(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_a_damaged_shard_is_named_and_leaves_no_cache(make_run: MakeRun) -> None:
    run = make_run()
    chunk = chunk_of(run.folder / "store" / "east")
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    with pytest.raises(InputError, match=r"\w+ of shard \d of site east is damaged.*collect again"):
        opened(run)
    assert not list((run.folder / "distill" / "answers-cache" / "round-000" / "east").glob("*/note.json"))
    assert not list((run.folder / "distill" / "answers-cache").rglob("*.tmp"))


def test_foreign_slices_are_refused(make_run: MakeRun) -> None:
    run = make_run()
    other = run.study.model_copy(update={"seed": run.study.seed + 1})
    with pytest.raises(InputError, match="of site north answers other slices than the student's"):
        open_rounds(other, run.folder, run.slices, ALL)


def test_patients_whom_nobody_was_asked_about_are_not_passed_over(make_run: MakeRun) -> None:
    made = make_run(answered=False)
    large = made.study.federation.model_copy(update={"shard_slices": 64})  # all of it in one shard, however split
    run = replace(made, study=made.study.model_copy(update={"federation": large}))
    for site in run.teachers:
        run.answer(site)
    assert opened(run).sites == tuple(run.teachers)
    with pytest.raises(InputError, match=r"shard 0 of site north answers other slices .*distill.split"):
        open_rounds(run.changed(split=[1.0, 0.0, 0.0]), run.folder, run.slices, ALL)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 64
    path.write_bytes(content)


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flipped, halved, Path.unlink])
def test_a_damaged_cache_is_made_anew(make_run: MakeRun, damage: Callable[[Path], None]) -> None:
    run = make_run()
    ids = lead_split(run.study, run.slices)["train"]
    before = opened(run).answers(ids).logits
    damage(run.folder / "distill" / "answers-cache" / "round-000" / "north" / "logits" / "logits.npy")
    assert torch.equal(opened(run).answers(ids).logits, before)
