"""`preceptor site serve`: HTTP on a unix socket and nowhere else; one worker, and a status that answers at any time."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import NoReturn, get_args

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from client.handlers import Site
from client.site import SiteConfig
from client.status import Work
from imaging.errors import InputError
from models.onnx_network import OnnxNetwork
from study.training import use_threads
from study.wire import Failure, LacksError, pack

log = logging.getLogger("client")

Reply = tuple[int, bytes]
"""HTTP status (200, or 422 for a failure) and body."""


class Service:
    """The site's door: takes messages, lets the one worker handle them in turn, tells the status meanwhile."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._running: dict[str, Future[Reply]] = {}
        routes = [Route(f"/{work}", self._post, methods=["POST"]) for work in get_args(Work)]
        self.app = Starlette(routes=[*routes, Route("/status", self._status)])

    async def _status(self, _: Request) -> Response:
        return JSONResponse(self._site.status.as_json())

    async def _post(self, request: Request) -> Response:
        """The reply to one message; one that comes again while its work runs waits for the same reply."""
        work: Work = request.url.path.strip("/")  # type: ignore[assignment]  # the routes are Work's
        received, body = await self._read(request)
        try:
            self._site.config.policy.admit_bytes(received)
        except InputError as error:
            return Response(self._fail(work, "", received, error), 422)
        key = f"{work}:{hashlib.sha256(body).hexdigest()}"
        running = self._running.get(key)
        future = running or self._worker.submit(self._handle, work, body)
        if running is None:
            self._running[key] = future
            future.add_done_callback(lambda _: self._running.pop(key, None))
        status, reply = await asyncio.shield(asyncio.wrap_future(future))  # whoever hangs up cancels nobody's work
        try:
            if running:
                self._site.record(work, "", received, reply, kind="the same again")
        except InputError as error:
            return Response(self._fail(work, "", received, error), 422)
        return Response(reply, status, media_type="application/octet-stream")

    async def _read(self, request: Request) -> tuple[int, bytes]:
        """How long a message is, and as much of it as the policy admits."""
        body, received, most = bytearray(), 0, self._site.config.policy.max_bytes
        async for chunk in request.stream():
            received += len(chunk)
            if received <= most:  # the rest is read and dropped: whoever still sends hears no refusal
                body += chunk
        return received, bytes(body)

    def _handle(self, work: Work, body: bytes) -> Reply:
        """One message in the worker; every fault becomes a `Failure` that holds nothing of a patient."""
        started = time.monotonic()
        self._site.status.set(busy=work, study="", step=0, steps=0)
        try:
            reply: bytes = getattr(self._site, work)(body)
            log.info("%s: done in %.1f s, %d bytes leave", work, time.monotonic() - started, len(reply))
            return 200, reply
        except InputError as error:
            return 422, self._fail(work, self._site.status.now.study, len(body), error)
        except Exception as error:
            log.exception("%s: unforeseen", work)
            what = f"an unforeseen fault of the site's service ({type(error).__name__})"
            fault = InputError(what, fix="ask the site's engineer to read its service.log")
            return 422, self._fail(work, self._site.status.now.study, len(body), fault)
        finally:
            self._site.status.set(busy=None, doing="")

    def _fail(self, work: Work, study: str, received: int, error: InputError) -> bytes:
        """The failure as a reply; where it happened stays in the log."""
        log.warning("%s: %s", work, error)
        failure = Failure(
            cause=error.what,
            site=self._site.config.name,
            remedy=error.fix or "",
            lacks=isinstance(error, LacksError),
        )
        try:
            return self._site.release(work, study, received, failure)
        except InputError as unrecorded:  # these words are ours and the same for all, so they may leave unrecorded
            log.critical("%s", unrecorded)
            failure = Failure(cause=unrecorded.what, site=self._site.config.name, remedy=unrecorded.fix or "")
            return pack(failure)


def serve(config: SiteConfig) -> NoReturn:
    """Serve a site until SIGTERM or Ctrl-C; what is under way then is cut and resumes from its last checkpoint.

    Raises: InputError when the data cannot be read, the workspace not written, the socket is in use, or the site's ONNX
    teacher is none.
    """
    if not config.data.is_dir():
        raise InputError("is no folder", where=config.data, fix="name the folder of scans in `data` of site.toml")
    os.umask(0o077)  # caches, checkpoints and logs of patients are the service's user's alone
    start_logging(config.workspace)
    use_threads(config.threads)
    if config.teacher is not None:
        told = OnnxNetwork(config.teacher)
        log.info("teacher %s: %d classes, gives %s", config.teacher, told.classes, told.gives)
    listener = listen(config.socket)

    def leave(number: int, frame: object) -> NoReturn:
        """Wait for no step or case: whatever counts is on disk, whole."""
        config.socket.unlink(missing_ok=True)
        log.info("stopped")
        logging.shutdown()
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)  # uvicorn puts its own in front while it serves, then raises the signal again
    log.info("site %s serves on %s, %d threads, process %d", config.name, config.socket, config.threads, os.getpid())
    settings = uvicorn.Config(Service(Site(config)).app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    uvicorn.Server(settings).run(sockets=[listener])
    leave(0, None)


def listen(path: Path) -> socket.socket:
    """A unix socket at `path` that its owner alone may open; one left by a dead process is replaced.

    Raises: InputError where a live process listens, or where something else lies at `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_socket():
        raise InputError("is a file, not a socket", where=path, fix="name another `socket` in site.toml")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise InputError(
                "another service listens there", where=path, fix="stop it, or give each site its own `socket`"
            )
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # before bind: a chmod after it would leave a moment open to others
    try:
        listener.bind(str(path))
    except OSError as error:
        raise InputError(
            f"no socket can be made there ({error.strerror})", where=path, fix="choose another `socket`"
        ) from error
    finally:
        os.umask(mask)
    return listener


def start_logging(workspace: Path) -> None:
    """The site's own log, to standard error and to `workspace`/service.log; file names and ids stay in it."""
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        file = RotatingFileHandler(workspace / "service.log", maxBytes=5_000_000, backupCount=3)
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror})", where=workspace, fix="choose another `workspace`"
        ) from error
    form = "%(asctime)s %(levelname)-7s %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, handlers=[logging.StreamHandler(), file], force=True)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)  # libraries' deprecations are no news to a hospital
    log.setLevel(logging.INFO)
