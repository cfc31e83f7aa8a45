"""New lines of a growing events.jsonl, each read once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.run import event_in


@dataclass
class Tail:
    """From where the last reading ended, also when the file is replaced by one without its last lines."""

    path: Path
    _at: int = 0
    _file: int = 0
    _newest: float = 0.0

    def read(self) -> list[dict[str, Any]]:
        """Events of the whole lines since; a torn line is passed over."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            replaced = (inode := self.path.stat().st_ino) != self._file
            if replaced:
                self._at, self._file = 0, inode
            file.seek(self._at)
            whole, end, _ = file.read().rpartition(b"\n")
        self._at += len(whole) + len(end)
        found = [event for line in whole.split(b"\n") if (event := event_in(line)) is not None]
        if replaced:
            found = [event for event in found if event["time"] > self._newest]
        self._newest = max([self._newest, *(event["time"] for event in found)])
        return found
