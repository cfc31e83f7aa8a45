"""A run's folder: the study it belongs to, the versions it ran on, and what happened, line by line."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from imaging.atomic import write_text
from imaging.errors import InputError
from study.plan import Study, faults

STUDY, VERSIONS, EVENTS = "study.json", "versions.json", "events.jsonl"
MIXTURE = "all teachers"
"""What a simulation's cross.json calls the mean of its teachers' probabilities; no site can have that name."""
SHOWN = 6
"""Differing keys that a message names; the rest is counted."""
MAY_CHANGE = re.compile(r"answers\.(?!rounds$)|averaging\.|federation\.(?!shard_slices$)|distill\.(?!split\.)")
"""Keys, by how they begin, that a run may go on with other values of: what was asked of the sites stays what it was.
Of `answers` the store knows: it keeps contents apart, and refuses another encoding with its remedy; but where there are
several rounds, what was not asked in an earlier one cannot be asked any more."""
WORK_OF = {"taught": "train", "collected": "collect", "evaluated": "evaluate", "averaged": "average"}
"""The event that says that a site has done some of a phase's work."""


@dataclass(frozen=True)
class Run:
    """A folder to write events into; several processes may at once."""

    folder: Path

    def event(self, kind: str, **values: Any) -> None:
        """Append `{"time": seconds since 1970, "kind": kind, …}` as one line; InputError where the disk is full."""
        line = json.dumps({"time": round(time.time(), 3), "kind": kind, **values}, allow_nan=False, default=str)
        try:
            self._append(line.encode())
        except OSError as error:
            what = f"what happens cannot be recorded ({error.strerror})"
            raise InputError(what, where=self.folder / EVENTS, fix="free some space and run again") from error

    def _append(self, line: bytes) -> None:
        path = self.folder / EVENTS
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # a kill or a full disk cut the last line
            os.write(handle, (b"\n" if torn else b"") + line + b"\n")
        finally:
            os.close(handle)

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Events so far, in the order of writing; only those of one kind if named. Torn lines are left out."""
        found = events(self.folder)
        return found if kind is None else [event for event in found if event["kind"] == kind]

    @property
    def study(self) -> Study:
        """The study that this folder belongs to."""
        return read_study_of(self.folder)


def events(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of a folder's events.jsonl; none where there is no such file."""
    path = folder / EVENTS
    if not path.exists():
        return []
    found = [event_in(line) for line in path.read_bytes().split(b"\n")]
    return [event for event in found if event is not None]


def left_out(folder: Path, number: int | None = None) -> dict[str, dict[str, Any]]:
    """Sites that a phase went on without and that have done no work of it since, each with the event that says why.

    Only where that was in round `number` of answers, if one is named.
    """
    out: dict[tuple[str, str], dict[str, Any]] = {}
    for event in events(folder):
        if event["kind"] == "site-left-out":
            out[event["site"], event["phase"]] = event
        elif phase := WORK_OF.get(event["kind"]):
            out.pop((event["site"], phase), None)
    return {site: event for (site, _), event in out.items() if number in (None, event.get("round", 0))}


def make_folder(folder: Path) -> None:
    """A folder for a run, unless it is there; InputError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what, fix = f"cannot be made a run folder ({error.strerror})", "choose another place with `--out`"
        raise InputError(what, where=folder, fix=fix) from error


def create_or_resume(folder: Path, study: Study) -> Run:
    """The run folder for a study, made or gone on with; other values of keys that may change take the place of the old.

    Raises: InputError naming the keys that differ when the folder belongs to another study.
    """
    path, run, now = folder / STUDY, Run(folder), versions()
    changed = _changed(study, json_of(path), folder) if path.exists() else []
    if changed:
        run.event("settings-changed", keys=changed)
    if changed or not path.exists():
        write_text(path, json.dumps(study.model_dump(mode="json"), indent=2) + "\n")
    then = json_of(folder / VERSIONS) if (folder / VERSIONS).exists() else None
    if then != now:
        if then is not None:  # the student may differ in its last bits from here on
            run.event("versions-changed", keys=differing(then, now))
        write_text(folder / VERSIONS, json.dumps(now, indent=2) + "\n")
    return run


def read_study_of(folder: Path) -> Study:
    """The study that a run folder belongs to; InputError where there is none."""
    path = folder / STUDY
    if not path.exists():
        raise InputError("is no run folder: it holds no study.json", where=folder, fix="name the folder of a run")
    try:
        return Study.model_validate(json_of(path))
    except ValidationError as error:
        what = faults(error, file=path.name)
        raise InputError(what, where=path, fix="start a new run folder with `--out`") from error


def versions() -> dict[str, Any]:
    """What the numbers of a run can depend on, apart from the study."""
    packages = {str(package.metadata["Name"]): package.version for package in distributions()}
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def json_of(path: Path) -> dict[str, Any]:
    """A JSON object from a file; InputError when it is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read as JSON ({error})", where=path, fix="start a new run folder with `--out`"
        ) from error
    if not isinstance(content, dict):
        raise InputError("is not a JSON object", where=path, fix="start a new run folder with `--out`")
    return content


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Keys, with dots and numbers between the levels, whose values differ between two JSON objects."""
    flat_a, flat_b = _flat(a), _flat(b)
    return [key for key in sorted(flat_a | flat_b) if flat_a.get(key, _flat) != flat_b.get(key, _flat)]


def _changed(study: Study, content: dict[str, Any], folder: Path) -> list[str]:
    """Keys that differ and may; InputError where others do."""
    changed, rounds = differing(content, study.model_dump(mode="json")), study.answers.rounds
    keys = [key for key in changed if not MAY_CHANGE.match(key) or (rounds > 1 and key.startswith("answers."))]
    if not keys:
        return changed
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    what = f"belongs to another study; differing: {', '.join(keys[:SHOWN])}{more}"
    raise InputError(what, where=folder, fix=f"choose another folder with `--out`, or remove {folder}")


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if members is None or (key and not value):
        return {key: value}
    flat: dict[str, Any] = {}
    for name, member in members:
        flat |= _flat(member, f"{key}.{name}" if key else str(name))
    return flat


def event_in(line: bytes) -> dict[str, Any] | None:
    """One line of an events.jsonl; None where it is torn."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "kind" in event else None
