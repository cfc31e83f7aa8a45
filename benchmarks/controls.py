"""Controls: what a student gains from teachers who know nothing, and what one bad teacher among others costs.

    python benchmarks/controls.py RUN [RUN …] --work FOLDER [--spoil SITE] [--seeds 2] [--steps 1000] [--json]

Of each finished run (one a seed of one study) copies are made in FOLDER, each with a store of its own: the run's
answers; those of its teachers' networks freshly initialised; the run's answers permuted among the slices, all sites'
alike. `amtkd` and `consensus` learn from each and are compared with `supervised`, paired by patient, on every site's
validation and test patients. A gain from the latter two would come from anything but what teachers know.

With `--spoil SITE` there is one copy instead: that site's teacher is trained again, on its own scans with its masks
shuffled among all its slices. `amtkd`, with its own and with the sharp law, others, and students of each sound teacher
alone learn from this store; and from it without that site.

The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from client.fill import fill
from client.matrix import matrix
from client.scans import open_scans
from client.site import read_site
from client.status import Status
from client.teacher import Teacher, build, load_teacher
from client.training import Course
from distill.comparison import Split, Trainings, differences
from distill.comparison_tables import markdown
from distill.job import run_job
from models.contents import DEFAULT
from study.cards import write_card
from study.cohorts import assignment, lead_slices, open_store, shards
from study.distill_tables import Weights
from study.draws import derived, generator
from study.plan import Asked, Study
from study.run import read_study_of
from study.store import AnswerStore
from study.training import use_threads, weights_hash
from study.wire import CaseMetrics, Metric

ByRun = list[dict[str, list[CaseMetrics]]]
"""Cases of one training: run and seed -> site -> cases."""


def copied(run: Path, folder: Path) -> Path:
    """A run folder with the study lead's scans and slices alone."""
    for name in ("study.json", "student", "lead"):
        source, target = run / name, folder / name
        if source.is_dir() and not target.exists():
            shutil.copytree(source, target)
        elif source.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return folder


def true(study: Study, run: Path, folder: Path) -> None:
    """The run's own answers."""
    shutil.copytree(run / "store", folder / "store", dirs_exist_ok=True)


def untrained(study: Study, run: Path, folder: Path) -> None:
    """Answers of the teachers' networks as they are before their training."""
    slices = lead_slices(study, folder)
    for site in study.sites:
        asks = assignment(study, site.name)
        torch.manual_seed(derived(study.seed, "untrained", site.name))
        network = build(asks, fresh=False).eval()
        fill(study, folder, slices, Teacher(site.name, asks, network, weights_hash(network.state_dict())))


def shuffled(study: Study, run: Path, folder: Path) -> None:
    """The run's answers, each about another slice: all sites' permuted alike."""
    slices = lead_slices(study, folder)
    source = AnswerStore(run / "store", shard_slices=study.federation.shard_slices, slices=slices.identity())
    target, asked = open_store(study, folder, slices), shards(study, slices)
    order = generator(study.seed, "shuffled").permutation(sum(map(len, asked)))
    for site in source.sites():
        given = [content for content in DEFAULT if content not in source.withheld(site)]
        answers = list(source.in_order(site, given))
        if len(answers) < len(asked):
            raise SystemExit(f"{run}: {site} has not answered all shards")
        whole = {name: np.concatenate([one.arrays[name] for one in answers])[order] for name in answers[0].arrays}
        start = 0
        for one in answers:
            stop = start + len(one.slice_ids)
            arrays = {name: array[start:stop] for name, array in whole.items()}
            target.write(replace(one, arrays=arrays), source.card(site), DEFAULT)
            start = stop


def spoiled(study: Study, run: Path, folder: Path, *, site: str) -> None:
    """The run's own answers, but for those of a site whose masks were shuffled among its slices."""
    true(study, run, folder)
    shutil.rmtree(folder / "store" / site)
    asks, there = assignment(study, site), read_site(run / "hospitals" / site / "site.toml")
    config = there.model_copy(update={"workspace": folder / "spoiled"})
    scans = open_scans(config, asks)
    order = generator(study.seed, "spoiled").permutation(len(scans.cache.masks))
    scans = replace(scans, cache=replace(scans.cache, outlines=scans.cache.outlines[order]))
    write_card(folder, Course(config, asks, scans).teach(asks.teacher.epochs, Status(site)))
    fill(study, folder, lead_slices(study, folder), load_teacher(config, asks))


Store = Callable[[Study, Path, Path], None]


@dataclass(frozen=True)
class Student:
    """What it is called, in whose copy of the run it learns, by what scheme and with what else of `[distill]`."""

    label: str
    copy: str
    store: Store
    scheme: str
    settings: dict[str, object] = field(default_factory=dict)


