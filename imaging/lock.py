"""One process at a time in a folder, however the one before it died."""

from __future__ import annotations

import fcntl
from pathlib import Path
from types import TracebackType
from typing import Self

from imaging.errors import InputError


class Lock:
    """A file that nobody else can hold until it is released, which every kind of death does; `with` waits for it.

    Raises: InputError where the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = path.open("w", encoding="utf-8")
        except OSError as error:
            what = f"cannot be written ({error.strerror or error})"
            raise InputError(what, where=path.parent, fix="free some space or choose another folder") from error

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
