"""What the sites' services say of themselves, asked once a second beside everything else."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

EVERY_S = 1.0
TIMEOUT_S = 0.5


class Watch:
    """The latest GET /status of each service by its site's name; none for a service that does not answer."""

    def __init__(self) -> None:
        self.latest: dict[str, dict[str, Any]] = {}
        self.sockets: Mapping[str, Path] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.wait(EVERY_S):
            for site, path in self.sockets.items():
                if (now := status(path)) is None:
                    self.latest.pop(site, None)
                else:
                    self.latest[site] = now


def status(path: Path) -> dict[str, Any] | None:
    """What the service on that unix socket is doing; None when it does not say."""
    connection = http.client.HTTPConnection("service")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(TIMEOUT_S)
        try:
            stream.connect(str(path))
            connection.sock = stream
            connection.request("GET", "/status", headers={"Connection": "close"})
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        return found
