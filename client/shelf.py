"""The study lead's slices that a site keeps, so that the next question about them need not bring them again."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load, save

from imaging.atomic import write_bytes
from study.wire import Arrays, digest

KEY = re.compile(r"[0-9a-f]{64}")
"""A digest: whatever else is asked for names no file."""


class Shelf:
    """Arrays by their digest, a file each; beyond `most` bytes in all, those that were not used for longest go."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most

    def put(self, key: str, arrays: Arrays) -> None:
        """Keep these arrays, whose digest is `key`, if there is room for them at all; InputError on a full disk."""
        content = save(arrays)
        if len(content) <= self.most and not self._path(key).exists():
            write_bytes(self._path(key), content)
        self._make_room()

    def get(self, key: str) -> Arrays | None:
        """The arrays of that digest; None where they are not kept, or not what was put there."""
        if not KEY.fullmatch(key) or not self.most:
            return None
        path = self._path(key)
        try:
            arrays: Arrays = load(path.read_bytes())
        except OSError:
            return None
        except SafetensorError:
            arrays = {}
        if digest(arrays) != key:
            path.unlink()
            return None
        path.touch()
        return arrays

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _make_room(self) -> None:
        for left in self.folder.glob(".*.tmp"):  # of a service that was stopped while it wrote
            left.unlink()
        kept = sorted(self.folder.glob("[!.]*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        held = 0
        for path in kept:
            held += path.stat().st_size
            if held > self.most:
                path.unlink()
