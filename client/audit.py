"""The record of all that left a site: one JSON line a reply, on disk before the reply goes."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from imaging.errors import InputError

FILE = "audit.jsonl"


def record(
    workspace: Path, *, message: str, study: str, received: int, reply: bytes, kind: str, arrays: dict[str, list[int]]
) -> None:
    """Append one line to `workspace`/audit.jsonl and wait until the disk has it.

    The line holds time, message (`teach`, `answer`, `average`, `evaluate`), study, bytes in and out, the reply's
    SHA-256, its kind (`Card`, `AnswersHeader`, `AverageReply`, `EvaluateReply`, `Failure`), and name and shape of each
    array in it.
    Raises: InputError when the line cannot be written; then nothing may leave.
    """
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "message": message,
        "study": study,
        "bytes_in": received,
        "bytes_out": len(reply),
        "kind": kind,
        "sha256": hashlib.sha256(reply).hexdigest(),
        "arrays": arrays,
    }
    try:
        _append(workspace / FILE, json.dumps(line).encode() + b"\n")
    except OSError as error:
        what = f"the site's audit log cannot be written ({error.strerror}), so nothing may leave"
        raise InputError(what, where=workspace / FILE, fix="let the site's engineer free some space") from error


def _append(path: Path, line: bytes) -> None:
    """On a line of its own, also where a cut of power left half a line."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
