"""What every way to a student cost and revealed: messages, bytes, and what left each hospital."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.report_tables import mean_over_sites
from study.averaging_table import LOCAL, POOLED
from study.plan import Study
from study.wire import CaseMetrics

Cases = Mapping[str, Sequence[CaseMetrics]]
"""Site -> its test cases."""


@dataclass(frozen=True)
class Cost:
    """A line of the table, as text; messages and bytes are a mean over sites."""

    students: str
    dice: str
    messages: str
    sent: str
    received: str
    left: str


def costs(
    study: Study, traffic: Mapping[str, Any], cases: Mapping[str, Cases], local: Mapping[str, Cases]
) -> list[Cost]:
    """A line for what was distilled and one for each baseline of `[averaging]` that was trained; none without them.

    `local`: the student of each site alone -> site -> cases, whose figure is the mean over these students.
    """
    shipped, own = study.distill.scheme, "weights of a network trained on its patients"
    found = [
        Cost(name, _dice([cases[name]]), *_travelled(traffic, name), own)
        for name in study.averaging.strategies
        if name in cases
    ]
    if local:
        found.append(Cost("local, mean", _dice(list(local.values())), *_travelled(traffic, LOCAL), "counts"))
    if POOLED in cases:
        found.append(Cost("pooled", _dice([cases[POOLED]]), "–", "–", "–", "all its training scans and masks"))
    if found and shipped in cases:
        what = f"answers about the study lead's slices, of all students together: {', '.join(study.answers.contents)}"
        found.insert(0, Cost(shipped, _dice([cases[shipped]]), *_travelled(traffic, "teach", "answer"), what))
    return found


def _dice(students: Sequence[Cases]) -> str:
    means = [mean_over_sites(list(by_site.values()), "dice") for by_site in students]
    return f"{np.mean(means):.3f}"


def _travelled(traffic: Mapping[str, Any], *purposes: str) -> tuple[str, str, str]:
    """Messages, megabytes to a site and megabytes from it; dashes where they were not counted by purpose."""
    sites = [[site.get("for", {}).get(purpose) for purpose in purposes] for site in traffic.values()]
    counted = [found for found in sites if None not in found]
    if not counted:
        return "–", "–", "–"
    messages, sent, received = (
        float(np.mean([sum(one[key] for one in found) for found in counted]))
        for key in ("messages", "sent", "received")
    )
    return f"{messages:.0f}", f"{sent / 1e6:,.1f} MB", f"{received / 1e6:,.1f} MB"
