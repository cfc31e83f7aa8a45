"""What learning from stored answers costs: the time of a distillation step over a supervised step's, same student.

    python benchmarks/step_time.py --students espnet enet --size 128 --batch 16 --classes 2 [--json]

Everything is real: slices in their cache, three teachers' answers in a Zarr store, unpacked as a job unpacks them, and
the training loop with its prefetching thread. Both trainings take turns in one process, `--block` steps at a time, so
that whatever else the machine does meets both; the figure is the median, over turns, of the ratio of their median
steps. Processor time, of all threads, is told beside the wall clock: other processes disturb it less. With `--live` a
third training takes its turns, which asks the three teachers themselves at every step: what stored answers save.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import nibabel as nib
import numpy as np
import torch
from torch import nn

import models
from client.teacher import Teacher
from distill.batches import TrainingBatches
from distill.job import Job, prepare, train_plan
from distill.sources import LiveTeachers, Teachers
from imaging.slices import SliceCache
from study.cohorts import assignment, lead_slices, make_shard, open_store, shards
from study.plan import Study
from study.training import Progress, fit, use_threads
from study.wire import Card

SITES = ("north", "east", "south")
TEACHER = {"model": "deeplabv3plus", "options": {"encoder": "resnet18"}}


@dataclass
class Clock:
    """Wall and processor seconds of the steps of one turn; the first waits for its batch and is left out."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    _last: tuple[float, float] | None = None

    def __call__(self, done: Progress) -> None:
        now = (time.perf_counter(), time.process_time())
        if self._last is not None:
            self.wall.append(now[0] - self._last[0])
            self.cpu.append(now[1] - self._last[1])
        self._last = now


@dataclass
class Trainee:
    """One training that takes its turns; every turn goes on from the checkpoint of the one before."""

    job: Job
    study: Study
    folder: Path
    teachers: Teachers | None
    steps: int = 0

    def turn(self, block: int) -> Clock:
        """So many steps more, timed."""
        plan, clock = self.study.distill, Clock()
        self.steps += block
        batches = TrainingBatches(self.job.slices, self.job.train, self.teachers, 0, plan.batch, plan.labelled_share)
        training = train_plan(self.job.scheme, 0, "benchmark")
        fit(self.job.scheme, batches, training, self.folder, validate=None, until=self.steps, progress=clock)
        return clock


def write_scans(folder: Path, size: int, classes: int, *, cases: int = 4, slices: int = 16) -> None:
    """Nested discs on noise, every case with its mask."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    for case in range(cases):
        centre = generator.uniform(0.4 * size, 0.6 * size, 2)
        distance = np.hypot(rows - centre[0], columns - centre[1])
        mask = np.zeros((slices, size, size), np.uint8)
        for label in range(1, classes):
            mask[:, distance < 0.3 * size * (1 - (label - 1) / classes)] = label
        image = (100 * mask + generator.normal(300, 30, mask.shape)).astype(np.float32)
        for name, array in (("image", image), ("mask", mask)):
            nib.save(nib.Nifti1Image(array.T, np.diag([-1.0, -1.0, 3.0, 1.0])), folder / f"p{case}_{name}.nii.gz")


def make_study(student: str, scans: Path, chosen: argparse.Namespace) -> Study:
    """A study of that student with three sites."""
    return Study.model_validate({
        "name": "step-time",
        "task": {"modality": "MR", "classes": ["background", *(f"c{c}" for c in range(1, chosen.classes))]},
        "preprocess": {"size": (chosen.size, chosen.size)},
        "sites": [{"name": site} for site in SITES],
        "teacher": TEACHER,
        "student": {"model": student, "sources": [{"folder": scans}]},
        "distill": {"batch": chosen.batch, "threads": chosen.threads, "steps": 10**6, "validate_every": 10**6},
    })  # fmt: skip


def collect(study: Study, run: Path, slices: SliceCache) -> None:
    """Three fresh teachers' answers, into the store."""
    store = open_store(study, run, slices)
    for site, network in fresh_teachers(study).items():
        asks, card = assignment(study, site), card_of(site, study.preprocess.fingerprint())
        for index, ids in enumerate(shards(study, slices)):
            shard = make_shard(asks, slices, index, ids, study.answers.contents)
            store.write(Teacher(site, asks, network, site).answer(shard), card, shard.wants)