def students_of(study: Study, spoil: str | None) -> list[Student]:
    """The students of a control, the reference first."""
    if spoil is None:
        kinds: dict[str, Store] = {"": true, "-untrained": untrained, "-shuffled": shuffled}
        taught = [
            Student(f"{scheme}{kind}", f"answers{kind}", store, scheme)
            for scheme in ("amtkd", "consensus")
            for kind, store in kinds.items()
        ]
        return [Student("supervised", "answers", true, "supervised"), *taught]
    store = partial(spoiled, site=spoil)
    schemes = ("amtkd", "uniform", "mono-teacher", "consensus", "supervised")
    found = [Student(name, "spoiled", store, name) for name in schemes]
    sharp: dict[str, object] = {"weights": Weights(law="agreement-softmax")}
    found.append(Student("amtkd-softmax", "spoiled", store, "amtkd", sharp))
    for name in [site.name for site in study.sites if site.name != spoil]:
        found.append(Student(f"only-{name}", "spoiled", store, "mono-teacher", {"mono_teacher": name}))
    whole = [one for one in found if one.label in {"amtkd", "amtkd-softmax", "consensus"}]
    for one in whole:
        found.append(replace(one, label=f"{one.label}-without", settings={**one.settings, "without": [spoil]}))
    return found


def trained(run: Path, work: Path, seed: int, steps: int | None, students: list[Student]) -> list[Path]:
    """The folders of one seed's students, in their order."""
    study = read_study_of(run)
    study = study.model_copy(update={"answers": Asked(contents=list(DEFAULT))})
    if steps:
        study = study.model_copy(update={"distill": study.distill.model_copy(update={"steps": steps})})
    use_threads(study.distill.threads)
    found = []
    for one in students:
        folder, plan = copied(run, work / one.copy), study.distill.model_copy(update=one.settings)
        if not (folder / "stored").exists():
            one.store(study, run, folder)
            (folder / "stored").touch()
        mine = study.model_copy(update={"distill": plan})
        run_job(mine, folder, one.scheme, seed=study.seed + 1000 * seed, label=f"{one.label}-{seed}")
        found.append(folder / "distill" / f"{one.label}-{seed}")
        print(f"{run.name}: {one.label}, seed {seed}", flush=True)
    return found


def evaluated(run: Path, students: list[Path], split: Split) -> dict[str, dict[str, list[CaseMetrics]]]:
    """Label -> site -> cases."""
    study = read_study_of(run)
    sites = [read_site(run / "hospitals" / site.name / "site.toml") for site in study.sites]
    found: dict[str, dict[str, list[CaseMetrics]]] = {}
    for row in matrix(study, sites, teachers=[], students=students, split=split):
        cases = [CaseMetrics.model_validate(case) for case in row.cases]
        found.setdefault(row.network.rpartition("-")[0], {})[row.site] = cases
    return found


def over_trainings(found: list[dict[str, dict[str, list[CaseMetrics]]]]) -> dict[str, dict[str, list[CaseMetrics]]]:
    """Every patient's metrics as their mean over the trainings: patients and teachers are the same, so no more runs."""
    first = found[0]
    return {
        label: {site: list(map(_mean, *(one[label][site] for one in found))) for site in by_site}
        for label, by_site in first.items()
    }


def _mean(*cases: CaseMetrics) -> CaseMetrics:
    def over(metric: Metric, name: str) -> float | None:
        known = [value for case in cases if (value := case.metrics[metric][name]) is not None]
        return sum(known) / len(known) if known else None

    names = cases[0].metrics
    return CaseMetrics(metrics={metric: {name: over(metric, name) for name in names[metric]} for metric in names})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for the copies and their students")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each student in each run, whose mean counts")
    parser.add_argument("--steps", type=int, help="instead of the study's")
    parser.add_argument("--spoil", metavar="SITE", help="shuffle this site's masks instead")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    wanted = students_of(read_study_of(arguments.runs[0]), arguments.spoil)
    students = {
        run: [trained(run, arguments.work / run.name, seed, arguments.steps, wanted) for seed in range(arguments.seeds)]
        for run in arguments.runs
    }
    splits: tuple[Split, ...] = ("val", "test")
    for split in splits:
        rows = [over_trainings([evaluated(run, one, split) for one in each]) for run, each in students.items()]
        cases: dict[str, ByRun] = {label: [row[label] for row in rows] for label in rows[0]}
        trainings = Trainings(tuple(students), tuple(cases), cases)
        if arguments.json:
            print(json.dumps({split: [vars(one) for one in differences(trainings, wanted[0].label)]}))
        else:
            print(f"\n## {split} patients\n\n{markdown(trainings, wanted[0].label)}")


if __name__ == "__main__":
    main()
