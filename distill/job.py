"""One training of one student under one scheme, from a run folder and into it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as pack_tensors
from torch import nn

from distill import schemes
from distill.answered import open_rounds
from distill.batches import TrainingBatches, plain, proven
from distill.history import History
from distill.machine import device_of, fabric_of, made_on
from distill.origin import Origin
from distill.schemes.base import Scheme
from distill.sources import StoredAnswers, Teachers
from imaging.atomic import write_bytes, write_text
from imaging.errors import InputError
from imaging.lock import Lock
from imaging.slices import CachedCase, SliceCache
from study.averaging_table import TAKEN
from study.cohorts import lead_slices, lead_split
from study.draws import derived
from study.forecast import check_memory
from study.networks import build
from study.plan import NAME, Study
from study.prediction import case_dice
from study.run import Run
from study.schedule import schedule
from study.student import CARD, WEIGHTS, Check, StudentCard, read_card, write_card
from study.training import Outcome, Progress, TrainPlan, cyclic_lr, fit, load_best, use_threads, weights_hash
from study.wire import digest

Ids = NDArray[np.int64]


class WaitsError(InputError):
    """The student is as far as the teachers' answers take it, and no further yet."""


@dataclass(frozen=True)
class Job:
    """What a training is made of, all of it derived from study, run folder, scheme and seed."""

    name: str
    """The scheme's id."""
    scheme: Scheme
    slices: SliceCache
    train: Ids
    validation: list[CachedCase]
    rounds: tuple[Teachers, ...]
    """The answers of each round that has been collected; none for a scheme without teachers."""
    seed: int
    origin: Origin

    @property
    def sites(self) -> tuple[str, ...]:
        """Whose answers it learns from."""
        return self.rounds[0].sites if self.rounds else ()


def run_job(
    study: Study,
    run_folder: Path,
    scheme: str,
    *,
    seed: int | None = None,
    label: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    fabric: Fabric | None = None,
) -> StudentCard:
    """Train a student, or go on with it, or give back the card of one that is finished; into `distill/<label>`.

    `seed` is the study's unless given, `label` the scheme's id, with the seed if that is not the study's. The same
    study, answers, seed, threads and machine give the same student bit for bit, however often it was killed.

    A finished student is not trained again, unless answers, their weighing or slices have changed since. Of several
    processes, which `fabric` joins (the one that the study asks for unless given), the first alone writes.

    Raises: WaitsError where it has learned all that was collected, and `answers.rounds` says that more will come;
    InputError for an unknown scheme, answers that are missing or damaged, slices without any mask where the
    scheme needs one, or a folder that holds a student of other settings.
    """
    schemes.check(scheme)
    seed = study.seed if seed is None else seed
    label = label or default_label(study, scheme, seed)
    check_label(label)
    study = beginning(study, label)
    fabric, folder = fabric or fabric_of(study.distill), run_folder / "distill" / label
    with alone(folder) if fabric.is_global_zero else nullcontext():
        with fabric.rank_zero_first():
            job = prepared(study, run_folder, scheme, seed)
            if fabric.is_global_zero:
                job.origin.settle(folder)
        return _kept(folder) or _trained(study, job, folder, progress, fabric)


def beginning(study: Study, label: str) -> Study:
    """The study for the student of that label: `distill.start` is for others, for nobody begins with itself."""
    if study.distill.start != label:
        return study
    return study.model_copy(update={"distill": study.distill.model_copy(update={"start": None})})


