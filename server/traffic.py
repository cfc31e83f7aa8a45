"""Messages and bytes that went to each site and came back, over all phases and starts: `traffic.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from imaging.atomic import write_text


class Traffic:
    """Counts bodies (Flower's envelope and TLS add about 1 %), and has them on disk after every count.

    For each site `messages`, `sent` and `received`, and under `for` the same for each purpose: `teach`, `answer`,
    `evaluate`, `fedavg`, …
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def count(self, site: str, purpose: str, *, sent: int = 0, received: int = 0) -> None:
        whole = self.bytes.setdefault(site, {})
        for total in (whole, whole.setdefault("for", {}).setdefault(purpose, {})):
            for name, more in (("messages", sent > 0), ("sent", sent), ("received", received)):
                total[name] = total.get(name, 0) + more
        write_text(self.path, json.dumps(self.bytes, indent=1, sort_keys=True))
