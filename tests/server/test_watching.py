"""What the person at the terminal is told: each event once, in words, with the share that is done."""

from __future__ import annotations

import io
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from server.scene import Scene
from server.screen import Screen
from server.tail import Tail
from server.watch import Watch, status
from server.words import duration, words
from study.run import Run
from tests.server.loopback import SITES, make_study


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def taught(site: str, epoch: int, *, finished: bool = False) -> dict[str, Any]:
    return {"time": 1.0, "kind": "taught", "site": site, "epoch": epoch, "dice": 0.5, "finished": finished}


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (187, "3 min 07 s"), (3600 * 2 + 299, "2 h 04 min")]
)
def test_durations_are_told_as_people_do(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_an_event_that_only_programs_care_for_has_no_words() -> None:
    assert words({"kind": "versions-changed", "keys": []}) is None


def test_the_time_left_follows_the_pace_since_this_start(tmp_path: Path) -> None:
    clock = Clock()
    scene = Scene(make_study(tmp_path), clock=clock)
    for event in ({"kind": "phase-started", "phase": "train"}, taught(SITES[0], 5, finished=True)):
        scene.hear(event)
    scene.begin_watching()
    assert scene.left_s() is None
    scene.hear({"kind": "phase-started", "phase": "train"})
    assert scene.share() == pytest.approx(1 / 3)
    clock.now = 10.0
    scene.hear(taught(SITES[1], 5, finished=True))
    assert scene.share() == pytest.approx(2 / 3)
    assert scene.left_s() == pytest.approx(10.0)


def test_a_site_that_is_left_out_is_not_waited_for(tmp_path: Path) -> None:
    scene = Scene(make_study(tmp_path))
    scene.hear({"kind": "phase-started", "phase": "train"})
    for site in SITES[:2]:
        scene.hear(taught(site, 3, finished=True))
    scene.hear({"kind": "site-left-out", "site": SITES[2], "cause": "", "remedy": ""})
    assert scene.share() == 1.0


def test_a_tail_gives_each_line_once_also_when_the_file_loses_its_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert tail.read() == []

    def line(step: int) -> str:
        return json.dumps({"time": float(step), "kind": "step", "step": step}) + "\n"

    path.write_text(line(1) + line(2) + line(3)[:-5])
    assert [event["step"] for event in tail.read()] == [1, 2]
    path.write_text(line(1) + line(2) + line(3))
    assert [event["step"] for event in tail.read()] == [3]
    (tmp_path / "new").write_text(line(1))
    (tmp_path / "new").replace(path)
    with path.open("a") as file:
        file.write(line(4))
    assert [event["step"] for event in tail.read()] == [4]


def run_with(folder: Path) -> Run:
    folder.mkdir()
    run = Run(folder)
    run.event("phase-started", phase="train")
    run.event("taught", site=SITES[0], epoch=2, dice=0.25, finished=False)
    return run


def test_without_a_terminal_each_milestone_of_this_start_is_a_line(tmp_path: Path) -> None:
    run, out = run_with(tmp_path / "run"), io.StringIO()
    with Screen(make_study(tmp_path), run.folder, Console(file=out), watch=Watch()) as screen:
        run.event("taught", site=SITES[1], epoch=4, dice=0.75, finished=False)
        Run(tmp_path / "run").event("site-left-out", site=SITES[2], cause="silent", remedy="call [them]")
        screen.tick()
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert "hospital-b: epoch 4, validation Dice 0.750" in lines[0]
    assert "hospital-c: LEFT OUT: silent; call [them]" in lines[1]


def test_at_a_terminal_the_table_tells_where_every_site_is(tmp_path: Path) -> None:
    run, out = run_with(tmp_path / "run"), io.StringIO()
    (tmp_path / "run" / "distill" / "amtkd").mkdir(parents=True)
    Run(tmp_path / "run" / "distill" / "amtkd").event("step", step=70)
    console, watch = Console(file=out, force_terminal=True, width=100), Watch()
    watch.latest[SITES[1]] = {"doing": "training", "epoch": 3, "step": 11, "steps": 13, "dice": 0.5}
    with Screen(make_study(tmp_path), run.folder, console, watch=watch) as screen:
        run.event("phase-started", phase="train")
        run.event("site-left-out", site=SITES[2], cause="silent", remedy="call")
        screen.tick()
    shown = out.getvalue()
    for part in ("2/5", "training 11/13", "3/5", "left out", "step 70/4000", "training the teachers"):
        assert part in shown


def test_a_status_comes_over_the_socket_and_none_from_a_dead_one(tmp_path: Path) -> None:
    assert status(tmp_path / "nobody.sock") is None
    body = json.dumps({"site": "hospital-a", "busy": "teach"}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "service.sock"))
        listener.listen()

        def serve() -> None:
            stream, _ = listener.accept()
            with stream:
                stream.recv(4096)
                stream.sendall(head + body)

        thread = threading.Thread(target=serve)
        thread.start()
        assert status(tmp_path / "service.sock") == {"site": "hospital-a", "busy": "teach"}
        thread.join()
