"""The deployment, running: services, nodes and coordinator started in the right order, and phases run through it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imaging.errors import InputError
from server.deployment import HOST, Coordinator, Hospital, free_ports
from server.processes import Processes
from server.tail import Tail
from study.plan import Study
from study.run import EVENTS, Run

SOCKET_BYTES = 100
"""Longest path that we give a unix socket; Linux allows 107 bytes, macOS 103."""
ASK_S = 30.0
"""How often Flower is asked whether the run has failed without a word of ours: the question costs 1.5 s of CPU."""


class Federation:
    """Every process of a federation on this machine, from `start` until its `Processes` are stopped.

    `tick` waits a moment and shows what goes on; nothing here blocks for longer.
    """

    def __init__(self, study: Study, run: Run, processes: Processes, tick: Callable[[], None]) -> None:
        self.run, self.processes, self.tick = run, processes, tick
        port, *ports = free_ports(1 + len(study.sites))
        self.coordinator = Coordinator(run.folder / "coordinator", port)
        names = [site.name for site in study.sites]
        self.hospitals = [
            Hospital(name, run.folder / "hospitals" / name, socket_path(run.folder, name), its)
            for name, its in zip(names, ports, strict=True)
        ]

    def start(self) -> None:
        """The services first: their imports of 7 to 10 s run beside everything else."""
        started = time.monotonic()
        for hospital in self.hospitals:
            hospital.socket.unlink(missing_ok=True)
            self.processes.start(hospital.service(), lasting=True)
        self.coordinator.prepare()
        self.processes.start(self.coordinator.superlink(), lasting=True)
        for hospital in self.hospitals:
            hospital.prepare()
        self._until(lambda: _answers(socket.AF_INET, (HOST, self.coordinator.port)))
        self.processes.complete([self.coordinator.register(hospital) for hospital in self.hospitals], tick=self.tick)
        for hospital in self.hospitals:
            self.processes.start(hospital.supernode(self.coordinator), lasting=True)
            self.processes.start(hospital.superexec(), lasting=True)
        self.processes.start(self.coordinator.superexec(), lasting=True)
        self._until(lambda: all(_answers(socket.AF_UNIX, str(hospital.socket)) for hospital in self.hospitals))
        self.run.event("federation-started", seconds=round(time.monotonic() - started, 2))

    def conduct(self, phase: str, number: int = -1) -> None:
        """One phase (and round) as one Flower run, to its end; InputError in the coordinator's words when it fails."""
        log = Tail(self.run.folder / EVENTS)
        log.read()
        (printed,) = self.processes.complete([self.coordinator.run(phase, self.run.folder, number)], tick=self.tick)
        run_id = json_in(printed)["run-id"]
        asked, dead = time.monotonic(), None
        while not (ends := [e for e in log.read() if e["kind"] == "phase-ended" and e["phase"] == phase]):
            if dead:  # and no end of its own among the last events either
                raise dead
            self.tick()
            self.processes.check()
            if time.monotonic() - asked > ASK_S:
                dead, asked = self._dead(phase, run_id), time.monotonic()
        if fault := ends[-1]["fault"]:
            raise InputError(fault["cause"], where=fault.get("where"), fix=fault.get("remedy"))

    def _dead(self, phase: str, run_id: str) -> InputError | None:
        """Why the ServerApp ended without saying how (killed, out of memory); None while it runs."""
        (printed,) = self.processes.complete([self.coordinator.status(run_id)], tick=self.tick)
        (row,) = json_in(printed)["runs"]
        if not row["status"].startswith("finished"):
            return None
        what = f"the coordinator's phase {phase} ended as {row['status']} ({row['status-details'] or 'no details'})"
        fix = f"read {self.coordinator.folder / 'superlink.log'}, then run the same command again"
        return InputError(what, fix=fix)

    def _until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            self.tick()
            self.processes.check()


def json_in(printed: str) -> dict[str, Any]:
    """The JSON object that a `flwr` command prints; InputError when it tells of a failure."""
    found: dict[str, Any] = json.loads(printed[printed.index("{") :])
    if not found["success"]:  # Flower's exit code is 0 all the same
        raise InputError(f"Flower refused: {found.get('error-message', found)}", fix="run the same command again")
    return found


def socket_path(run_folder: Path, site: str) -> Path:
    """Where a site's service listens: in the run directory, or in a private temporary folder where that is too deep."""
    path = run_folder / "hospitals" / site / "service.sock"
    if len(str(path).encode()) <= SOCKET_BYTES:
        return path
    short = hashlib.sha256(str(run_folder).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"preceptor-{os.getuid()}-{short}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InputError(
            "is not a folder that only you can open", where=folder, fix="remove it, or use a shorter --out"
        )
    return folder / f"{hashlib.sha256(site.encode()).hexdigest()[:12]}.sock"


def _answers(family: socket.AddressFamily, address: Any) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(address) == 0
