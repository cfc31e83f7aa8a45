"""The child processes of a simulation: started tied to it, written down, watched, and all ended with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from imaging.atomic import write_text
from imaging.errors import InputError
from imaging.lock import Lock

TETHER = Path(__file__).with_name("tether.py")
GUARD = Path(__file__).with_name("guard.py")
GRACE_S = 4.0
"""From the polite signal to the other one; Flower's daemons end within 1 to 2 s, a service within a training step."""
LAST_LINES = 15


@dataclass(frozen=True, eq=False)
class Command:
    """What to start: its name in messages, the words of the command, the file its output is appended to."""

    name: str
    words: list[str]
    log: Path
    env: Mapping[str, str]
    again: int = 0
    """How often it is started anew where it should last and ended by itself."""


@dataclass(frozen=True, eq=False)
class Child:
    """A started command; its process leads a group of its own, which its own children join."""

    command: Command
    process: subprocess.Popen[bytes]
    log_start: int
    """Where this start's output begins in the log."""
    lasting: bool

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def output(self) -> str:
        """What this start has printed so far."""
        with self.command.log.open("rb") as log:
            log.seek(self.log_start)
            return log.read().decode(errors="replace")

    def failure(self) -> InputError:
        """Its last lines, its log, for one who must find out why it ended."""
        code = self.process.poll()
        how = (
            f"was ended by {signal.Signals(-code).name}"
            if code is not None and code < 0
            else f"ended with exit code {code}"
        )
        lines = [line for line in self.output.splitlines() if line.strip()][-LAST_LINES:]
        shown = "".join(f"\n    {line}" for line in lines) or " (it printed nothing)"
        fix = f"the whole log is {self.command.log}; run the same command again to go on"
        return InputError(f"{self.command.name} {how}. Its last lines:{shown}\n", fix=fix)


class Processes:
    """Every process of a run directory; a `with` block whose end, however it comes, ends them all.

    `record` is a JSON file of what runs, so that a later start can end what outlived a killed one.

    Raises: InputError when another live process holds this record.
    """

    def __init__(self, record: Path) -> None:
        self.record = record
        self.children: list[Child] = []
        self._lock = Lock(record.with_suffix(".lock"))
        if not self._lock.take(wait=False):
            fix = "wait for it, stop it with Ctrl-C, or choose another folder with `--out`"
            raise InputError("another simulation runs there at this moment", where=record.parent, fix=fix)
        end_leftovers(record)

    def __enter__(self) -> Self:
        guard = [sys.executable, "-I", "-S", str(GUARD), str(self.record)]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, process_group=0)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._lock.release()

    def start(self, command: Command, *, lasting: bool = False) -> Child:
        """Start it, tied to us, in a group of its own; call from the main thread (its death is what is watched).

        `lasting`: its end, before ours, is a fault.
        """
        command.log.parent.mkdir(parents=True, exist_ok=True)
        tethered = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *command.words]
        with command.log.open("ab") as log:
            log_start = log.tell()
            process = subprocess.Popen(
                tethered, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(command.env), process_group=0
            )
        child = Child(command, process, log_start, lasting)
        self.children.append(child)
        self._write()
        return child

    def complete(
        self,
        commands: Sequence[Command],
        *,
        tick: Callable[[], None],
        at_once: int = 8,
        done: Callable[[Command], None] = lambda command: None,
        failed: Callable[[Command, InputError], None] | None = None,
    ) -> list[str]:
        """What these jobs printed, once all have ended well; `done` is told of each as it ends.

        `tick` waits a moment and shows what goes on. Where `failed` is given, it is told of a job that fails, and the
        others go on.
        Raises: InputError with the last lines of a job that fails, or of a lasting process that ends meanwhile.
        """
        waiting, running, printed = list(commands), list[Child](), dict[Command, str]()
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(self.start(waiting.pop(0)))
            tick()
            self.check()
            for child in [child for child in running if child.ended]:
                running.remove(child)
                self._forget(child)
                if child.process.returncode == 0:
                    printed[child.command] = child.output
                    done(child.command)
                elif failed is None:
                    raise child.failure()
                else:
                    failed(child.command, child.failure())
        return [printed[command] for command in commands if command in printed]

    def check(self) -> None:
        """Start anew what should last and may end; InputError with the last lines of any other that has ended."""
        for child in [child for child in self.children if child.lasting and child.ended]:
            left = child.command.again
            if not left:
                raise child.failure()
            self._forget(child)
            self.start(replace(child.command, again=left - 1), lasting=True)

    def _forget(self, child: Child) -> None:
        self.children.remove(child)
        self._write()

    def stop(self) -> None:
        """End every group: asked first, killed `GRACE_S` later. A second Ctrl-C does not cut this short."""
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            _signal_all(self.children, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_S
            while time.monotonic() < deadline and any(_group_lives(child.process) for child in self.children):
                time.sleep(0.05)
            _signal_all(self.children, signal.SIGKILL)
            for child in self.children:
                child.process.wait()
            self.children.clear()
            self.record.unlink(missing_ok=True)
            self._guard.communicate()  # closes the pipe it waits at
        finally:
            signal.signal(signal.SIGINT, previous)

    def _write(self) -> None:
        alive = [
            {"name": c.command.name, "pid": c.process.pid, "started": started(c.process.pid)}
            for c in self.children
            if not c.ended
        ]
        write_text(self.record, json.dumps(alive, indent=1))


def end_leftovers(record: Path) -> list[str]:
    """End what a killed earlier run left behind, as `record` tells; returns the names.

    A process number given away anew since then belongs to a stranger: its start time differs, and it is left alone.
    """
    try:
        left = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    ended = []
    for entry in left:
        if entry["started"] is not None and started(entry["pid"]) == entry["started"]:
            _signal_group(entry["pid"], signal.SIGKILL)
            ended.append(entry["name"])
    record.unlink(missing_ok=True)
    return ended


def started(pid: int) -> str | None:
    """When process `pid` started, in the system's own words; None when there is no such process, or only its shell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]  # field 22 of proc(5): start time in ticks since boot
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _signal_all(children: list[Child], number: signal.Signals) -> None:
    for child in children:
        _signal_group(child.process.pid, number)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        return


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # reaps the leader, or its group would seem alive
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
