"""The thin ClientApp: each message's bytes to the site's service over its unix socket, and its reply back.

Flower runs this code, which the coordinator sent, in a fresh process a message; that process reaches the network and
no scan. So it imports flwr, numpy and the standard library only (about 1 s), and decides nothing: what may leave is
decided in the service.
"""

from __future__ import annotations

import http.client
import json
import socket
import time

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

START_S = 60.0
"""How long a service that is just starting is waited for; its imports take 6 to 13 s."""
VERSION = 3
"""Of the wire (`study.envelope`), which a failure is told in."""
TRIES = 3
"""How often a message is handed over before a service that stops half-way is given up."""

app = ClientApp()


@app.query("teach")
def teach(message: Message, context: Context) -> Message:
    """Hand on: train the site's teacher up to an epoch; its card comes back, never its weights."""
    return hand_on(message, context, "teach")


@app.query("answer")
def answer(message: Message, context: Context) -> Message:
    """Hand on: one shard of the student's slices; what the site's policy releases comes back."""
    return hand_on(message, context, "answer")


@app.query("average")
def average(message: Message, context: Context) -> Message:
    """Hand on: the student's weights, to be trained on; what the site's policy lets leave of them comes back."""
    return hand_on(message, context, "average")


@app.query("evaluate")
def evaluate(message: Message, context: Context) -> Message:
    """Hand on: a student; its metrics on the site's own patients come back."""
    return hand_on(message, context, "evaluate")


def hand_on(message: Message, context: Context, path: str) -> Message:
    """The reply that carries the service's own bytes."""
    body = message.content.array_records["body"]["body"].numpy().tobytes()
    settings = context.node_config
    reply = ask(str(settings.get("socket", "")), path, body, site=str(settings.get("site", "")))
    array = Array(np.frombuffer(reply, dtype=np.uint8))
    return Message(RecordDict({"body": ArrayRecord({"body": array})}), reply_to=message)


def ask(socket_path: str, path: str, body: bytes, *, site: str = "", start_s: float = START_S) -> bytes:
    """The service's answer to `POST /path`, a failure included; in our own words where there is no service to answer.

    A service that is killed half-way is asked again: all that it does can be repeated.
    """
    for _ in range(TRIES):
        try:
            connection = connect(socket_path, start_s)
        except OSError:
            remedy = "start `preceptor site serve` there, and the node with the same socket in --node-config"
            return failure("the site's service does not answer on its socket", site, remedy, away=True)
        try:
            connection.request("POST", f"/{path}", body, {"Content-Type": "application/octet-stream"})
            response = connection.getresponse()
            reply = response.read()
            if response.status in (200, 422):  # 422: a failure in the service's words
                return reply
            if response.status < 500:
                cause = f"the site's service does not know this message (HTTP {response.status})"
                return failure(cause, site, "install one and the same release for the node and its service")
        except (OSError, http.client.HTTPException):
            continue
        finally:
            connection.close()
    return failure(
        f"the site's service stopped {TRIES} times over this message", site, "read the site's service.log there"
    )


def connect(socket_path: str, start_s: float) -> http.client.HTTPConnection:
    """HTTP over the unix socket at that path; OSError if nobody serves it within `start_s` seconds."""
    deadline = time.monotonic() + start_s
    while True:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.connect(socket_path)
        except OSError:
            stream.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            connection = http.client.HTTPConnection("service")
            connection.sock = stream
            return connection


def failure(cause: str, site: str, remedy: str, *, away: bool = False) -> bytes:
    """`study.wire.Failure` as bytes, written out here because importing the wire costs more than this process does."""
    header = {"cause": cause, "site": site, "remedy": remedy, "away": away}
    note = json.dumps({"version": VERSION, "kind": "Failure", "header": header}, sort_keys=True)
    envelope = json.dumps({"__metadata__": {"preceptor": note}}).encode()
    return len(envelope).to_bytes(8, "little") + envelope