def check_label(label: str) -> None:
    """InputError where no student of ours can be called so."""
    if not re.fullmatch(NAME, label):
        raise InputError(f"`{label}` cannot be a label", fix="use at most 41 lower-case letters, digits and hyphens")
    if label in TAKEN:
        what = f"`{label}` is what another folder of a run is called: its unpacked answers, averaged or pooled students"
        raise InputError(what, fix="choose another `--label`")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Until exit no other process trains this student; InputError where one does."""
    mine = Lock(folder.with_name(f".{folder.name}.lock"))
    if not mine.take(wait=False):
        fix = "wait for it, stop it with Ctrl-C, or give this one another `--label`"
        raise InputError("another process trains this student at this moment", where=folder, fix=fix)
    with mine:
        yield


def default_label(study: Study, scheme: str, seed: int) -> str:
    """The scheme's id, with the seed if that is not the study's."""
    return scheme if seed == study.seed else f"{scheme}-seed-{seed}"


def _finished(folder: Path) -> StudentCard | None:
    """The card of a student that is there, weights and all; from a checkpoint they are shipped again at once."""
    card = read_card(folder)
    if card is None:
        return None
    try:
        whole = weights_hash(load_file(folder / WEIGHTS)) == card.weights_hash
    except (OSError, SafetensorError):
        whole = False
    return card if whole else None


def _kept(folder: Path) -> StudentCard | None:
    """The same of the student that a job is about: it is younger than its answers, which may have come again."""
    card = _finished(folder)
    if card:
        (folder / CARD).touch()
    return card


def _trained(
    study: Study, job: Job, folder: Path, progress: Callable[[Progress], None] | None, fabric: Fabric
) -> StudentCard:
    made = made_on(fabric)
    if fabric.is_global_zero:
        Run(folder).event("started", **made)
    outcome = train(study, job, folder, progress, fabric)
    if not outcome.finished:
        done, of = len(job.rounds), study.answers.rounds
        what = f"has learned from round {done} of {of} of the teachers' answers; the next has not been collected yet"
        raise WaitsError(what, where=folder, fix="collect it, and run the same command again")
    card = card_of(study, job, outcome, label=folder.name, made_on=made)
    if fabric.is_global_zero:
        ship(job, folder)
        write_card(folder, card)
    return card


def prepared(study: Study, run_folder: Path, scheme: str, seed: int) -> Job:
    """As `prepare`, on the study's threads; jobs side by side share slices and unpacked answers."""
    use_threads(study.distill.threads)
    with Lock(run_folder / "distill" / ".preparing"):
        return prepare(study, run_folder, scheme, seed)


def prepare(study: Study, run_folder: Path, scheme: str, seed: int) -> Job:
    """Everything that a training needs, with a fresh student; InputError as in `run_job`."""
    schemes.check_fits(scheme, study.student, study.preprocess, study.distill)
    slices = lead_slices(study, run_folder)
    parts = lead_split(study, slices)
    train, validation = parts["train"], cases_of(slices, parts["val"])
    learner = new_scheme(study, scheme, seed)
    plan = study.distill
    begun = begin_with(learner.student, run_folder, plan.start) if plan.start else ""
    foretell(study, learner)  # before adapt(), which shows the network a picture
    rounds: tuple[StoredAnswers, ...] = ()
    if learner.needs.teachers != "none":
        rounds = open_rounds(study, run_folder, slices, learner.needs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived(seed, "adapt"))
        learner.adapt(plain(slices, rounds[0] if rounds else None, train[:1]))
    foretell(study, learner)  # with what adapt() made
    slices = with_fewer_masks(study, slices, train)  # only now: who is asked about what depends on the masks there are
    if not learner.needs.unlabelled:
        train = train[slices.labelled[train]]
        if not len(train):
            fix = "give the student's sources masks, or choose a scheme that learns from teachers alone"
            raise InputError(
                f"no training slice has a mask, and `{scheme}` learns from masks alone", where=run_folder, fix=fix
            )
    origin = Origin(
        study_hash=study.hash(),
        scheme=scheme,
        seed=seed,
        slices=digest({"train": train, "val": parts["val"], "keys": np.array([case.key for case in slices.cases])}),
        answers=rounds[0].checksums if rounds else {},
        later=[answers.checksums for answers in rounds[1:]],
        views=study.answers.views if rounds else 0,
        device=device_of(study.distill),
        record=learner.needs.record,
        begun=begun,
    )
    known = [proven(slices, one, train) for one in rounds] if learner.needs.record else rounds
    return Job(scheme, learner, slices, train, validation, tuple(known), seed, origin)


def foretell(study: Study, scheme: Scheme) -> None:
    """InputError where a step cannot fit into memory; what is foretold is in 32 bits."""
    plan = study.distill
    if plan.precision == "32":
        share = plan.batch // (plan.devices * plan.nodes)
        check_memory(scheme.student, study.preprocess.shape, share, device_of(plan), beside=scheme)


def with_fewer_masks(study: Study, slices: SliceCache, train: Ids) -> SliceCache:
    """The same slices, of which only the first `distill.masks` patients among `train` count as outlined."""
    if study.distill.masks is None:
        return slices
    cases = cases_of(slices, train)
    first = set(list(dict.fromkeys(case.patient for case in cases))[: study.distill.masks])
    return slices.hiding([case for case in cases if case.patient not in first])


def cases_of(slices: SliceCache, ids: Ids) -> list[CachedCase]:
    """The cases with a mask among these slices or patches."""
    return [case for case in slices.cases_of(ids) if case.labelled]


