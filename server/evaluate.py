"""Phase `evaluate`: every site evaluates every distilled student on its own validation and test patients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from imaging.atomic import write_text
from imaging.errors import InputError
from server.exchange import Ask
from study.cards import read_card
from study.cohorts import assignment
from study.plan import Study
from study.run import Run
from study.student import WEIGHTS
from study.student import read_card as read_student
from study.wire import EvaluateReply, EvaluateRequest, digest, pack, unpack


@dataclass(frozen=True)
class Candidate:
    """A distilled student on disk: what the report calls it, its network, its weights' hash."""

    label: str
    model: str
    options: dict[str, str | int]
    weights_hash: str
    weights: Path


def students(folder: Path) -> list[Candidate]:
    """Every student that was distilled in the run directory `folder`, in alphabetical order."""
    found = []
    for path in sorted(folder.glob("distill/[!.]*/student.json")):
        card, weights = read_student(path.parent), path.with_name(WEIGHTS)
        if card is not None and weights.exists():
            found.append(Candidate(path.parent.name, card.model, card.options, _hash(weights), weights))
    return found


def _hash(weights: Path) -> str:
    try:
        return digest(load_file(weights))
    except SafetensorError as error:
        fix = f"remove {weights.parent} to distil it again"
        raise InputError(f"cannot be read ({error})", where=weights, fix=fix) from error


def evaluated(folder: Path, student: Candidate, site: str) -> bool:
    """Whether that site has evaluated these very weights."""
    try:
        reply = EvaluateReply.model_validate_json(reply_path(folder, student.label, site).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return False
    return reply.weights_hash == student.weights_hash


def reply_path(folder: Path, label: str, site: str) -> Path:
    """Where a site's evaluation of a student lies in the run directory `folder`."""
    return folder / "evaluation" / label / f"{site}.json"


class Evaluation:
    """Sends each student to each site that has a teacher, unless that site has evaluated the same weights before.

    In a study without teachers, to every site.
    """

    name = "evaluate"
    window = 2

    def __init__(self, study: Study, run: Run) -> None:
        self.study, self.run, self.students = study, run, students(run.folder)
        if not self.students:
            raise InputError(
                "holds no distilled student", where=run.folder, fix=f"run `preceptor distill {run.folder}`"
            )
        asked = bool(study.answers.contents)
        able = [site.name for site in study.sites if not asked or read_card(run.folder, site.name)]
        self.sites = [site for site in able if self._left(site)]
        self.settled = len(able) - len(self.sites)

    def _left(self, site: str) -> list[Candidate]:
        return [student for student in self.students if not evaluated(self.run.folder, student, site)]

    def asks(self, site: str) -> Iterator[Ask]:
        for student in self._left(site):
            body, take = partial(self._pack, site, student), partial(self.take, site, student)
            yield Ask("evaluate", f"evaluating {student.label}", body, take)

    def take(self, site: str, student: Candidate, body: bytes) -> None:
        """Keep a site's metrics; InputError when they are another's, or of other weights."""
        reply, _ = unpack(body, EvaluateReply)
        if (reply.site, reply.label, reply.weights_hash) != (site, student.label, student.weights_hash):
            raise InputError(
                f"metrics of {reply.label} by {reply.site}, asked was {student.label} by {site}, same weights"
            )
        reply.check(list(self.study.task.structures))
        write_text(reply_path(self.run.folder, student.label, site), reply.model_dump_json(indent=1))
        self.run.event("evaluated", site=site, label=student.label, cases=len(reply.test))

    def _pack(self, site: str, student: Candidate) -> bytes:
        request = EvaluateRequest(
            assignment=assignment(self.study, site), label=student.label, model=student.model, options=student.options
        )
        return pack(request, load_file(student.weights))
