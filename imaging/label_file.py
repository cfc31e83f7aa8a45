"""A data set's own file of names, `dataset.json`: which number is which structure, and which channel which sequence."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imaging.errors import InputError

FILE = "dataset.json"


def check_names(folder: Path, classes: Sequence[str], channels: Sequence[str]) -> None:
    """InputError where a data set's own file numbers its labels or channels otherwise than the study; none is fine.

    `classes` begin with the background; `channels` are empty where there is one without a name. Written as the Medical
    Segmentation Decathlon and nnU-Net write it; spelling counts, but neither case nor what stands between words.
    """
    path = folder / FILE
    if not path.is_file():
        return
    note = _read(path)
    _compare(path, "label", _numbered(note.get("labels")), list(enumerate(classes))[1:], "task.classes")
    named = _numbered(note.get("channel_names") or note.get("modality"))
    _compare(path, "channel", named, list(enumerate(channels)), "task.channels")


def _read(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        fix = "copy it again, or take it out of the folder"
        raise InputError(f"cannot be read as JSON ({error})", where=path, fix=fix) from error
    return note if isinstance(note, dict) else {}


def _numbered(names: Any) -> dict[int, str]:
    """Number → name, from `{"1": "liver"}` (Decathlon) or `{"liver": 1}` (nnU-Net); "" in regions there alone."""
    found: dict[int, str] = {}
    for key, value in names.items() if isinstance(names, dict) else ():
        number, name = (key, value) if str(key).isdecimal() else (value, key)
        if isinstance(number, int) or (isinstance(number, str) and number.isdecimal()):
            found[int(number)] = str(name)
        elif isinstance(number, list):
            found = {int(one): "" for one in number} | found
    return found


def _compare(path: Path, kind: str, theirs: dict[int, str], ours: list[tuple[int, str]], key: str) -> None:
    for number, name in ours if theirs else ():
        if number not in theirs:
            have = ", ".join(f"{index} {known}" for index, known in sorted(theirs.items()))
            what = f"has no {kind} {number}, which the study calls `{name}`; it has {have}"
        elif theirs[number] and _plain(theirs[number]) != _plain(name):
            what = f"calls {kind} {number} `{theirs[number]}`, the study `{name}`"
        else:
            continue
        raise InputError(what, where=path, fix=f"write the study's `{key}` in the file's order and words")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())
