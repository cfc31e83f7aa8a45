"""The line to the sites: bytes to a site by its name, bytes back; what carries them is Flower's grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

AWAY = {0, 3, 4, 5}
"""Flower's error codes for a message that met nobody (unknown, message or reply unavailable, node offline); any other
code says that the ClientApp at the site broke."""


@dataclass(frozen=True)
class Reply:
    """What came back for a ticket: a body, or a fault in words, `away` where the site never had the message."""

    ticket: str
    body: bytes | None = None
    fault: str = ""
    away: bool = False


class Line(Protocol):
    """All that the coordinator's logic knows of Flower."""

    def present(self) -> set[str]:
        """Names of the sites whose node is connected now."""

    def send(self, site: str, action: str, body: bytes) -> str:
        """Hand a message to a site that was present before; returns the ticket its reply will bear."""

    def fetch(self, tickets: Iterable[str]) -> list[Reply]:
        """Replies that have come since; each is given out once."""


class FlowerLine:
    """The line over a Flower grid; sites go by the names their nodes were registered under.

    `ttl_s`: seconds after which Flower drops a message nobody fetched; it never sends one again.
    """

    def __init__(self, grid: Grid, *, ttl_s: float) -> None:
        self.grid, self.ttl_s = grid, ttl_s
        self._nodes: dict[str, int] = {}

    def present(self) -> set[str]:
        now = {node.name: int(node.node_id) for node in self.grid.get_nodes()}
        self._nodes |= now
        return set(now)

    def send(self, site: str, action: str, body: bytes) -> str:
        content = RecordDict({"body": ArrayRecord({"body": Array(np.frombuffer(body, np.uint8))})})
        message = Message(content, self._nodes[site], f"query.{action}", ttl=self.ttl_s)
        (ticket,) = self.grid.push_messages([message])
        return ticket

    def fetch(self, tickets: Iterable[str]) -> list[Reply]:
        asked = list(tickets)
        return [_reply(message) for message in self.grid.pull_messages(asked)] if asked else []


def _reply(message: Message) -> Reply:
    ticket = message.metadata.reply_to_message_id  # an error comes from the SuperLink, and so names no site
    if message.has_error():
        error = message.error
        return Reply(ticket, fault=f"Flower's error {error.code}: {error.reason}", away=error.code in AWAY)
    try:
        body = message.content.array_records["body"]["body"].numpy()
        return Reply(ticket, body=body.tobytes())
    except (KeyError, ValueError, TypeError, AttributeError):
        return Reply(ticket, fault="it is not one array of bytes")
