"""Wait for the death of whoever holds the other end of standard input, then kill the process groups it wrote down.

Run as a file, `python -I -S guard.py RECORD`, beside a simulation. The tether ends our own children at our death, not
theirs: Flower's executor starts an app for each message, and an app that has begun to import or to retry a call
outlives its executor (seen with Flower 1.41). A process group reaches them all, and a closed pipe tells of any death,
on any Unix.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import IO

PATIENCE_S, WAIT_S = 2.0, 0.02


def main(record: Path) -> None:
    """Nothing is left to kill where `record` is gone (its owner ended well), or a later simulation holds the folder."""
    sys.stdin.buffer.read()
    if not record.exists():
        return
    try:
        lock = record.with_suffix(".lock").open("r+", encoding="utf-8")
        _take(lock)
        groups = [entry["pid"] for entry in json.loads(record.read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        return
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def _take(lock: IO[str]) -> None:
    """Lock it, or OSError where somebody holds it on: a dying owner's pipe may close a moment before its lock opens."""
    for _ in range(round(PATIENCE_S / WAIT_S)):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(WAIT_S)
    raise BlockingIOError


if __name__ == "__main__":
    main(Path(sys.argv[1]))
