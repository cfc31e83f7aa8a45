"""What compact answers cost: bytes a slice, distance from the exact logits, and Dice, for each way that they travel.

    python benchmarks/answer_size.py runs/prostate [--encodings float16-full uint8-teacher] [--steps 500 --seeds 0 1]

RUN is a finished simulation, whose hospitals hold their teachers and patients; nothing in it changes but its caches.
The sites are asked for what `amtkd` learns from: logits, attention, region contrast. Bytes are those of the reply that
leaves a site, over the student's training slices; the factor is against float32 logits and float32 features of both
taps. The teachers' equally weighted mixture and the students are judged on the sites' validation and test patients, in
3-D on the network's grid. The mixture's Dice has no training in it, so it shows what two trainings cannot. Students are
trained where `--steps` is above 0.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

import models
from client.scans import Scans, open_scans
from client.site import read_site
from client.teacher import Teacher, load_teacher
from distill.job import run_job
from imaging.metrics import mean_dice
from imaging.slices import CachedCase, SliceCache
from models.registry import ends_of
from study.answers import Answers
from study.cards import read_card
from study.cohorts import assignment, lead_slices, make_shard, open_store, shards
from study.encoding import decoded
from study.plan import Asked, Study
from study.prediction import case_dice, load_student
from study.run import read_study_of
from study.training import evaluating, use_threads
from study.wire import Shard

EXACT = "float32-full"
ENCODINGS = (
    EXACT, "float16-full", "float16-teacher", "uint8-full", "uint8-teacher", "uint8-half", "4bit-teacher", "4bit-half"
)  # fmt: skip
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Federation:
    """A finished run's study under some encoding, its teachers and their patients."""

    run: Path
    study: Study
    teachers: dict[str, Teacher]
    scans: dict[str, Scans]
    slices: SliceCache

    @classmethod
    def open(cls, run: Path) -> Federation:
        study, teachers, scans = read_study_of(run), {}, {}
        for site in study.sites:
            config, asks = read_site(run / "hospitals" / site.name / "site.toml"), assignment(study, site.name)
            teachers[site.name], scans[site.name] = load_teacher(config, asks), open_scans(config, asks)
        return cls(run, study, teachers, scans, lead_slices(study, run))

    def under(self, encoding: str) -> Federation:
        """The same, the sites asked for answers in `precision-grid`."""
        precision, _, grid = encoding.partition("-")
        asked = Asked.model_validate({"precision": precision, "grid": grid})
        return replace(self, study=self.study.model_copy(update={"answers": asked}))

    def asked(self, site: str) -> Iterator[Shard]:
        """The student's training slices, as they are sent."""
        asks = assignment(self.study, site)
        for index, ids in enumerate(shards(self.study, self.slices)):
            yield make_shard(asks, self.slices, index, ids, self.study.answers.contents)

    def patients(self) -> Iterator[tuple[SliceCache, CachedCase]]:
        """The sites' validation and test patients."""
        for scans in self.scans.values():
            yield from ((scans.cache, case) for part in ("val", "test") for case in scans.parts[part])

    def answers(self) -> Iterator[list[Logits]]:
        """For each of these patients what a job would read of every teacher's answer."""
        for slices, case in self.patients():
            yield [self.logits(site, slices, case) for site in self.teachers]

    def logits(self, site: str, slices: SliceCache, case: CachedCase) -> Logits:
        """One teacher's, (N, C, H, W)."""
        ids, asks = np.arange(case.start, case.stop, dtype=np.int64), assignment(self.study, site)
        shard = make_shard(asks, slices, 0, ids, ["logits"])
        answers = Answers.unpack(self.teachers[site].answer(shard).pack(), shard)
        ends = ends_of(asks.teacher.model, asks.teacher.options)
        size = asks.preprocess.size
        return decoded(answers.arrays, asks.encoding, size=size, ends=ends)["logits"].astype(np.float32)


def reference_bytes(federation: Federation) -> float:
    """float32 logits and float32 features of both taps, a slice, mean over teachers."""
    sizes = []
    for site, teacher in federation.teachers.items():
        image = torch.from_numpy(next(federation.asked(site)).images[:1].astype(np.float32))
        with evaluating(teacher.network), models.tap(teacher.network) as features:
            sizes.append(4 * (teacher.network(image).numel() + sum(one.numel() for one in features.values())))
    return float(np.mean(sizes))


