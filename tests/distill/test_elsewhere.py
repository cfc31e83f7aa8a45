"""A training from a study file and answers that another run has collected, and what is refused of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tomli_w
from typer.testing import CliRunner

from distill.elsewhere import begin
from imaging.errors import InputError
from preceptor import app
from study.plan import PhantomSource
from study.run import Run
from study.student import StudentCard

if TYPE_CHECKING:
    from tests.distill.conftest import MadeRun

MakeRun = Callable[..., "MadeRun"]


@pytest.fixture
def run(make_run: MakeRun) -> MadeRun:
    return make_run(3)


def study_file(run: MadeRun, **tables: dict[str, Any]) -> Path:
    """The run's study as a file, with other values in some tables."""
    content = run.study.model_dump(mode="json", exclude_none=True)
    for name, values in tables.items():
        content[name] |= values
    path = run.folder.parent / "study.toml"
    path.write_text(tomli_w.dumps(content))
    return path


def distil(study: Path, answers: Path, out: Path, *words: str) -> StudentCard:
    chosen = ["distill", str(study), "--answers", str(answers), "--out", str(out), "--json", *words]
    answer = CliRunner().invoke(app, chosen)
    if answer.exception and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return StudentCard.model_validate_json(answer.stdout)


@pytest.mark.parametrize("inside", ["", "store"])
def test_the_student_is_the_one_of_the_run_that_collected(run: MadeRun, tmp_path: Path, inside: str) -> None:
    own = json.loads(CliRunner().invoke(app, ["distill", str(run.folder), "--json"]).stdout)
    before = sorted(path.name for path in run.folder.iterdir())
    card = distil(study_file(run), run.folder / inside, tmp_path / "out")
    assert card.weights_hash == own["weights_hash"]
    assert sorted(path.name for path in run.folder.iterdir()) == before
    again = CliRunner().invoke(app, ["distill", str(tmp_path / "out"), "--json"])
    assert StudentCard.model_validate_json(again.stdout) == card, "the new folder is a run folder"
    assert "It was finished before: nothing was trained." in again.stderr


def test_another_student_learns_from_the_same_answers(run: MadeRun, tmp_path: Path) -> None:
    words = ["student.model=enet", "distill.steps=4", "lr=0.002", "student.scheme=consensus"]
    card = distil(study_file(run), run.folder, tmp_path / "out", *(part for word in words for part in ("--set", word)))
    assert (card.scheme, card.model, card.steps, card.settings.lr) == ("consensus", "enet", 4, 0.002)
    assert card.teachers == ["north", "east", "south"]


def test_phantoms_that_are_gone_are_told_before_anything_is_linked(run: MadeRun, tmp_path: Path) -> None:
    phantoms = run.study.student.model_copy(update={"sources": [PhantomSource(phantom="promise12", cases=2)]})
    study = run.study.model_copy(update={"student": phantoms})
    for folder in (run.folder, tmp_path / "out"):
        with pytest.raises(
            InputError, match=r"the scans made for the student are not beside these answers; .* --until scans"
        ):
            begin(study, run.folder, folder)
        assert not (folder / "lead").is_symlink()


def test_a_study_that_asks_nobody_needs_no_answers(run: MadeRun, tmp_path: Path) -> None:
    study, alone = study_file(run, answers={"contents": []}), ["--scheme", "supervised", "--json", "--out"]
    told = CliRunner().invoke(app, ["distill", str(study), *alone, str(tmp_path / "out")], catch_exceptions=False)
    beside = CliRunner().invoke(
        app, ["distill", str(study), "--answers", str(run.folder), *alone, str(tmp_path / "beside")]
    )
    one, other = (StudentCard.model_validate_json(each.stdout) for each in (told, beside))
    assert (one.teachers, one.weights_hash) == ([], other.weights_hash)
    assert not (tmp_path / "out" / "store").exists()


