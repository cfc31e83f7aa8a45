"""Views: the pictures that teachers were asked about are those that the student learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from distill.answered import open_rounds
from distill.batches import TrainingBatches
from distill.job import run_job
from distill.schemes.base import Needs, teachers_of
from imaging.augment_plan import Augment
from imaging.errors import InputError
from models.knowledge import NO_MASK, told
from study.cohorts import assignment, lead_split, make_shard, shards
from study.plan import Asked
from study.views import numbered, pictures

if TYPE_CHECKING:
    from tests.distill.conftest import MadeRun

MakeRun = Callable[..., "MadeRun"]


def with_views(run: MadeRun, views: int) -> MadeRun:
    """The same run, its sites asked about so many views, too."""
    return replace(run, study=run.study.model_copy(update={"answers": Asked(views=views)}))


def batches(run: MadeRun) -> TrainingBatches:
    train = lead_split(run.study, run.slices)["train"]
    answers = open_rounds(run.study, run.folder, run.slices, Needs(contents=("logits", "contrast")))[0]
    return TrainingBatches(
        run.slices, train, answers, 5, 4, augment=run.study.augment, views=run.study.answers.views, views_seed=0
    )


def test_a_views_stored_answer_is_the_live_teachers_on_that_very_picture(make_run: MakeRun) -> None:
    run = with_views(make_run(), 2)
    for site in run.teachers:
        run.answer(site, [*range(3, len(shards(run.study, run.slices)))])
    steps = batches(run)
    for step in range(2):
        batch = steps[step]
        teachers = teachers_of(batch)
        assert teachers.answered.all()
        for number, network in enumerate(run.teachers.values()):
            with torch.no_grad():
                live = told(network, batch.images, batch.masks, classes=3, wants=("logits", "contrast"))
            assert_close(teachers.logits[:, number], live["logits"], atol=2e-3, rtol=2e-3)
            assert_close(teachers.told[number]["contrast/decoder"], live["contrast/decoder"], atol=2e-3, rtol=2e-3)
        assert (batch.masks[~batch.labelled] == NO_MASK).all()


@pytest.mark.parametrize("changed", [{"seed": 5}, {"augment": Augment(scale=0.77)}])
def test_views_that_would_look_otherwise_now_are_not_learned_from(make_run: MakeRun, changed: dict[str, Any]) -> None:
    run = with_views(make_run(), 1)
    for site in run.teachers:
        run.answer(site, [3, 4, 5])
    with pytest.raises(InputError, match=r"views by another seed or `\[augment\]` than the study's"):
        batches(replace(run, study=run.study.model_copy(update=changed)))


def test_fewer_views_than_were_answered_are_learned_from(make_run: MakeRun) -> None:
    run = with_views(make_run(), 1)
    for site in run.teachers:
        run.answer(site, [3, 4, 5])
    assert batches(with_views(run, 0))[0].images.shape == batches(run)[0].images.shape == (4, 1, 40, 48)


def test_views_differ_and_repeat_themselves(make_run: MakeRun) -> None:
    run = with_views(make_run(answered=False), 2)
    asks, train = assignment(run.study, "north"), lead_split(run.study, run.slices)["train"]
    asked = shards(run.study, run.slices)
    assert [ids.tolist() for ids in asked[:3]] == [ids.tolist() for ids in shards(with_views(run, 0).study, run.slices)]
    assert np.array_equal(np.concatenate(asked[3:6]), numbered(run.slices, train, 1))
    sent, again = (make_shard(asks, run.slices, 4, asked[4], ["logits"]) for _ in range(2))
    assert sent.pack() == again.pack()
    other = make_shard(asks, run.slices, 7, asked[7], ["logits"])
    assert not any(np.array_equal(a, b) for a, b in zip(sent.pictures()[0], other.pictures()[0], strict=True))
    assert np.array_equal(sent.images, other.images), "the slices are sent, and varied where they are answered"
    alone, mask = pictures(run.slices, asked[4][3:4], seed=0, augment=run.study.augment)
    assert np.array_equal(alone[0], sent.pictures()[0][3])
    assert np.array_equal(mask[0], sent.pictures()[1][3])


@pytest.mark.parametrize("scheme", ["amtkd", "supervised"])
def test_a_student_learns_from_views(make_run: MakeRun, scheme: str) -> None:
    run = with_views(make_run(steps=3), 1)
    for site in run.teachers:
        run.answer(site, [3, 4, 5])
    assert run_job(run.study, run.folder, scheme).steps == 3
