"""A whole Flower deployment on loopback, as commands: TLS, registered nodes, process isolation, nothing shared.

The same processes as between hospitals, only that their machines are folders: `coordinator/` and `hospitals/<site>/`.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from imaging.atomic import write_text
from imaging.errors import InputError
from server.certificates import Certificates, node_key, shared_secret
from server.processes import Command

HOST = "127.0.0.1"
AGAIN = 5
"""How often an executor is started anew: on a machine with too much to do, one of its calls can run out of time, which
ends it (seen with Flower 1.41: no answer to its handshake)."""
ROOMS = ("imaging", "models", "study", "client", "server")
CONNECTION = "coordinator"
SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",  # 1 s by default, and waited for once a message
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}


@dataclass(frozen=True)
class Hospital:
    """A site's machine: its folder, and the loopback port its node serves its own ClientApps on."""

    site: str
    folder: Path
    socket: Path
    port: int

    @property
    def node(self) -> Path:
        return self.folder / "node"

    def prepare(self) -> None:
        """The node's certificates, key and secret; no state of an earlier start."""
        shutil.rmtree(self.node / "flower", ignore_errors=True)
        Certificates.of(self.node / "certificates")
        shared_secret(self.node / "certificates" / "secret")
        node_key(self.node / "certificates" / "key")

    def supernode(self, coordinator: Coordinator) -> Command:
        """The node: it has the network and no data."""
        config = " ".join(
            f"{key}={quoted(value)}" for key, value in {"site": self.site, "socket": str(self.socket)}.items()
        )
        own = Certificates.of(self.node / "certificates")
        words = [
            *("flower-supernode", "--superlink", coordinator.address),
            *("--root-certificates", str(coordinator.certificates.authority)),
            *("--auth-supernode-private-key", str(self.node / "certificates" / "key")),
            *("--host", HOST, "--port", str(self.port), *tls(own)),
            *("--isolation", "process", "--superexec-auth-secret-file", str(self.node / "certificates" / "secret")),
            *("--node-config", config),
        ]
        return self._command("node", words)

    def superexec(self) -> Command:
        """What starts a ClientApp for each message."""
        return self._command("executor", superexec(f"{HOST}:{self.port}", self.node / "certificates"), again=AGAIN)

    def service(self) -> Command:
        """The site's own service: it has the data and no network."""
        words = [sys.executable, "-m", "preceptor", "site", "serve", str(self.folder / "site.toml")]
        return Command(
            f"{self.site}'s service", words, self.folder / "service.log", environment(self.folder / "service")
        )

    def _command(self, part: str, words: list[str], again: int = 0) -> Command:
        log, own = self.node / f"{part}.log", environment(self.node / "flower" / part)
        return Command(f"{self.site}'s {part}", words, log, own, again)


