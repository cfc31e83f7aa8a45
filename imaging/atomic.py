"""Files that are whole or absent: a temporary name in the same folder, fsync, rename."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imaging.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write a file or a folder at; it takes `path`'s place only when all went well.

    Raises: InputError when the disk is full or not writable; nothing half-written stays.
    """
    temporary, former = (path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{kind}") for kind in ("tmp", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        if path.is_dir():  # rename replaces files, not folders with something in them
            path.replace(former)
        temporary.replace(path)
        _sync_one(path.parent)
    except OSError as error:
        if former.exists() and not path.exists():  # the second rename failed: the old folder is better than none
            former.replace(path)
        raise InputError(
            f"cannot be written ({error.strerror or error})",
            where=path,
            fix="free some space or choose another folder",
        ) from error
    finally:
        for leftover in (temporary, former):
            _remove(leftover)


def clear(path: Path) -> None:
    """Remove what a process that was killed while it replaced `path` has left; for whoever alone writes there."""
    for left in path.parent.glob(f".{path.name}.*"):
        if re.fullmatch(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.(tmp|old)", left.name):
            _remove(left)


def write_bytes(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Put `text` at `path` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        path.unlink()


def _sync(path: Path) -> None:
    """Have a file, or a folder with all that is in it, on the disk."""
    for member in (*path.rglob("*"), path) if path.is_dir() else (path,):
        _sync_one(member)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
