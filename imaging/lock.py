"""One process at a time in a folder, however the one before it died."""

from __future__ import annotations

import fcntl
from pathlib import Path
from types import TracebackType
from typing import Self


class Lock:
    """A file that nobody else can hold until it is released, which every kind of death does; `with` waits for it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = path.open("w", encoding="utf-8")

    def take(self, *, wait: bool) -> bool:
        """Whether it is ours now; without `wait`, False at once where another process holds it."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            self._handle.close()
            return False
        return True

    def release(self) -> None:
        self._handle.close()

    def __enter__(self) -> Self:
        self.take(wait=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()
