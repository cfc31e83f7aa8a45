"""What a site's service is doing: written by its worker, read at any time."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Work = Literal["teach", "answer", "average", "evaluate"]


@dataclass(frozen=True)
class Now:
    """The answer to GET /status; holds nothing that a teacher's card would not tell."""

    site: str
    busy: Work | None = None
    doing: str = ""
    """`reading scans`, `training`, `validating`, `answering`, `evaluating`, or empty."""
    study: str = ""
    epoch: int = 0
    """Epochs trained so far."""
    epochs: int = 0
    step: int = 0
    """Of `steps` in this piece of work: optimiser steps, scans read, slices answered or cases evaluated."""
    steps: int = 0
    dice: float | None = None
    """Validation Dice of the weights that are the best so far."""
    shards: int = 0
    """Shards answered since the service started."""


class Status:
    """The current `Now`, replaced whole, so that a reader never sees half a change."""

    def __init__(self, site: str) -> None:
        self.now = Now(site)
        self._lock = threading.Lock()

    def set(self, **changes: Any) -> None:
        """Change these fields and keep the others."""
        with self._lock:
            self.now = replace(self.now, **changes)

    def as_json(self) -> dict[str, Any]:
        return asdict(self.now)
