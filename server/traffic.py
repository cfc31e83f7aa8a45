"""Messages and bytes that went to each site and came back, over all phases and starts: `traffic.json`."""

from __future__ import annotations

import json
from pathlib import Path

from imaging.atomic import write_text


class Traffic:
    """Counts bodies (Flower's envelope and TLS add about 1 %), and has them on disk after every count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes: dict[str, dict[str, int]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def count(self, site: str, *, sent: int = 0, received: int = 0) -> None:
        total = self.bytes.setdefault(site, {"messages": 0, "sent": 0, "received": 0})
        total["messages"] += sent > 0
        total["sent"] += sent
        total["received"] += received
        write_text(self.path, json.dumps(self.bytes, indent=1, sort_keys=True))
