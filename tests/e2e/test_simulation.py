"""The whole deployment, real processes, TLS and node authentication: killed in the middle, then played to its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from client.site import read_site
from client.teacher import load_teacher
from models.contents import DEFAULT
from server.evaluate import evaluated, students
from study.cohorts import assignment, lead_slices, make_shard, open_store, shards
from study.run import Run, events
from study.training import use_threads
from study.wire import Card, digest

ROOT = Path(__file__).resolve().parents[2]
SITES = ("hospital-a", "hospital-b")
PATIENCE_S = 600.0
"""For one milestone on a busy machine; on an idle one of two cores the whole takes about 90 s."""

pytestmark = pytest.mark.slow


def heeds_ctrl_c() -> None:
    """As at a terminal; a shell starts what runs in the background deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Simulation:
    """`preceptor simulate` as a user starts it, and what it says."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.run = folder / "run"
        words = [sys.executable, "-m", "preceptor", "simulate", "studies/tiny.toml", "--out", str(self.run)]
        self.log = folder / "simulate.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*words, *options],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=heeds_ctrl_c,  # noqa: PLW1509  (this process has no threads of its own)
            )

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait for a milestone; fail with what was said if it ends before."""
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def end(self) -> int:
        return self.process.wait(PATIENCE_S)

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def left_running(self) -> list[str]:
        """Processes that name the run folder, once the last have had time to go."""
        deadline = time.monotonic() + 30
        while (left := self._running()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def _running(self) -> list[str]:
        table = subprocess.run(["ps", "-wweo", "stat,args"], capture_output=True, text=True, check=True).stdout
        return [row for row in table.splitlines() if str(self.run) in row and not row.startswith("Z")]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Simulation]]:
    started: list[Simulation] = []

    def begin(*options: str, folder: str = ".") -> Simulation:
        (tmp_path / folder).mkdir(exist_ok=True)
        started.append(Simulation(tmp_path / folder, *options))
        return started[-1]

    yield begin
    for simulation in started:
        if simulation.process.poll() is None:
            os.killpg(simulation.process.pid, signal.SIGTERM)
            simulation.process.wait(60)


def of(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in events(folder) if event["kind"] == kind]


def check_comparison(run: Path) -> None:
    """A comparison goes on from a finished run, adds a scheme to it, and lays out its tables."""
    folder = run.with_name("compared")
    folder.mkdir()
    cards = {path: path.read_bytes() for path in run.glob("distill/*/student.json")}
    run.rename(folder / "seed-0")
    words = ["compare", "studies/tiny.toml", "--schemes", "kd", "--seeds", "1", "--out", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "preceptor", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert set(told["figures"]) == {"amtkd", "fedadam", "kd", "pooled", "supervised"}
    assert {one["label"] for one in told["differences"]} == set(told["figures"]) - {"supervised"}
    assert "| *all teachers, mean of their probabilities* |" in (folder / "comparison.md").read_text(encoding="utf-8")
    assert all((folder / "seed-0" / path.relative_to(run)).read_bytes() == card for path, card in cards.items())


def test_a_study_killed_while_it_trains_collects_and_distils_ends_as_one_that_never_was(
    start: Callable[..., Simulation],
) -> None:
    unbroken = start(folder="unbroken")  # beside the other: both wait much of their time
    for folder, kind in ((".", "taught"), (".", "collected"), ("distill/amtkd", "step")):
        kill(start(), folder, kind)
    last = start()
    assert last.end() == 0, last.said
    assert last.left_running() == []
    assert f"{last.run}/report.html" in last.said.replace("\n", "")
    assert (last.run / "report.html").stat().st_size > 10_000
    check_results(last.run)
    check_answers_against_live_teachers(last.run)
    for site in SITES:
        epochs = [event["epoch"] for event in of(last.run, "taught") if event["site"] == site]
        assert epochs == sorted(set(epochs)), "nothing is trained twice"
    rounds = [(event["label"], event["round"]) for event in of(last.run, "round-ended")]
    assert rounds == [("fedadam", 1), ("fedadam", 2)], "and no round"

    starts = len(of(last.run, "federation-started"))
    again = start()
    assert again.end() == 0, again.said
    assert len(of(again.run, "federation-started")) == starts, "nothing is left that would need the sites"
    assert again.left_running() == []

    assert unbroken.end() == 0, unbroken.said
    assert hashes(unbroken.run) == hashes(last.run), "the same bits"
    check_comparison(last.run)


def kill(simulation: Simulation, folder: str, kind: str) -> None:
    """`kill -9` as soon as there is such an event in that folder of the run; whatever it started goes with it."""
    simulation.until(lambda: bool(of(simulation.run / folder, kind)))
    simulation.process.kill()
    simulation.process.wait()
    assert simulation.left_running() == []


def hashes(run: Path) -> dict[str, str]:
    """Of every student's weights and every teacher's."""
    teachers = {site: Card.model_validate_json((run / "teachers" / f"{site}.json").read_text()) for site in SITES}
    return {one.label: one.weights_hash for one in students(run)} | {s: c.weights_hash for s, c in teachers.items()}


def check_results(run: Path) -> None:
    """Every part of the run folder is there and whole."""
    study = Run(run).study
    cards = [Card.model_validate_json((run / "teachers" / f"{site}.json").read_text()) for site in SITES]
    assert [(card.epochs, card.finished) for card in cards] == [(2, True)] * 2
    store = open_store(study, run, lead_slices(study, run))
    shards = of(run, "asking")[-1]["shards"]
    assert shards >= 2
    assert not any(store.missing(site, shards, DEFAULT) for site in SITES)
    assert [student.label for student in students(run)] == ["amtkd", "fedadam", "pooled", "supervised"]
    assert all(evaluated(run, *asked) for asked in product(students(run), SITES))
    traffic = json.loads((run / "traffic.json").read_text(encoding="utf-8"))
    assert all(traffic[site]["received"] > 10_000 for site in SITES)
    assert len(json.loads((run / "cross.json").read_text(encoding="utf-8"))) == 6
    assert [event["fault"] for event in of(run, "phase-ended") if event["fault"]] == []


def check_answers_against_live_teachers(run: Path) -> None:
    """What the store holds is what the same teachers say when asked here and now, bit for bit."""
    study, store = Run(run).study, open_store(Run(run).study, run, lead_slices(Run(run).study, run))
    cache = lead_slices(study, run)
    for site in SITES:
        config = read_site(run / "hospitals" / site / "site.toml")
        use_threads(config.threads)
        asked = assignment(study, site)
        teacher = load_teacher(config, asked)
        for index, ids in enumerate(shards(study, cache)):
            live = teacher.answer(make_shard(asked, cache, index, ids, DEFAULT))
            assert digest(live.arrays) == digest(store.read(site, index, DEFAULT).arrays)


def test_ctrl_c_stops_every_process_and_says_how_to_go_on(start: Callable[..., Simulation]) -> None:
    simulation = start("--until", "scans")
    simulation.until(lambda: (simulation.run / "processes.json").exists() and bool(simulation._running()[1:]))
    os.killpg(simulation.process.pid, signal.SIGINT)
    assert simulation.end() == 130, simulation.said
    assert "Run the same command again to go on" in simulation.said
    assert "Traceback" not in simulation.said
    assert simulation.left_running() == []