def sent_bytes(federation: Federation) -> float:
    """What leaves a site for one of the student's slices, mean over sites."""
    sizes, count = 0, 0
    for site, teacher in federation.teachers.items():
        for shard in federation.asked(site):
            body = teacher.answer(shard).pack()
            Answers.unpack(body, shard)
            sizes, count = sizes + len(body), count + len(shard.slice_ids)
    return sizes / count


def judged(truth: Sequence[Sequence[Logits]], federation: Federation) -> dict[str, float]:
    """KL of the decoded to the exact probabilities, agreement of the most likely class, and Dice of the mixture."""
    kl, agreement, dice = [], [], []
    for (slices, case), exact, read in zip(federation.patients(), truth, federation.answers(), strict=True):
        for a, b in zip(exact, read, strict=True):
            kl.append(float((softmax(a, 1) * (log_softmax(a, 1) - log_softmax(b, 1))).sum(1).mean()))
            agreement.append(float((a.argmax(1) == b.argmax(1)).mean()))
        mixture = np.mean([softmax(one, 1) for one in read], axis=0).argmax(1)
        dice.append(mean_dice(mixture, slices.masks[case.start : case.stop], classes=federation.study.classes))
    return {"kl": float(np.mean(kl)), "agreement": float(np.mean(agreement)), "mixture": float(np.mean(dice))}


def student_dice(federation: Federation, folder: Path, scheme: str, seed: int, steps: int) -> float:
    """A student distilled from these answers, from a run folder of its own."""
    study, lead = federation.study, federation.run / "lead"
    study = study.model_copy(update={"distill": study.distill.model_copy(update={"steps": steps})})
    folder.mkdir(parents=True, exist_ok=True)
    if lead.exists() and not (folder / "lead").exists():
        (folder / "lead").symlink_to(lead.resolve())
    slices = lead_slices(study, folder)
    store = open_store(study, folder, slices)
    for site, teacher in federation.teachers.items():
        if (card := read_card(federation.run, site)) is None:
            raise SystemExit(f"{federation.run}: {site} has no teacher's card")
        missing = store.missing(site, len(shards(study, slices)), study.answers.contents)
        for shard in federation.asked(site):
            if shard.index in missing:
                store.write(teacher.answer(shard), card, shard.wants)
    run_job(study, folder, scheme, seed=seed, label=f"{scheme}-{seed}")
    network = load_student(folder / "distill" / f"{scheme}-{seed}")[1]
    return float(np.mean([case_dice(network, cache, [case], study.classes) for cache, case in federation.patients()]))


def rows_of(run: Path, folder: Path, chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The lines of the table."""
    exact = Federation.open(run).under(EXACT)
    whole, truth = reference_bytes(exact), list(exact.answers())
    for encoding in chosen.encodings:
        federation = exact.under(encoding)
        sent = sent_bytes(federation)
        row = {"encoding": encoding, "bytes": sent, "factor": whole / sent, **judged(truth, federation)}
        if chosen.steps:
            own = folder / encoding
            row["students"] = [student_dice(federation, own, chosen.scheme, s, chosen.steps) for s in chosen.seeds]
        yield row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown; Dice in points against the first, students' paired by seed."""
    first = rows[0]
    lines = [
        "| answers | bytes a slice | less by | KL | agreement | mixture's Dice | students' Dice |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lost = 100 * (np.array(row.get("students", [])) - np.array(first.get("students", [])))
        words = f"{lost.mean():+.2f} ({lost.min():+.2f} to {lost.max():+.2f})" if len(lost) else "–"
        if row is first:
            words = " · ".join(f"{one:.4f}" for one in row.get("students", [])) or "–"
        dice = f"{row['mixture']:.4f}" if row is first else f"{100 * (row['mixture'] - first['mixture']):+.3f}"
        lines.append(
            f"| {row['encoding']} | {row['bytes']:,.0f} | {row['factor']:,.1f} | {row['kl']:.5f} "
            f"| {100 * row['agreement']:.2f} % | {dice} | {words} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--encodings", nargs="+", default=list(ENCODINGS), help="precision-grid; the first is compared with"
    )
    parser.add_argument("--scheme", default="amtkd")
    parser.add_argument("--steps", type=int, default=0, help="of a student's training; 0 trains none")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, help="folder for the students, to go on from; a temporary one otherwise")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    use_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        rows = list(rows_of(chosen.run, chosen.work or Path(temporary), chosen))
    print(json.dumps(rows) if chosen.json else table(rows))


if __name__ == "__main__":
    main()
