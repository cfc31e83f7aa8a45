"""A finished job run again: whether the student is the same, and if not, what was different."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from lightning_fabric import Fabric

from distill.job import alone, prepared, train
from distill.machine import made_on
from distill.origin import Origin, read_origin
from imaging.errors import InputError
from study.plan import Study
from study.run import Run, read_study_of
from study.student import StudentCard, read_card
from study.training import Progress, weights_hash


@dataclass(frozen=True)
class Replay:
    """The hash of the weights then and now, and what differs between then and now, in words."""

    then: str
    now: str
    differing: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the student is the same, bit for bit."""
        return self.then == self.now


@dataclass(frozen=True)
class Finished:
    """A student that is there: its folder, its card, and the study that it was trained by."""

    run_folder: Path
    folder: Path
    card: StudentCard
    study: Study


def read_finished(run_folder: Path, label: str) -> Finished:
    """The student in `distill/<label>`; InputError where training has not finished."""
    folder = run_folder / "distill" / label
    card = read_card(folder)
    if card is None:
        raise InputError("holds no finished student", where=folder, fix="run `preceptor distill` first")
    return Finished(run_folder, folder, card, as_trained(read_study_of(run_folder), card, read_origin(folder)))


def replay(finished: Finished, fabric: Fabric, progress: Callable[[Progress], None] | None = None) -> Replay:
    """Train it again from its first step, in a folder that is gone afterwards.

    Raises: InputError where what it needs is not there any more, or another process trains it.
    """
    folder, card, study = finished.folder, finished.card, finished.study
    stage = folder.with_name(f".{folder.name}.replay")  # beside it, where every node of a job sees it
    with alone(folder) if fabric.is_global_zero else nullcontext():
        with fabric.rank_zero_first():
            job = prepared(study, finished.run_folder, card.scheme, card.seed)
            if fabric.is_global_zero:
                shutil.rmtree(stage, ignore_errors=True)  # of a replay that was killed
                stage.mkdir()
        try:
            train(study, job, stage, progress, fabric)
        finally:
            if fabric.is_global_zero:
                shutil.rmtree(stage, ignore_errors=True)
    changed = (*_machines(card.made_on, made_on(fabric)), *_meanwhile(folder, card))
    differing = (*_origins(read_origin(folder), job.origin), *changed)
    return Replay(card.weights_hash, weights_hash(job.scheme.shipped.state_dict()), differing)


def as_trained(study: Study, card: StudentCard, origin: Origin | None) -> Study:
    """The run's study with what `--set` had changed of it, as the card tells, and with the views it learned from."""
    student = study.student.model_copy(update={"model": card.model, "options": card.options})
    views = study.answers.views if origin is None else origin.views
    answers = study.answers.model_copy(update={"views": views})
    return study.model_copy(update={"distill": card.settings, "student": student, "answers": answers})


def _origins(then: Origin | None, now: Origin) -> list[str]:
    """What the student depends on beside the machine."""
    if then is None:
        return ["data: what it learned from is not recorded (no origin.json)"]
    found = []
    if then.study_hash != now.study_hash:
        found.append(
            "settings: the study apart from `[distill]` and the student's network, or keys that a release added"
        )
    if then.device != now.device:
        found.append(f"device: {then.device} → {now.device}")
    if then.record != now.record:
        found.append("weights: how answers are weighed on slices without a mask has changed since")
    if then.begun != now.begun:
        found.append("weights: the student that it began with has changed since")
    if then.slices != now.slices:
        found.append("data: the student's slices, or which of them are for training")
    none: dict[str, dict[str, str]] = {}
    for former, latter in zip_longest([then.answers, *then.later], [now.answers, *now.later], fillvalue=none):
        for site in sorted(former.keys() | latter.keys()):
            before, after = former.get(site, {}), latter.get(site, {})
            shards = [shard for shard in sorted(before.keys() | after.keys()) if before.get(shard) != after.get(shard)]
            if shards:
                found.append(f"data: answers of {site}: {', '.join(shards)}")
    return found


def _meanwhile(folder: Path, card: StudentCard) -> list[str]:
    """What differed between the process that finished it and those before it, which were stopped."""
    lines = [
        f"{name}: {started[name]} → {last} while it was trained"
        for started in Run(folder).events("started")
        for name, last in card.made_on.items()
        if started.get(name, last) != last
    ]
    return list(dict.fromkeys(lines))


def _machines(then: dict[str, str], now: dict[str, str]) -> list[str]:
    if not then:
        return ["machine: versions and device are not recorded in its card"]
    names = [name for name in then | now if then.get(name) != now.get(name)]
    return [f"{name}: {then.get(name, 'none')} → {now.get(name, 'none')}" for name in names]
