"""The site's own outlined scans as one study sees them: slices on disk, split by patient."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from client.site import SiteConfig
from client.teacher import folder_of, students_of
from imaging.atomic import write_text
from imaging.cohort import Case, inspect, select, split
from imaging.errors import InputError
from imaging.label_file import check_names
from imaging.slices import CachedCase, SliceCache
from study.checkpoint import begun
from study.wire import Assignment

Part = Literal["train", "val", "test"]
PARTS = "parts.json"
log = logging.getLogger("client")


@dataclass(frozen=True)
class Scans:
    """Slices or patches of all usable cases in one memory-mapped cache, and which case belongs to which part."""

    cache: SliceCache
    parts: dict[Part, list[CachedCase]]
    set_aside: int
    """Cases that could not be used; which and why stands in the site's log."""

    def slices(self, part: Part) -> NDArray[np.int64]:
        """Numbers of that part's slices or patches in the cache."""
        return self.cache.ids(self.parts[part])

    def patients(self) -> dict[Part, int]:
        """How many patients each part holds."""
        return {part: len({case.patient for case in cases}) for part, cases in self.parts.items()}

    def counts(self) -> dict[Part, int]:
        """How many slices each part holds."""
        return {part: len(self.slices(part)) for part in self.parts}

    def identity(self) -> str:
        """Hash of which cases, with what in them, lie in which part; nobody without the scans can guess it."""
        note = {part: [case.key for case in cases] for part, cases in self.parts.items()}
        return hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()[:12]


def open_scans(
    config: SiteConfig, assignment: Assignment, *, progress: Callable[[int, int], None] | None = None
) -> Scans:
    """Read what is not in the workspace's cache yet, one case at a time, and split by patient.

    Who is in which part is settled when a teacher or a student begins to learn, and kept: patients who come later are
    in none, so that nobody who was learned from ever counts as a test patient.
    Raises: InputError when no case with a mask can be used, or the workspace holds all that the policy allows.
    """
    classes = len(assignment.task.classes)
    check_names(config.data, assignment.task.classes, assignment.task.channels)
    found = inspect(config.data, classes=classes, channels=assignment.task.inputs)
    usable = [case for case in found.cases if _fits(case, assignment)]  # first, as the study lead's numbers count
    cases = [case for case in select(usable, config.patients, config.masks) if case.labelled]
    if not found.cases and found.problems:
        first = found.problems[0]
        raise InputError(f"the site has no scan that can be used: {first.what}", where=first.where, fix=first.fix)
    if not cases:
        raise InputError(
            f"the site has no outlined {assignment.task.modality} scan",
            where=config.data,
            fix="run `preceptor site check` on the site's folder: it says what is missing",
        )
    folder = config.workspace / "cache" / f"{assignment.preprocess.fingerprint()}-{classes}"
    teacher = folder_of(config, assignment)
    for new in (folder, teacher):
        config.policy.admit_folder(new, config.workspace)
    channels = assignment.task.inputs
    cache = SliceCache.build(
        cases, assignment.preprocess, folder, classes=classes, channels=channels, progress=progress
    )
    for problem in (*found.problems, *cache.problems):
        log.warning("put aside: %s: %s; %s", problem.where, problem.what, problem.fix)
    learning = begun(teacher) or students_of(config, assignment).exists()
    parts = _settled(cache.cases, assignment, teacher / PARTS, learning=learning)
    aside = len(found.problems) + len(cache.problems) + len(found.cases) - len(usable)
    scans = Scans(cache, parts, aside)
    log.info("patients %s, slices %s, %d cases put aside", scans.patients(), scans.counts(), aside)
    return scans


def _settled(
    cases: Sequence[CachedCase], assignment: Assignment, path: Path, *, learning: bool
) -> dict[Part, list[CachedCase]]:
    """The cases of every part, by what is noted at `path`; drawn anew as long as nobody has begun to learn."""
    if not (path.exists() and learning):
        drawn = split(cases, seed=assignment.seed, shares=assignment.teacher.split)
        write_text(path, json.dumps({part: sorted({case.patient for case in drawn[part]}) for part in get_args(Part)}))
    noted = json.loads(path.read_bytes())
    return {part: [case for case in cases if case.patient in noted[part]] for part in get_args(Part)}


def _fits(case: Case, assignment: Assignment) -> bool:
    """Whether the case is of the study's modality; a NIfTI file does not say its own."""
    return case.modality in ("", assignment.task.modality)