def test_phantoms_that_nobody_wrote_are_told(run: MadeRun, tmp_path: Path) -> None:
    phantoms = run.study.student.model_copy(update={"sources": [PhantomSource(phantom="promise12", cases=2)]})
    with pytest.raises(InputError, match=r"are in no run folder yet; `preceptor simulate STUDY.toml --out .* --until"):
        begin(run.study.model_copy(update={"student": phantoms}), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_run_that_collected_is_a_folder_for_its_own_answers(run: MadeRun) -> None:
    card = distil(study_file(run), run.folder, run.folder)
    assert card.teachers == ["north", "east", "south"]
    assert not (run.folder / "store").is_symlink()


def test_a_site_that_was_left_out_there_is_left_out_here(run: MadeRun, tmp_path: Path) -> None:
    shutil.rmtree(run.folder / "store" / "east")
    run.answer("east", [0])
    with pytest.raises(InputError, match="site east has answered 1 of 3 shards"):
        distil(study_file(run), run.folder, tmp_path / "refused")
    Run(run.folder).event("site-left-out", site="east", phase="collect", cause="silent", remedy="start it")
    assert distil(study_file(run), run.folder, tmp_path / "out").teachers == ["north", "east", "south"]


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"preprocess": {"size": [48, 48]}}, r"north answered about slices prepared otherwise \(\w+, the study: \w+\)"),
        ({"task": {"classes": ["background", "shell"]}}, "north knows 3 classes, the study has 2; restore the study's"),
        ({"distill": {"split": [0.2, 0.8, 0.0]}}, "answers other slices than the student's to train on|answered"),
        ({"student": {"sources": [{"folder": "SCANS", "masks": 5, "patients": [0, 6]}]}}, "other scans of the student"),
        ({"federation": {"shard_slices": 7}}, "in shards of 11 slices, the study has 7"),
    ],
)
def test_answers_of_another_study_are_refused(
    run: MadeRun, tmp_path: Path, tables: dict[str, dict[str, Any]], says: str
) -> None:
    for source in tables.get("student", {}).get("sources", []):
        source["folder"] = str(run.study.student.sources[0].model_dump()["folder"])
    with pytest.raises(InputError, match=says):
        distil(study_file(run, **tables), run.folder, tmp_path / "out")
    assert not list((tmp_path / "out").glob("distill/[!.]*/student.json"))


def test_a_folder_that_cannot_be_made_is_told(run: MadeRun, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "within"):
        with pytest.raises(InputError, match=r"cannot be made a run folder .*; choose another place with `--out`"):
            distil(study_file(run), run.folder, place)


def test_a_refusal_leaves_the_folder_as_it_was(run: MadeRun, tmp_path: Path) -> None:
    other, out = shutil.copytree(run.folder, tmp_path / "other"), tmp_path / "out"
    distil(study_file(run), run.folder, out)
    before = (out / "study.json").read_bytes()
    with pytest.raises(InputError, match="has another `store`"):
        distil(study_file(run, distill={"steps": 9, "scheme": "supervised"}), other, out)
    assert (out / "study.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["STUDY"], "a study file does not say which answers to learn from; add `--answers RUN`"),
        (["RUN", "--answers", "RUN"], "learns from its own answers; leave out `--answers`"),
        (["RUN", "--out", "x"], "`--out` goes with a study file"),
        (["STUDY", "--answers", "EMPTY"], "holds no answers; name a run folder whose answers have been collected"),
        (["STUDY", "--answers", "RUN", "--set", "task.modality=CT"], "is not KEY=VALUE of `.distill.` or `.student.`"),
        (["STUDY", "--answers", "RUN", "--set", "student.sources=[]"], "`sources` are the scans that the sites were"),
        (["STUDY", "--answers", "RUN", "--set", "student.model=ennet"], "did you mean `enet`"),
        (["STUDY", "--answers", "OTHER", "--out", "RUN"], "has another `store`|belongs to another study"),
    ],
)
def test_options_that_do_not_go_together_are_named(run: MadeRun, tmp_path: Path, words: list[str], says: str) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(run.folder, tmp_path / "other")
    places = {"STUDY": study_file(run), "RUN": run.folder, "EMPTY": tmp_path / "empty", "OTHER": tmp_path / "other"}
    chosen = [str(places.get(word, word)) for word in words]
    with pytest.raises(InputError, match=says):
        raise CliRunner().invoke(app, ["distill", *chosen]).exception or AssertionError("was taken")
