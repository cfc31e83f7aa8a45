"""The thin ClientApp against real unix sockets."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.app import app, ask, failure
from imaging.errors import InputError
from study.wire import AwayError, Card, Failure, pack, unpack


class Echo(socketserver.StreamRequestHandler):
    """Answers every message with the same bytes; hangs up on as many as `fails` says, as a killed service does."""

    fails = 0
    status = "200 OK"

    def handle(self) -> None:
        request, length = self.rfile.readline(), 0
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        body = self.rfile.read(length)
        if type(self).fails:
            type(self).fails -= 1
            return
        reply = request.split()[1] + b" " + body
        head = f"HTTP/1.1 {self.status}\r\nContent-Length: {len(reply)}\r\n\r\n"
        self.wfile.write(head.encode() + reply)


@contextmanager
def serving(path: Path, *, fails: int = 0, status: str = "200 OK") -> Iterator[str]:
    handler = type("Handler", (Echo,), {"fails": fails, "status": status})
    with socketserver.ThreadingUnixStreamServer(str(path), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield str(path)
        server.shutdown()
        thread.join()


def test_bytes_go_to_the_service_and_its_bytes_come_back(tmp_path: Path) -> None:
    with serving(tmp_path / "s") as path:
        assert ask(path, "teach", b"\x00\xff" * 50_000) == b"/teach " + b"\x00\xff" * 50_000
    with serving(tmp_path / "t", status="422 Unprocessable Content") as path:
        assert ask(path, "answer", b"x") == b"/answer x"


def test_a_service_that_dies_half_way_is_asked_again(tmp_path: Path) -> None:
    with serving(tmp_path / "s", fails=2) as path:
        assert ask(path, "answer", b"x") == b"/answer x"


@pytest.mark.parametrize(("fails", "status"), [(3, "200 OK"), (0, "500 Internal Server Error")])
def test_a_service_that_keeps_dying_is_a_failure_in_words(tmp_path: Path, fails: int, status: str) -> None:
    with (
        serving(tmp_path / "s", fails=fails, status=status) as path,
        pytest.raises(InputError, match=r"site north: .* stopped 3 times"),
    ):
        unpack(ask(path, "answer", b"x", site="north"), Card)


def test_a_service_of_another_release_is_told_at_once(tmp_path: Path) -> None:
    with serving(tmp_path / "s", status="404 Not Found") as path:
        reply = ask(path, "average", b"x", site="north")
    with pytest.raises(InputError, match=r"site north: .* does not know this message \(HTTP 404\); install one"):
        unpack(reply, Card)


def test_no_service_is_a_failure_in_words(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        reply = ask(str(path), "answer", b"x", site="north", start_s=0.1)
        with pytest.raises(AwayError, match="site north: the site's service does not answer") as caught:
            unpack(reply, Card)
        assert "preceptor site serve" in str(caught.value.fix)
        assert str(tmp_path).encode() not in reply


def test_its_failure_is_the_wires_own() -> None:
    for away in (False, True):
        ours, _ = unpack(failure("cause é", "north", "remedy", away=away), Failure)
        theirs, _ = unpack(pack(Failure(cause="cause é", site="north", remedy="remedy", away=away)), Failure)
        assert ours == theirs


def test_flower_finds_every_handler() -> None:
    assert {"query.teach", "query.answer", "query.average", "query.evaluate"} == set(app._registered_funcs)