def fresh_teachers(study: Study) -> dict[str, nn.Module]:
    """Three networks, untrained; the same each time."""
    networks: dict[str, nn.Module] = {}
    for number, site in enumerate(SITES):
        torch.manual_seed(number)
        networks[site] = models.create(study.teacher.model, 1, study.classes, **study.teacher.options).eval()
    return networks


def card_of(site: str, fingerprint: str) -> Card:
    nothing = {"train": 0, "val": 0, "test": 0}
    return Card.model_validate(
        {
            "site": site,
            "weights_hash": site,
            "fingerprint": fingerprint,
            "epochs": 0,
            "finished": True,
            "dice": 0,
            "best_epoch": 0,
        }
        | {"patients": nothing, "slices": nothing, "set_aside": 0, "history": [], "parameters": 0, **TEACHER}
    )


def measure(student: str, folder: Path, chosen: argparse.Namespace) -> dict[str, float | str]:
    """One student's figures: milliseconds a step of both trainings, and their ratios."""
    scans, run = folder / "scans", folder / student
    study = make_study(student, scans, chosen)
    collect(study, run, lead_slices(study, run))
    use_threads(chosen.threads)
    alone, stored = (prepare(study, run, scheme, 0) for scheme in ("supervised", chosen.scheme))
    trainees = [
        Trainee(alone, study, run / "distill" / "alone", None),
        Trainee(stored, study, run / "distill" / "stored", stored.rounds[0]),
    ]
    if chosen.live:
        job = prepare(study, run, chosen.scheme, 0)
        teachers = LiveTeachers(fresh_teachers(study), job.slices, classes=study.classes)
        trainees.append(Trainee(job, study, run / "distill" / "live", teachers))
    for trainee in trainees:
        trainee.turn(3)
    turns = [[trainee.turn(chosen.block) for trainee in trainees] for _ in range(chosen.turns)]
    found: dict[str, float | str] = {"student": student}
    for number, name in enumerate(("supervised", chosen.scheme, "live")[: len(trainees)]):
        found[f"{name}_ms"] = 1000 * median(median(turn[number].wall) for turn in turns)
    for number, name in enumerate(("", "live_")[: len(trainees) - 1], 1):
        found[f"{name}ratio"] = median(median(turn[number].wall) / median(turn[0].wall) for turn in turns)
        found[f"{name}cpu_ratio"] = median(median(turn[number].cpu) / median(turn[0].cpu) for turn in turns)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", default=["espnet", "enet"])
    parser.add_argument("--scheme", default="amtkd")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--block", type=int, default=8, help="steps a turn")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--live", action="store_true", help="also with the teachers themselves")
    parser.add_argument("--json", action="store_true", help="print JSON lines only")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "scans").mkdir()
        write_scans(Path(folder) / "scans", chosen.size, chosen.classes)
        for student in chosen.students:
            found = measure(student, Path(folder), chosen)
            if chosen.json:
                print(json.dumps(found), flush=True)
                continue
            alone, taught = found["supervised_ms"], found[f"{chosen.scheme}_ms"]
            words = f"{student}: {chosen.scheme} {taught:.0f} ms, supervised {alone:.0f} ms a step"
            print(f"{words}, ratio {found['ratio']:.2f} (processor time {found['cpu_ratio']:.2f})", flush=True)
            if chosen.live:
                words = f"{student}: {chosen.scheme} from live teachers {found['live_ms']:.0f} ms a step"
                print(f"{words}, ratio {found['live_ratio']:.2f} (processor time {found['live_cpu_ratio']:.2f})")


if __name__ == "__main__":
    main()
