"""The student's scans, which the study lead holds: found, prepared, split by patient and cut into shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from imaging.cohort import Case, Inspection, Problem, inspect, select, split
from imaging.errors import InputError
from imaging.label_file import check_names
from imaging.slices import SliceCache
from study.plan import PhantomSource, Source, Study
from study.run import Run
from study.store import AnswerStore
from study.views import numbered
from study.wire import Assignment, Shard

Ids = NDArray[np.int64]
Part = Literal["train", "val", "test"]


def lead_folder(index: int, source: Source, run_folder: Path) -> Path:
    """Where the scans of the student's source number `index` lie; what is made is written into the run folder."""
    if isinstance(source, PhantomSource) or source.made:
        return run_folder / "lead" / f"{index}-{source.made}"
    return source.folder


def lead_inspection(study: Study, run_folder: Path) -> Inspection:
    """Cases of all the student's sources, under ids that differ between sources, and what had to be put aside.

    Raises: InputError when a source's folder is missing, or holds no scan that can be used.
    """
    found = [_inspected(study, index, source, run_folder) for index, source in enumerate(study.student.sources)]
    cases = tuple(case for inspection in found for case in inspection.cases)
    problems = tuple(problem for inspection in found for problem in inspection.problems)
    return Inspection(cases, problems)


def lead_slices(study: Study, run_folder: Path, *, progress: Callable[[int, int], None] | None = None) -> SliceCache:
    """The student's slices, cached in the run folder; cases put aside are entered into its events."""
    inspection = lead_inspection(study, run_folder)
    folder = run_folder / "student"
    task = study.task
    cache = SliceCache.build(
        inspection.cases,
        study.preprocess,
        folder,
        classes=len(task.classes),
        channels=task.inputs,
        progress=progress,
    )
    run = Run(run_folder)
    told = {(event["what"], event["where"]) for event in run.events("put-aside")}
    for problem in (*inspection.problems, *cache.problems):
        if (problem.what, str(problem.where)) not in told:
            run.event("put-aside", what=problem.what, where=str(problem.where), fix=problem.fix)
    return cache


def lead_split(study: Study, cache: SliceCache) -> dict[Part, Ids]:
    """Numbers of the lead's patients' slices or patches for training, validation and test, counting up."""
    parts = split(cache.cases, seed=study.seed, shares=study.distill.split)
    return {part: cache.ids(parts[part]) for part in get_args(Part)}


def shards(study: Study, cache: SliceCache) -> list[Ids]:
    """Numbers of the pictures to be answered, view after view, `federation.shard_slices` to a shard.

    The last of a view may hold fewer: a view that is asked for later then adds shards, and changes none.
    """
    train, size = lead_split(study, cache)["train"], study.federation.shard_slices
    views = [numbered(cache, train, view) for view in range(study.answers.views + 1)]
    return [view[start : start + size] for view in views for start in range(0, len(view), size)]


def open_store(study: Study, run_folder: Path, cache: SliceCache, number: int = -1) -> AnswerStore:
    """The run's answers about those slices, of round `number`; of the last unless given."""
    return AnswerStore(
        run_folder / "store",
        shard_slices=study.federation.shard_slices,
        slices=cache.identity(),
        encoding=study.answers.encoding,
        round_index=number % study.answers.rounds,
    )


def assignment(study: Study, site: str) -> Assignment:
    """What that site must know of the study."""
    return Assignment(
        study=study.name,
        study_hash=study.hash(),
        seed=study.seed,
        task=study.task,
        preprocess=study.preprocess,
        augment=study.augment,
        teacher=study.teacher_of(site),
        encoding=study.answers.encoding,
    )


def make_shard(assignment: Assignment, cache: SliceCache, index: int, ids: Ids, wants: Sequence[str]) -> Shard:
    """Shard number `index` about the pictures of these numbers, all of one view, asking for `wants`."""
    views, rows = np.divmod(ids, len(cache.images))
    images, masks = cache.images[rows], cache.masks[rows]
    return Shard(assignment, index, ids, images, masks, tuple(wants), varied=bool(views.any()))


def _inspected(study: Study, index: int, source: Source, run_folder: Path) -> Inspection:
    folder = lead_folder(index, source, run_folder)
    if not folder.is_dir():
        writes = f"`preceptor simulate STUDY.toml --out {run_folder} --until scans` writes them"
        fix = writes if source.made else "mend `student.sources` in the study"
        raise InputError("the student's scans are missing", where=folder, fix=fix)
    check_names(folder, study.task.classes, study.task.channels)
    inspection = inspect(folder, classes=study.classes, channels=study.task.inputs)
    usable = [case for case in inspection.cases if case.modality in ("", study.task.modality)]
    foreign = [_foreign(case, study.task.modality) for case in inspection.cases if case not in usable]
    if not usable and inspection.problems:
        first, more = inspection.problems[0], len(inspection.problems) - 1
        others = f" (and {more} more problem{'s' * (more > 1)})" if more else ""
        raise InputError(f"no scan can be used: {first.what}{others}", where=first.where, fix=first.fix)
    try:
        cases = select(usable, source.chosen, source.masks)
    except InputError as error:
        raise InputError(error.what, where=folder, fix=error.fix) from error
    if len(study.student.sources) > 1:
        cases = [replace(case, id=f"{index}-{case.id}", patient=f"{index}-{case.patient}") for case in cases]
    return Inspection(tuple(cases), (*inspection.problems, *foreign))


def _foreign(case: Case, modality: str) -> Problem:
    return Problem(
        f"the scan is {case.modality}, the study is about {modality}", case.files[0], "take it out of the folder"
    )
