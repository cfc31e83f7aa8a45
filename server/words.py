"""Events in words, one line each, for whoever watches a simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Event = Mapping[str, Any]

PARTS = {
    "scans": "writing scans",
    "train": "training the teachers",
    "collect": "collecting the teachers' answers",
    "distill": "distilling the students",
    "average": "training the student at the sites",
    "evaluate": "evaluating the students at the sites",
    "cross": "evaluating each teacher at every site",
    "report": "writing the report",
}
"""What a simulation does, in this order."""


def _taught(event: Event) -> str:
    end = ", finished" if event["finished"] else ""
    epoch = f"epoch {event['epoch']}" if event["epoch"] else "its teacher came ready"
    return f"{event['site']}: {epoch}, validation Dice {event['dice']:.3f}{end}"


def _validated(event: Event) -> str:
    dice = f", validation Dice {event['dice']:.3f}" if event["dice"] is not None else ""
    return f"{event['student']}: step {event['step']}{dice}"


def _part(event: Event) -> str:
    return PARTS.get(event["phase"], str(event["phase"]))


def _ended(event: Event) -> str:
    state = "stopped" if event.get("fault") else "done"
    return f"{_part(event)}: {state} after {duration(event['seconds'])}"


WORDS: dict[str, Callable[[Event], str]] = {
    "phase-started": _part,
    "phase-ended": _ended,
    "cohort-written": lambda e: f"{e['owner']}: {e['cases']} patients written ({e['profile']})",
    "federation-started": lambda e: f"coordinator and sites are up after {duration(e['seconds'])}",
    "site-joined": lambda e: f"{e['site']}: connected",
    "site-left-out": lambda e: f"{e['site']}: LEFT OUT: {e['cause']}; {e['remedy']}",
    "rejected": lambda e: f"{e['site']}: {e['message']} failed: {e['cause']} (attempt {e['attempt']})",
    "away": lambda e: f"{e['site']}: {e['cause']}; {e['message']} waits for it",
    "sent-again": lambda e: f"{e['site']}: no reply yet, {e['message']} sent again",
    "taught": _taught,
    "asking": lambda e: (
        f"{e['slices']} {e.get('pictures', 'slices')} in {e['shards']} shard{'s' * (e['shards'] != 1)} "
        f"go to {', '.join(e['sites'])}" + (f" (round {e['round'] + 1})" if e.get("round") else "")
    ),
    "collected": lambda e: f"{e['site']}: shard {e['shard'] + 1} of {e['of']} ({e['bytes'] / 1e6:.1f} MB)",
    "withheld": lambda e: (
        f"{e['site']}: gives no {' and '.join(e['contents'])} (by its policy, or its teacher has logits alone); "
        "a scheme that needs it learns it from the other sites, and is refused where none gives it"
    ),
    "settings-changed": lambda e: f"goes on with other values of {', '.join(e['keys'])}",
    "put-aside": lambda e: f"a scan of the study lead is put aside: {e['what']}",
    "validation": _validated,
    "round-ended": lambda e: f"{e['label']}: round {e['round']} of {e['of']} with {', '.join(e['sites'])}",
    "student-failed": lambda e: f"{e['label']} was not trained, the others go on: {e['cause']}",
    "evaluated": lambda e: f"{e['site']}: {e['label']} on {e['cases']} test patients",
}


def words(event: Event) -> str | None:
    """An event as a line; None for one that only programs care for."""
    return WORDS[event["kind"]](event) if event["kind"] in WORDS else None


def duration(seconds: float) -> str:
    """`48 s`, `3 min 07 s`, `2 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
