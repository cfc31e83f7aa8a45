"""The forms of one student read the same scans: do they agree, how well do they segment, what do they cost here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, median

import numpy as np
from numpy.typing import NDArray

from imaging.metrics import mean_dice
from imaging.preprocess import sample, to_native
from imaging.slices import CachedCase, SliceCache
from imaging.volume import Volume
from study.cohorts import lead_split
from study.plan import Study
from study.reader import Reader

MOST = 20
"""Scans at most that are read."""


@dataclass
class Figures:
    """What was seen of one form of the student, scan by scan."""

    seconds: list[float] = field(default_factory=list)
    """Of the processor, from a scan in memory to its mask."""
    dice: list[float] = field(default_factory=list)
    """Mean over foreground classes, on the network's grid; of the scans with masks."""
    far: list[float] = field(default_factory=list)
    """A slice's largest difference of a logit from what the first form gives."""

    @property
    def mean_dice(self) -> float | None:
        return fmean(self.dice) if self.dice else None

    @property
    def median_seconds(self) -> float:
        return median(self.seconds)


def cases_to_read(slices: SliceCache, study: Study) -> tuple[str, list[CachedCase]]:
    """The study lead's cases to measure on, and which these are: for validation, else for training."""
    parts = lead_split(study, slices)
    val, train = ([slices.cases[n] for n in np.unique(slices.case_index[parts[part]])] for part in ("val", "train"))
    choices = {
        "validation": [case for case in val if case.labelled],
        "labelled training": [case for case in train if case.labelled],
        "unlabelled training": train,
    }
    name = next(name for name, cases in choices.items() if cases)
    return name, choices[name][:MOST]


def read_by_all(readers: Mapping[str, Reader], image: Volume, mask: NDArray[np.uint8] | None) -> dict[str, Figures]:
    """One scan read by every form in turn; `mask` (N, H, W) on the network's grid."""
    found, first = {}, None
    for name, reader in readers.items():
        started = time.process_time()
        sampled = sample(image, reader.plan)
        logits = reader.logits(sampled)
        to_native(logits, sampled.grid)
        seconds = time.process_time() - started
        first = logits if first is None else first
        classes = logits.shape[1]
        dice = [] if mask is None else [mean_dice(logits.argmax(1), mask, classes=classes)]
        found[name] = Figures([seconds], dice, np.abs(logits - first).max((1, 2, 3)).tolist())
    return found


def joined(rows: list[dict[str, Figures]]) -> dict[str, Figures]:
    """The figures of several scans as one, form by form."""
    return {
        name: Figures(*([value for row in rows for value in getattr(row[name], kind)] for kind in vars(Figures())))
        for name in rows[0]
    }