def new_scheme(study: Study, scheme: str, seed: int) -> Scheme:
    """The scheme around a student with the weights that this seed begins with; torch's own generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived(seed, "student"))
        student = build(study.student.model, study.student.options, study.task, study.preprocess, fresh=True)
        return schemes.create(scheme, student, study.distill, study.classes, study.task.unions)


def begin_with(student: nn.Module, run_folder: Path, label: str) -> str:
    """Give it the weights of the finished student `label` of that run, and their hash back.

    Raises: InputError where there is none, or it is another network.
    """
    folder = run_folder / "distill" / label
    card = _finished(folder)
    if card is None:
        fix = f"train it first, such as by `preceptor distill {run_folder} --scheme {label}`"
        raise InputError(f"the student `{label}` that this one begins with is not there", where=folder, fix=fix)
    try:
        student.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:  # of other names or shapes
        fix = "name the same network and options for both"
        raise InputError(f"the student `{label}` that this one begins with is another network", fix=fix) from error
    return card.weights_hash


def train_plan(scheme: Scheme, seed: int, identity: str) -> TrainPlan:
    """Adam under the study's learning rates (cyclic: AMTKD, section 4.3), validated every `validate_every` steps."""
    plan = scheme.plan
    lr: Callable[[int], float] = partial(cyclic_lr, lr_min=plan.lr_min, lr_max=plan.lr, half_cycle=plan.lr_half_cycle)
    if plan.schedule != "cyclic":
        lr = schedule(plan.schedule, peak=plan.lr, steps=plan.steps)
    return TrainPlan(
        steps=plan.steps,
        lr=lr,
        seed=seed,
        every=plan.validate_every,
        patience=plan.patience,
        clip_norm=plan.clip_norm,
        weight_decay=plan.weight_decay,
        own_rates=scheme.own_rates,
        identity=identity,
    )


def train(
    study: Study, job: Job, folder: Path, progress: Callable[[Progress], None] | None, fabric: Fabric | None = None
) -> Outcome:
    """Train from where the folder's checkpoint stands to the end, each round of answers for its share of the steps.

    The scheme then has its best weights so far, on the CPU. Where rounds are missing, it ends before their steps.
    """
    plan, student = study.distill, job.scheme.shipped
    share = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    whole = TrainingBatches(
        job.slices, job.train, None, job.seed, plan.batch, plan.labelled_share, study.augment, share,
        views=study.answers.views, views_seed=study.seed,
    )  # fmt: skip
    training = train_plan(job.scheme, job.seed, job.origin.digest())
    history = History(folder, training.lr, progress)
    validate = partial(case_dice, student, job.slices, job.validation, study.classes) if job.validation else None
    teach = partial(fit, job.scheme, plan=training, folder=folder, validate=validate, progress=history, fabric=fabric)
    if not job.rounds:
        outcome = teach(whole)
    for number, answers in enumerate(job.rounds):
        outcome = teach(replace(whole, teachers=answers), until=study.steps_of(number))
    job.scheme.network.load_state_dict(load_best(folder))
    job.scheme.cpu().eval()
    return outcome


def ship(job: Job, folder: Path) -> None:
    """The student's weights alone, and how its teachers were heard."""
    if job.rounds:
        write_text(folder / "weights.json", json.dumps(heard(job, job.rounds[-1])))
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in job.scheme.shipped.state_dict().items()}
    write_bytes(folder / WEIGHTS, pack_tensors(weights))


def heard(job: Job, answers: Teachers, *, chunk: int = 32) -> dict[str, Any]:
    """How much each site's teacher is heard on every training slice, unaugmented: a row of weights a slice."""
    weights: list[list[float]] = []
    for start in range(0, len(job.train), chunk):
        batch = plain(job.slices, answers, job.train[start : start + chunk])
        if batch.teachers is not None:
            weights += job.scheme.weights(batch).tolist()
    return {
        "sites": answers.sites,
        "slices": job.train.tolist(),
        "labelled": job.slices.labelled[job.train].tolist(),
        "weights": [[round(weight, 6) for weight in row] for row in weights],
    }


def card_of(study: Study, job: Job, outcome: Outcome, *, label: str, made_on: dict[str, str]) -> StudentCard:
    """The card of a student whose training has ended."""
    student = job.scheme.shipped
    return StudentCard.of(
        study,
        label=label,
        scheme=job.name,
        seed=job.seed,
        parameters=sum(p.numel() for p in student.parameters()),
        steps=outcome.step,
        best_step=outcome.best_step,
        val_dice=outcome.best_dice,
        history=[Check(step=v.step, dice=v.dice, terms=v.terms) for v in outcome.history],
        seconds=sum(v.seconds for v in outcome.history),
        weights_hash=weights_hash(student.state_dict()),
        teachers=list(job.sites),
        pixel_mm=float(np.median([case.pixel_mm for case in job.slices.cases])),
        slice_mm=float(np.median([case.slice_mm for case in job.slices.cases])),
        made_on=made_on,
    )
