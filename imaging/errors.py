"""The one exception that a user is meant to read."""

from __future__ import annotations

from pathlib import Path


class InputError(Exception):
    """What is wrong, where, and how to mend it; printed without a traceback, exit code 1.

    `what` names the fault; `where` the file, folder or key; `fix` one thing to do.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where is not None else ""
        return place + self.what + (f"; {self.fix}" if self.fix else "")