@dataclass(frozen=True)
class Coordinator:
    """The coordinator's machine: its folder and the port of its SuperLink."""

    folder: Path
    port: int

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def certificates(self) -> Certificates:
        return Certificates.of(self.folder / "certificates")

    @property
    def app(self) -> Path:
        return self.folder / "preceptor"

    def prepare(self) -> None:
        """Certificates, the secret, the connection's file and the app; no state of an earlier start.

        A SuperNode that was killed may not rejoin the same SuperLink for 60 s (measured, Flower 1.41), and all that a
        run has achieved lies in the run directory, so the SuperLink starts from an empty database.
        """
        for stale in (*self.folder.glob("state.db*"), self.folder / "flower", self.app):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
        shared_secret(self.folder / "certificates" / "secret")
        connection = {"address": self.address, "root-certificates": str(self.certificates.authority)}
        config = {"superlink": {"default": CONNECTION, CONNECTION: connection}}
        write_text(self.folder / "flower" / "control" / "config.toml", tomli_w.dumps(config))
        assemble(self.app)

    def superlink(self) -> Command:
        words = [
            *("flower-superlink", "--host", HOST, "--port", str(self.port), *tls(self.certificates)),
            *("--enable-supernode-auth", "--database", str(self.folder / "state.db"), "--isolation", "process"),
            *("--superexec-auth-secret-file", str(self.folder / "certificates" / "secret")),
            "--disable-runtime-dependency-installation",
        ]
        return self._command("superlink", words)

    def superexec(self) -> Command:
        """What starts a ServerApp for each phase."""
        return self._command("executor", superexec(self.address, self.folder / "certificates"), again=AGAIN)

    def register(self, hospital: Hospital) -> Command:
        """Let that hospital's key in, under its name."""
        key = hospital.node / "certificates" / "key.pub"
        return self._control(
            f"registering {hospital.site}", "supernode", "register", str(key), CONNECTION, "--name", hospital.site
        )

    def run(self, phase: str, run: Path, number: int = -1) -> Command:
        """Start a phase (and round of answers) as a Flower run; prints its number as JSON."""
        config = f"phase={quoted(phase)} run={quoted(str(run))} round={number}"
        return self._control(
            f"starting {phase}", "run", str(self.app), CONNECTION, "--run-config", config, "--format", "json"
        )

    def status(self, number: str) -> Command:
        """Ask how that Flower run stands; prints JSON."""
        return self._control("asking for the run's status", "ls", CONNECTION, "--run-id", number, "--format", "json")

    def _control(self, name: str, *words: str) -> Command:
        return Command(
            name, ["flwr", *words], self.folder / "control.log", environment(self.folder / "flower" / "control")
        )

    def _command(self, part: str, words: list[str], again: int = 0) -> Command:
        log, own = self.folder / f"{part}.log", environment(self.folder / "flower" / part)
        return Command(f"the coordinator's {part}", words, log, own, again)


def tls(files: Certificates) -> tuple[str, ...]:
    """The three options of a Flower daemon that serves TLS."""
    return (
        *("--ssl-ca-certfile", str(files.authority)),
        *("--ssl-certfile", str(files.certificate)),
        *("--ssl-keyfile", str(files.key)),
    )


def superexec(address: str, certificates: Path) -> list[str]:
    """An executor at a runtime address, with the secret it shares with whoever serves there."""
    secret, authority = certificates / "secret", certificates / "ca.crt"
    words = ["flower-superexec", "--runtime-api-address", address, "--root-certificates", str(authority)]
    return [*words, "--superexec-auth-secret-file", str(secret)]


def quoted(value: str) -> str:
    """A TOML string as Flower's command line takes it, which knows no escapes; InputError where that cannot be."""
    if "'" not in value:
        return f"'{value}'"
    if '"' in value or "\\" in value:
        fix = "choose a path without quotes for the run folder"
        raise InputError("Flower takes no path with both kinds of quotes", where=value, fix=fix)
    return f'"{value}"'


def environment(home: Path) -> dict[str, str]:
    """Our environment with this interpreter's commands first, telemetry off, and a Flower home of its own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, **SETTINGS, "PATH": path, "FLWR_HOME": str(home)}


def assemble(app: Path) -> None:
    """The Flower app: our rooms' modules without tests, runs or scans; about 0.2 MB of the 10 that Flower allows.

    Flower walks the whole folder it is given, a checkout's `.venv` too, and an installed package has no pyproject.toml
    beside it; so the bundle is always made from a folder of its own.
    """
    source = Path(__file__).resolve().parent.parent
    for room in ROOMS:
        for module in (source / room).glob("*.py"):
            (app / room).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(module, app / room / module.name)
    flower = {
        "publisher": "preceptor",
        "components": {"serverapp": "server.app:app", "clientapp": "client.app:app"},
        "config": {"phase": "train", "run": "", "round": -1},
    }
    project = {"name": "preceptor", "version": "1.0.0", "license": "Apache-2.0"}
    write_text(app / "pyproject.toml", tomli_w.dumps({"project": project, "tool": {"flwr": {"app": flower}}}))


def free_ports(count: int) -> list[int]:
    """So many different loopback ports that nobody listens on now."""
    taken = [socket.socket() for _ in range(count)]
    try:
        for one in taken:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in taken]
    finally:
        for one in taken:
            one.close()
