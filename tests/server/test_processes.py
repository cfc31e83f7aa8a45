"""Processes end with whoever started them, however that one ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from imaging.errors import InputError
from imaging.lock import Lock
from server import processes
from server.processes import Command, Processes, end_leftovers, started

ROOT = Path(__file__).resolve().parents[2]


def command(tmp_path: Path, script: str, name: str = "the job") -> Command:
    return Command(name, ["sh", "-c", script], tmp_path / f"{name}.log", os.environ)


def wait_for(condition: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def gone(pid: int) -> bool:
    return started(pid) is None


def pid_in(path: Path) -> int:
    assert wait_for(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def tick() -> None:
    time.sleep(0.02)


def test_stop_ends_children_and_their_children(tmp_path: Path) -> None:
    with Processes(tmp_path / "processes.json") as running:
        child = running.start(command(tmp_path, f"sleep 60 & echo $! > {tmp_path}/inner; wait"), lasting=True)
        inner = pid_in(tmp_path / "inner")
        assert not gone(inner)
    assert gone(child.process.pid)
    assert wait_for(lambda: gone(inner))
    assert not (tmp_path / "processes.json").exists()
    assert guards(tmp_path) == []


def test_a_child_that_will_not_go_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.2)
    with Processes(tmp_path / "processes.json") as running:
        child = running.start(
            command(tmp_path, f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done")
        )
        pid_in(tmp_path / "pid")
    assert child.process.returncode == -signal.SIGKILL


def test_jobs_give_back_what_they_printed_in_the_order_asked(tmp_path: Path) -> None:
    slow, quick = command(tmp_path, "sleep 0.3; echo slow", "slow"), command(tmp_path, "echo quick", "quick")
    with Processes(tmp_path / "processes.json") as running:
        assert running.complete([slow, quick], tick=tick) == ["slow\n", "quick\n"]
        assert running.complete([quick], tick=tick) == ["quick\n"], "an earlier start's output is not shown again"
        assert json.loads((tmp_path / "processes.json").read_text()) == []


def test_a_failing_job_shows_its_last_lines_and_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path / "processes.json") as running, pytest.raises(InputError) as caught:
        running.complete([command(tmp_path, "seq 100; echo no such scanner >&2; exit 3")], tick=tick)
    told = str(caught.value)
    assert "the job ended with exit code 3" in told
    assert "no such scanner" in told
    assert "100" in told
    assert " 50\n" not in told
    assert str(tmp_path / "the job.log") in told


def test_a_job_that_fails_costs_the_others_nothing_where_somebody_takes_note(tmp_path: Path) -> None:
    failed: list[tuple[str, str]] = []
    jobs = [command(tmp_path, words, name) for name, words in (("a", "echo no; exit 2"), ("b", "sleep 0.2; echo yes"))]
    with Processes(tmp_path / "processes.json") as running:
        printed = running.complete(jobs, tick=tick, failed=lambda job, error: failed.append((job.name, error.what)))
        assert json.loads((tmp_path / "processes.json").read_text()) == []
    assert printed == ["yes\n"]
    assert [(name, "exit code 2" in what, "no" in what) for name, what in failed] == [("a", True, True)]


def test_a_lasting_process_that_ends_is_reported_while_a_job_runs(tmp_path: Path) -> None:
    with Processes(tmp_path / "processes.json") as running:
        running.start(command(tmp_path, "sleep 0.2; echo the disk is full; kill -9 $$", "the service"), lasting=True)
        with pytest.raises(InputError, match=r"the service was ended by SIGKILL(.|\n)*the disk is full"):
            running.complete([command(tmp_path, "sleep 30")], tick=tick)


def test_what_may_end_is_started_anew_as_often_as_it_may(tmp_path: Path) -> None:
    script = f"echo x >> {tmp_path}/starts; echo no answer; exit 1"
    once = replace(command(tmp_path, script, "an executor"), again=2)
    with Processes(tmp_path / "processes.json") as running:
        running.start(once, lasting=True)
        with pytest.raises(InputError, match=r"an executor ended with exit code 1(.|\n)*no answer"):
            running.complete([command(tmp_path, "sleep 30")], tick=tick)
    assert (tmp_path / "starts").read_text() == "x\n" * 3


def test_nothing_outlives_a_killed_simulation(tmp_path: Path) -> None:
    script = f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from server.processes import Command, Processes
folder = Path({str(tmp_path)!r})
with Processes(folder / "processes.json") as running:
    words = ["sh", "-c", f"sleep 60 & echo $! > {{folder}}/inner; echo $$ > {{folder}}/pid; wait"]
    running.start(Command("sleeper", words, folder / "log", os.environ))
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script])
    child, inner = pid_in(tmp_path / "pid"), pid_in(tmp_path / "inner")
    parent.kill()
    parent.wait()
    assert wait_for(lambda: gone(child))
    assert wait_for(lambda: gone(inner)), "a child's child is not tied to anything; its group is"
    assert wait_for(lambda: not guards(tmp_path))


@pytest.mark.parametrize("taken", [False, True])
def test_a_guard_leaves_the_processes_of_a_later_simulation_alone(tmp_path: Path, taken: bool) -> None:
    sleeper = subprocess.Popen(["sleep", "60"], process_group=0)
    (tmp_path / "processes.json").write_text(json.dumps([{"pid": sleeper.pid}]))
    lock = Lock(tmp_path / "processes.lock")
    try:
        if taken:
            assert lock.take(wait=False)
        guard = [sys.executable, "-I", "-S", str(processes.GUARD), str(tmp_path / "processes.json")]
        subprocess.run(guard, stdin=subprocess.DEVNULL, check=True)
        time.sleep(0.2)
        assert (sleeper.poll() is None) == taken
    finally:
        lock.release()
        sleeper.kill()
        sleeper.wait()


def test_a_guard_waits_for_the_lock_of_its_dying_owner(tmp_path: Path) -> None:
    lock, record = Lock(tmp_path / "processes.lock"), tmp_path / "processes.json"
    assert lock.take(wait=False)
    sleeper = subprocess.Popen(["sleep", "60"], process_group=0)
    record.write_text(json.dumps([{"name": "sleeper", "pid": sleeper.pid, "started": 0}]))
    guard = subprocess.Popen([sys.executable, "-I", "-S", str(processes.GUARD), str(record)], stdin=subprocess.DEVNULL)
    time.sleep(0.5)
    lock.release()
    assert guard.wait(10) == 0
    assert sleeper.wait(10) == -signal.SIGKILL


def guards(folder: Path) -> list[str]:
    table = subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True, check=True).stdout
    return [row for row in table.splitlines() if "guard.py" in row and str(folder) in row]


def test_leftovers_are_ended_and_strangers_left_alone(tmp_path: Path) -> None:
    leftover, stranger = (subprocess.Popen(["sleep", "60"], process_group=0) for _ in range(2))
    entries = [
        {"name": "a service", "pid": leftover.pid, "started": started(leftover.pid)},
        {"name": "a node", "pid": stranger.pid, "started": "long ago"},
        {"name": "an executor", "pid": 2**22 + 1, "started": "1"},
    ]
    (tmp_path / "processes.json").write_text(json.dumps(entries))
    try:
        assert end_leftovers(tmp_path / "processes.json") == ["a service"]
        assert leftover.wait(5) == -signal.SIGKILL
        assert stranger.poll() is None
    finally:
        for process in (leftover, stranger):
            process.kill()
            process.wait()


def test_two_simulations_do_not_share_a_folder(tmp_path: Path) -> None:
    with Processes(tmp_path / "processes.json"), pytest.raises(InputError, match="another simulation runs there"):
        Processes(tmp_path / "processes.json")
    with Processes(tmp_path / "processes.json"):
        pass
