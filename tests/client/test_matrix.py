"""`preceptor evaluate`: every network at every site, as a simulation's report wants it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from client.commands import evaluate_command, site_app
from client.matrix import Mixture
from client.scans import open_scans
from client.status import Status
from client.training import Course
from imaging.errors import InputError
from study.cohorts import assignment
from study.plan import Study
from study.run import MIXTURE, create_or_resume
from study.wire import CaseMetrics
from tests.client.hospital import CLASSES, make_assignment, write_scans, write_site
from tests.study.small_student import write_student

SITES = ("north", "south")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two sites with barely trained teachers, and a student."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    template = make_assignment(epochs=1)
    study = Study.model_validate(
        {
            "name": "demo",
            "task": template.task,
            "preprocess": template.preprocess,
            "teacher": template.teacher,
            "sites": [{"name": name} for name in SITES],
            "student": {"model": "espnet", "sources": [{"folder": folder / "lead"}]},
            "distill": {"threads": 1},
        }
    )
    create_or_resume(folder, study)
    for seed, name in enumerate(SITES):
        write_scans(folder / "hospitals" / name / "scans", seed=seed)
        config = write_site(folder / "hospitals" / name, folder / "hospitals" / name / "scans", name=name)
        task = assignment(study, name)
        Course(config, task, open_scans(config, task)).teach(1, Status(name))
    write_student(folder / "distill" / "amtkd", study.task.classes, study.preprocess)
    write_student(folder / "distill" / "other", ["background", "spleen"], study.preprocess)
    wide = study.preprocess.model_copy(update={"spacing_mm": (9.0, 9.0)})
    write_student(folder / "distill" / "wide", study.task.classes, wide)
    return folder


def evaluate(*arguments: str | Path) -> str:
    app = typer.Typer()
    app.command()(evaluate_command)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_every_teacher_is_evaluated_at_every_site(run: Path) -> None:
    printed = json.loads(evaluate(run, "--json", "--out", run / "cross.json"))
    assert [(row["network"], row["site"]) for row in printed] == [(a, b) for a in (*SITES, MIXTURE) for b in SITES]
    assert json.loads((run / "cross.json").read_text()) == printed
    cases = [CaseMetrics.model_validate(case) for row in printed for case in row["cases"]]
    assert len(cases) == 6
    assert set(cases[0].metrics["dice"]) == set(CLASSES[1:])


def test_teachers_together_are_the_mean_of_their_probabilities() -> None:
    one, other = (torch.nn.Conv2d(1, 3, 1) for _ in range(2))
    images = torch.randn(2, 1, 4, 5)
    mean = (one(images).softmax(1) + other(images).softmax(1)) / 2
    torch.testing.assert_close(Mixture([one, other])(images).softmax(1), mean)


def test_a_student_is_evaluated_by_its_folder(run: Path) -> None:
    rows = json.loads(evaluate(run, "--student", run / "distill" / "amtkd", "--split", "val", "--json"))
    assert [(row["network"], row["site"], row["split"]) for row in rows] == [("amtkd", site, "val") for site in SITES]
    assert all(len(row["cases"]) == 2 for row in rows)


def test_the_table_has_a_column_a_site(run: Path) -> None:
    north = run / "hospitals" / "north" / "site.toml"
    table = evaluate(run, "--site", north, "--teacher", north)
    assert "at north" in table
    assert "at south" not in table
    assert "0." in table
    assert "±" not in table, "of one patient there is no spread"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["."], "is no run folder"),
        (["RUN", "--student", "RUN/distill/none"], "holds no finished student"),
        (["RUN", "--student", "RUN/distill/other"], "segments background, spleen, the study has"),
        (["RUN", "--student", "RUN/distill/wide"], r"learned from slices prepared otherwise .*\[9\.0, 9\.0\]"),
        (["RUN", "--site", "RUN/none.toml"], "cannot be read"),
    ],
)
def test_what_is_missing_is_named(run: Path, arguments: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        evaluate(*(argument.replace("RUN", str(run)) if argument != "." else tmp_path for argument in arguments))


@pytest.mark.parametrize("command", ["serve", "check"])
def test_help_teaches_by_example(command: str) -> None:
    text = CliRunner().invoke(site_app, [command, "--help"]).stdout
    assert {"serve": "release", "check": "preview.png"}[command] in text
