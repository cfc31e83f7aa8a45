"""A finished student is trained again: the same, or what differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from typer.testing import CliRunner

from distill.job import run_job
from preceptor import app
from study.run import Run
from study.student import CARD, read_card, write_card

if TYPE_CHECKING:
    from tests.distill.conftest import MadeRun

MakeRun = Callable[..., "MadeRun"]


def replayed(run: Path, *words: str) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["replay", str(run), *words])
    return answer.exit_code, answer.stdout


def test_the_same_student_comes_out_and_nothing_else_stays(make_run: MakeRun) -> None:
    run = make_run()
    words = ["--set", "student.model=enet", "--set", "steps=4", "--set", "amtkd.alpha=0", "--label", "other"]
    assert CliRunner().invoke(app, ["distill", str(run.folder), *words]).exit_code == 0
    there = {path: path.stat().st_mtime_ns for path in (run.folder / "distill").glob("*/*")}
    code, told = replayed(run.folder, "--label", "other")
    assert (code, "other: the same student" in told, "differs" in told) == (0, True, False), told
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert not list((run.folder / "distill").glob("*.replay"))


def test_what_differs_is_told(make_run: MakeRun) -> None:
    run = make_run()
    run_job(run.study, run.folder, "uniform")
    folder = run.folder / "distill" / "uniform"
    card = read_card(folder)
    assert card
    write_card(folder, card.model_copy(update={"made_on": card.made_on | {"torch": "1.0", "processor": "abacus"}}))
    origin = json.loads((folder / "origin.json").read_bytes())
    (folder / "origin.json").write_text(json.dumps(origin | {"record": True, "begun": "other"}))
    Run(folder).event("started", **card.made_on | {"numpy": "0.9"})
    torch.nn.init.normal_(next(run.teachers["north"].parameters()))
    run.answer("north")
    study: dict[str, Any] = json.loads((run.folder / "study.json").read_bytes())
    study["augment"]["flip"] = 0.25
    (run.folder / "study.json").write_text(json.dumps(study))
    code, told = replayed(run.folder, "--label", "uniform")
    assert code == 1
    assert "uniform: ANOTHER student" in told
    for line in (
        "torch: 1.0 → ",
        "processor: abacus → ",
        "numpy: 0.9 → ",
        "settings: ",
        "weights: how answers",
        "weights: the student that it began with",
        "data: answers of north: attention/0, ",
    ):
        assert line in told
    assert "answers of east" not in told
    assert json.loads((folder / CARD).read_bytes())["weights_hash"] == card.weights_hash


def test_there_is_nothing_to_replay_before_a_student_has_finished(make_run: MakeRun) -> None:
    answer = CliRunner().invoke(app, ["replay", str(make_run().folder)])
    assert "consensus: holds no finished student; run `preceptor distill` first" in str(answer.exception)
