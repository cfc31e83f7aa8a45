"""Dice on the study lead's own patients whose masks the study does not read, though they exist.

    python benchmarks/hidden.py runs/cardiac-seed-0 [--students amtkd supervised] [--json]

Neither validation nor test patients: the student is trained on these scans, without their masks. What the teachers'
answers are worth on them is what it can learn: each teacher, and the mixture under each weighting law. A patient's Dice
is the mean over foreground classes, in 3-D on the network's grid.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from distill.answered import open_rounds
from distill.batches import plain, proven
from distill.job import with_fewer_masks
from distill.schemes.base import Needs, teachers_of
from distill.sources import Teachers
from distill.weights import LAWS, mixture
from imaging.metrics import mean_dice
from imaging.slices import SliceCache
from study.cohorts import lead_inspection, lead_slices, lead_split
from study.distill_tables import Law, Weights
from study.plan import Study
from study.prediction import load_student, logits_of
from study.run import read_study_of
from study.training import use_threads

Ids = NDArray[np.int64]
Guess = Callable[[Ids], NDArray[np.int64]]
"""Slice numbers (N,) → classes (N, H, W)."""


def with_masks(study: Study) -> Study:
    """The same study, whose lead reads every mask there is."""
    sources = [source.model_copy(update={"masks": None}) for source in study.student.sources]
    return study.model_copy(update={"student": study.student.model_copy(update={"sources": sources})})


def hidden(slices: SliceCache, whole: SliceCache) -> Iterator[tuple[Ids, NDArray[np.uint8]]]:
    """Slices and masks of every patient that has a mask only in `whole`."""
    for ours, full in zip(slices.cases, whole.cases, strict=True):
        ids = np.arange(ours.start, ours.stop, dtype=np.int64)
        if not np.array_equal(slices.images[ids], whole.images[full.start : full.stop]):
            raise SystemExit("the lead's scans have changed since this run")
        if full.labelled and not ours.labelled:
            yield ids, whole.masks[full.start : full.stop]


def guesses(study: Study, run: Path, slices: SliceCache, students: list[str]) -> Mapping[str, Guess]:
    """What is compared, by name."""
    train = lead_split(study, slices)["train"]
    stored = open_rounds(study, run, slices, Needs())[-1]
    slices = with_fewer_masks(study, slices, train)
    answers = proven(slices, stored, train)
    teachers = {f"teacher {site}": partial(of_teacher, answers, n) for n, site in enumerate(answers.sites)}
    mixtures = {
        f"mixture, {law}": partial(of_mixture, slices, answers, law, study.distill.weights)
        for law in LAWS
        if law != "fixed"
    }
    networks = {f"student {label}": load_student(run / "distill" / label)[1] for label in students}
    return teachers | mixtures | {name: partial(of_student, slices, network) for name, network in networks.items()}


def of_teacher(answers: Teachers, number: int, ids: Ids) -> NDArray[np.int64]:
    """The most likely class by one teacher's stored answer."""
    return answers.answers(ids).logits[:, number].argmax(1).numpy()


def of_mixture(slices: SliceCache, answers: Teachers, law: Law, plan: Weights, ids: Ids) -> NDArray[np.int64]:
    """The most likely class by all stored answers, weighted as in training."""
    batch = plain(slices, answers, ids)
    teachers = teachers_of(batch)
    weights = LAWS[law](teachers, batch.masks, batch.labelled, plan)
    return mixture(teachers.logits.float().softmax(2), weights).argmax(1).numpy()


def of_student(slices: SliceCache, network: nn.Module, ids: Ids) -> NDArray[np.int64]:
    """The most likely class by a student."""
    found: NDArray[np.int64] = logits_of(network, slices.images[ids], slices.plan).argmax(1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--students", nargs="*", default=[], help="folders under RUN/distill")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    use_threads(1)
    study, run = read_study_of(arguments.run), arguments.run
    slices, full = lead_slices(study, run), with_masks(study)
    with tempfile.TemporaryDirectory() as folder:
        cases = lead_inspection(full, run).cases
        whole = SliceCache.build(cases, study.preprocess, Path(folder) / "cache", classes=study.classes)
        patients = list(hidden(slices, whole))
        found = {
            name: float(np.mean([mean_dice(guess(ids), masks, classes=study.classes) for ids, masks in patients]))
            for name, guess in guesses(study, run, slices, arguments.students).items()
        }
    if arguments.json:
        print(json.dumps({"patients": len(patients), "dice": found}))
    else:
        print(f"{len(patients)} patients without a mask in the study")
        print("\n".join(f"{dice:.3f}  {name}" for name, dice in found.items()))


if __name__ == "__main__":
    main()
