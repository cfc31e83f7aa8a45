"""What a site does with each message: unpack, call one plain function, release (policy, then audit), pack."""

from __future__ import annotations

import logging

from client import audit
from client.apprentice import Apprentice
from client.evaluate import evaluate_student
from client.ready import card_at_home
from client.scans import Scans, open_scans
from client.shelf import Shelf
from client.site import SiteConfig
from client.status import Status, Work
from client.teacher import Teacher, load_teacher
from client.training import Course
from imaging.errors import InputError
from study.wire import (
    Arrays,
    Assignment,
    AverageRequest,
    Card,
    EvaluateRequest,
    Header,
    Shard,
    TeachRequest,
    digest,
    pack,
    unpack,
)

log = logging.getLogger("client")


class Site:
    """A hospital in a study: its settings, what it is doing, and the scans and teacher kept warm between messages."""

    def __init__(self, config: SiteConfig) -> None:
        self.config, self.status = config, Status(config.name)
        self._scans: tuple[Assignment, Scans] | None = None
        self._teacher: Teacher | None = None

    def teach(self, body: bytes) -> bytes:
        request, _ = unpack(body, TeachRequest)
        card = self.card(request.assignment, request.until_epoch)
        return self.release("teach", request.assignment.study, len(body), card)

    def card(self, assignment: Assignment, until_epoch: int) -> Card:
        """The card of the teacher, trained up to that epoch, or validated where it came ready."""
        self._teacher = None
        if self.config.teacher is not None:
            return card_at_home(self.config, assignment, self.scans(assignment), self.status)
        self.config.policy.admit_teacher(assignment.teacher)
        return Course(self.config, assignment, self.scans(assignment)).teach(until_epoch, self.status)

    def answer(self, body: bytes) -> bytes:
        shelf = Shelf(self.config.workspace / "shards", self.config.keep_mib * 2**20)
        shard = Shard.unpack(body, shelf.get)
        self.status.set(study=shard.assignment.study, doing="answering", steps=len(shard.slice_ids))
        self.config.policy.admit(shard)
        try:
            shelf.put(digest(shard.slices), shard.slices)
        except InputError as error:  # they will be sent again then
            log.warning("the slices of shard %d cannot be kept: %s", shard.index, error)
        answers = self.config.policy.released(self.teacher(shard.assignment).answer(shard))
        self.status.set(shards=self.status.now.shards + 1)
        log.info("shard %d: %d slices answered", shard.index, len(shard.slice_ids))
        return self.release(
            "answer",
            shard.assignment.study,
            len(body),
            answers.header,
            answers.arrays | {"slice_ids": answers.slice_ids},
        )

    def average(self, body: bytes) -> bytes:
        request, weights = unpack(body, AverageRequest)
        self.config.policy.admit_averaging(request)
        scans = self.scans(request.assignment)
        reply, trained = Apprentice(self.config, request, weights, scans).train(self.status)
        if request.keep:  # without its losses too: they would judge any weights on a few patients, past `evaluations`
            reply, trained = reply.model_copy(update={"terms": {}}), {}
        return self.release("average", request.assignment.study, len(body), reply, trained)

    def evaluate(self, body: bytes) -> bytes:
        request, weights = unpack(body, EvaluateRequest)
        scans = self.scans(request.assignment)
        reply = evaluate_student(self.config, request, weights, scans, self.status)
        return self.release("evaluate", request.assignment.study, len(body), reply)

    def release(self, work: Work, study: str, received: int, header: Header, arrays: Arrays | None = None) -> bytes:
        """The packed reply, once the audit log holds it; InputError, and nothing to send, where the log cannot."""
        reply = pack(header, arrays, squeeze=True)
        shapes = {name: list(array.shape) for name, array in (arrays or {}).items()}
        self.record(work, study, received, reply, kind=type(header).__name__, arrays=shapes)
        return reply

    def record(
        self,
        work: Work,
        study: str,
        received: int,
        reply: bytes,
        *,
        kind: str,
        arrays: dict[str, list[int]] | None = None,
    ) -> None:
        """Enter a reply into the audit log before it leaves; InputError, and nothing may leave, where that fails.

        `study` is empty for a message that was not opened.
        """
        audit.record(
            self.config.workspace,
            message=work,
            study=study,
            received=received,
            reply=reply,
            kind=kind,
            arrays=arrays or {},
        )

    def scans(self, assignment: Assignment) -> Scans:
        """The site's scans as this study sees them; read once, then kept open."""
        self.status.set(study=assignment.study, doing="reading scans")
        if self._scans is None or self._scans[0] != assignment:
            progress = lambda done, cases: self.status.set(step=done, steps=cases)  # noqa: E731
            self._scans = assignment, open_scans(self.config, assignment, progress=progress)
        return self._scans[1]

    def teacher(self, assignment: Assignment) -> Teacher:
        """The teacher trained for this study; loaded once, then kept warm."""
        if self._teacher is None or self._teacher.assignment != assignment:
            self._teacher = load_teacher(self.config, assignment)
        return self._teacher
