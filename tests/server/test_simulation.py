"""What a simulation does again and what it does not, and how its parts tell of themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from imaging.errors import InputError
from server.deployment import Coordinator
from server.federation import Federation
from server.processes import Command, Processes
from server.simulation import Simulation, simulate
from server.words import words
from study.cards import card_path, write_card
from study.plan import Averaging, Distill, FolderSource, read_study
from study.run import Run
from study.wire import Card, Parts

ROOT = Path(__file__).resolve().parents[2]
NOBODY: Parts = {"train": 0, "val": 0, "test": 0}


@pytest.mark.parametrize(
    ("ending", "fault"),
    [
        (None, None),
        (InputError("the disk is full", fix="free some"), {"cause": "the disk is full", "remedy": "free some"}),
        (KeyboardInterrupt(), {"cause": "it was stopped", "remedy": "run the same command again to go on"}),
        (KeyError("x"), {"cause": "KeyError: 'x'", "remedy": "this is a fault of Preceptor's: report it"}),
        (SystemExit(143), {"cause": "it was stopped", "remedy": "run the same command again to go on"}),
    ],
)
def test_a_part_says_when_it_began_and_how_it_ended(tmp_path: Path, ending: BaseException | None, fault: Any) -> None:
    run = Run(tmp_path)
    simulation = Simulation(*cast(Any, (None, run, None, None)))
    with pytest.raises(type(ending)) if ending else nullcontext(), simulation._timed("distill"):
        if ending:
            raise ending
    assert [event["phase"] for event in run.events("phase-started")] == ["distill"]
    [ended] = run.events("phase-ended")
    assert (ended["phase"], ended["fault"]) == ("distill", fault)
    assert ended["seconds"] >= 0


@pytest.mark.parametrize(
    ("command", "sound", "broken", "words"),
    [
        ("simulate", '"resnet18"', '"resnet81"', "the teacher of site `hospital-b`: no encoder is called `resnet81`"),
        ("compare", '"resnet18"', '"resnet81"', "the teacher of site `hospital-b`: no encoder is called `resnet81`"),
        ("simulate", '"consensus"', '"cirkd"', "scheme `cirkd` needs features, which the sites are not asked for"),
    ],
)
def test_what_cannot_be_run_shows_before_there_is_a_run_folder(
    command: str, sound: str, broken: str, words: str, tmp_path: Path
) -> None:
    study = tmp_path / "study.toml"
    whole = (ROOT / "studies" / "prostate.toml").read_text(encoding="utf-8")
    assert sound in whole
    study.write_text(whole.replace(sound, broken), encoding="utf-8")
    line = [sys.executable, "-m", "preceptor", command, str(study), "--out", str(tmp_path / "run")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_student_is_distilled_again_after_late_answers(tmp_path: Path) -> None:
    run, settings = Run(tmp_path), Distill(scheme="amtkd", steps=7, compare=["uniform"])
    study = SimpleNamespace(distill=Distill(scheme="amtkd", steps=7), averaging=Averaging())
    simulation = Simulation(*cast(Any, (study, run, None, None)))
    assert not simulation._distilled("amtkd")
    card = tmp_path / "distill" / "amtkd" / "student.json"
    card.parent.mkdir(parents=True)
    run.event("collected", site="a", shard=0, of=1, bytes=9)
    card.write_text(json.dumps({"settings": settings.model_dump(mode="json")}))
    for age, distilled in ((-10, True), (10, False)):
        collected = run.events("collected")[0]["time"]
        os.utime(card, (collected - age, collected - age))
        assert simulation._distilled("amtkd") == distilled
    study.distill = Distill(scheme="amtkd", steps=6, compare=[])
    with pytest.raises(
        InputError, match=r"students of other settings are there: amtkd; differing: steps; restore .*remove .*amtkd"
    ):
        simulation.distill(0)
    card.write_text("{")
    assert simulation._otherwise("amtkd") == []


def test_students_wait_for_those_whose_weights_they_begin_with(tmp_path: Path) -> None:
    variants = {"last": {"start": "then"}, "then": {"start": "mod"}, "beside": {"steps": 9}}
    study = SimpleNamespace(distill=Distill(scheme="mod", compare=["uniform"], variants=variants))
    simulation = Simulation(*cast(Any, (study, Run(tmp_path), None, None)))
    assert [*simulation._in_order(study.distill.students)] == [["mod", "uniform", "beside"], ["then"], ["last"]]
    assert [*simulation._in_order(["last", "uniform"])] == [["last", "uniform"]]


@pytest.mark.parametrize("shipped", [False, True])
def test_a_student_that_fails_costs_the_others_nothing(tmp_path: Path, shipped: bool) -> None:
    plan = Distill(scheme="skd" if shipped else "amtkd", compare=["uniform"])
    run, study = Run(tmp_path), SimpleNamespace(distill=plan)
    env = {"PATH": os.environ["PATH"]}
    ends = {"skd": "echo not finite; exit 1", plan.compare[0]: f"sleep 0.2; touch {tmp_path}/done"}
    jobs = {Command(name, ["sh", "-c", words], tmp_path / f"{name}.log", env): name for name, words in ends.items()}
    failed: dict[str, InputError] = {}
    with Processes(tmp_path / "processes.json") as processes:
        screen = SimpleNamespace(tick=lambda: time.sleep(0.02))
        simulation = Simulation(*cast(Any, (study, run, processes, screen)))
        with pytest.raises(InputError, match="not finite") if shipped else nullcontext():
            simulation._complete(jobs, failed)
    assert (tmp_path / "done").exists()
    assert list(failed) == ["skd"]
    [event] = run.events("student-failed")
    assert (event["label"], "not finite" in event["cause"]) == ("skd", True)
    assert "skd was not trained, the others go on" in (words(event) or "")


@pytest.mark.parametrize(
    ("epochs", "until", "rounds"),
    [((0, 0), "report", [0, 1, 2]), ((0, 0), "collect", [0]), ((7, 4), "report", [1, 2]), ((9, 18), "distill", [2])],
)
def test_a_round_is_played_until_somebody_has_trained_on(
    tmp_path: Path, epochs: tuple[int, int], until: str, rounds: list[int]
) -> None:
    study = read_study(ROOT / "studies" / "tiny.toml")
    teacher, answers = study.teacher.model_copy(update={"epochs": 18}), study.answers.model_copy(update={"rounds": 3})
    study = study.model_copy(update={"teacher": teacher, "answers": answers})
    for site, trained in zip(study.sites, epochs, strict=True):
        if trained:
            card = Card(
                site=site.name, model="", options={}, parameters=1, weights_hash="w", fingerprint="f", epochs=trained,
                finished=trained >= 18, dice=0.5, best_epoch=1, patients=NOBODY, slices=NOBODY, set_aside=0, history=[],
            )  # fmt: skip
            write_card(tmp_path, card)
    simulation = Simulation(*cast(Any, (study, Run(tmp_path), None, None)))
    assert simulation._rounds(until) == rounds


@pytest.mark.parametrize(("age", "again"), [(-10, True), (10, False)])
def test_teachers_are_evaluated_again_after_one_has_learned_more(tmp_path: Path, age: int, again: bool) -> None:
    study = cast(Any, SimpleNamespace(sites=[SimpleNamespace(name="a")], averaging=Averaging()))
    simulation, asked = Simulation(study, Run(tmp_path), *cast(Any, (None, None))), list[str]()
    simulation._teachers = lambda: ["a"]  # type: ignore[method-assign]
    simulation._preceptor = lambda name, *words: asked.append(words[0])  # type: ignore[method-assign]
    card, table = card_path(tmp_path, "a"), tmp_path / "cross.json"
    card.parent.mkdir()
    for path, second in ((card, 1000), (table, 1000 + age)):
        path.write_text("{}")
        os.utime(path, (second, second))
    simulation.cross()
    assert bool(asked) == again


@pytest.mark.parametrize(
    ("until", "words"), [("train", "site hospital-a has no `source`"), ("scans", "student's source 1 are missing")]
)
def test_scans_are_written_also_where_hospitals_have_their_own(tmp_path: Path, until: str, words: str) -> None:
    study = read_study(ROOT / "studies" / "prostate.toml")
    lead = study.student.model_copy(update={"sources": [FolderSource(folder=tmp_path / "gone")]})
    sites = [site.model_copy(update={"source": None}) for site in study.sites]
    with pytest.raises(InputError, match=words):
        simulate(study.model_copy(update={"student": lead, "sites": sites}), tmp_path / "run", Console(), until=until)


def test_names_that_a_site_s_own_file_gives_otherwise_stop_it_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "ward").mkdir()
    (tmp_path / "ward" / "dataset.json").write_text('{"labels": {"0": "background", "1": "bladder"}}')
    study = read_study(ROOT / "studies" / "prostate.toml")
    site = study.sites[0].model_copy(update={"source": FolderSource(folder=tmp_path / "ward")})
    with pytest.raises(InputError, match="calls label 1 `bladder`, the study `prostate`"):
        simulate(study.model_copy(update={"sites": [site]}), tmp_path / "run", Console())
    assert not (tmp_path / "run").exists()


def test_a_phase_that_failed_stops_the_simulation_in_its_words(tmp_path: Path) -> None:
    run = Run(tmp_path)
    federation = Federation.__new__(Federation)

    class Processes:
        """Stands for Flower's command: the ServerApp ends with a fault."""

        def complete(self, commands: object, *, tick: object) -> list[str]:
            fault = {"cause": "two sites are left", "where": "site a", "remedy": "start it"}
            run.event("phase-ended", phase="train", seconds=1.0, fault=fault)
            return ['{"success": true, "run-id": "7"}']

        def check(self) -> None: ...

    federation.run, federation.processes, federation.tick = run, cast(Any, Processes()), lambda: None
    federation.coordinator = Coordinator(tmp_path / "coordinator", 1)
    with pytest.raises(InputError) as caught:
        federation.conduct("train")
    assert (caught.value.what, caught.value.where, caught.value.fix) == ("two sites are left", "site a", "start it")
