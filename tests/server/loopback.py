"""An in-process Flower grid, and sites behind it that answer by the book or as a test tells them to."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run as FlowerRun

from server.app import conduct
from server.line import FlowerLine
from study.answers import Answers, AnswersHeader
from study.cards import read_card
from study.plan import Study
from study.run import Run, create_or_resume
from study.wire import (
    Arrays,
    AverageReply,
    AverageRequest,
    Card,
    CaseMetrics,
    Epoch,
    EvaluateReply,
    EvaluateRequest,
    Metric,
    Shard,
    ShardHeader,
    TeachRequest,
    digest,
    pack,
    unpack,
)

SITES = ("hospital-a", "hospital-b", "hospital-c")


class LostError(Exception):
    """Raised by a site that never answers a message."""


class Desk:
    """A site: trains by counting epochs, answers with logits that tell site and slice. `asked` holds all messages."""

    def __init__(self, name: str) -> None:
        self.name, self.epochs, self.last_epoch = name, 0, 10**6
        self.asked: list[tuple[str, bytes]] = []
        self.sent: list[bytes] = []
        self.weights = f"weights-of-{name}"
        self.kept: dict[str, Arrays] = {}
        """Slices of shards by their digest."""
        self.before: list[Callable[[str, bytes], bytes | None]] = []
        """Called one a message before anything else; what it returns goes out instead."""

    def handle(self, action: str, body: bytes) -> bytes:
        self.asked.append((action, body))
        reply = self.before.pop(0)(action, body) if self.before else None
        reply = getattr(self, action)(body) if reply is None else reply
        self.sent.append(reply)
        return reply

    def labels(self) -> list[Any]:
        """What was asked: epochs, shard numbers, students."""
        read = {"teach": _epoch_of, "answer": _index_of, "average": _steps_of, "evaluate": _label_of}
        return [read[action](body) for action, body in self.asked]

    def teach(self, body: bytes) -> bytes:
        request, _ = unpack(body, TeachRequest)
        self.epochs = min(max(self.epochs, request.until_epoch), self.last_epoch)
        return pack(self.card(request))

    def card(self, request: TeachRequest, **changes: Any) -> Card:
        plan = request.assignment.teacher
        history = [Epoch(epoch=e, loss=1 / e, dice=0.5, seconds=0.1) for e in range(1, self.epochs + 1)]
        card = Card(
            site=self.name,
            model=plan.model,
            options=plan.options,
            parameters=11,
            weights_hash=self.weights,
            fingerprint=request.assignment.preprocess.fingerprint(),
            epochs=self.epochs,
            finished=self.epochs >= min(plan.epochs, self.last_epoch),
            dice=0.5,
            best_epoch=1,
            patients={"train": 5, "val": 1, "test": 2},
            slices={"train": 50, "val": 10, "test": 20},
            set_aside=0,
            history=history,
        )
        return card.model_copy(update=changes)

    def answer(self, body: bytes) -> bytes:
        return self.answers(body).pack()

    def answers(self, body: bytes) -> Answers:
        shard = Shard.unpack(body, self.kept.get)
        self.kept[digest(shard.slices)] = shard.slices
        task, preprocess = shard.assignment.task, shard.assignment.preprocess
        header = AnswersHeader(
            site=self.name,
            index=shard.index,
            weights_hash=self.weights,
            fingerprint=preprocess.fingerprint(),
        )
        logits = np.zeros((len(shard.slice_ids), len(task.classes), *preprocess.size), np.float16)
        logits += shard.slice_ids[:, None, None, None] + SITES.index(self.name) / 4
        return Answers(header, shard.slice_ids, {"logits": logits} if "logits" in shard.wants else {})

    def average(self, body: bytes) -> bytes:
        """Weights of `place` more than was sent; 10 slices at the first site, 20 at the second, …"""
        return pack(*self.averaged(body))

    def averaged(self, body: bytes) -> tuple[AverageReply, dict[str, Any]]:
        request, weights = unpack(body, AverageRequest)
        place = 1 + SITES.index(self.name)
        reply = AverageReply(
            site=self.name, label=request.label, sent=digest(weights), until=request.until,
            slices=10 * place, terms={"dice": 0.5 * place}, seconds=float(place),
        )  # fmt: skip
        trained = {name: (array + place).astype(array.dtype) for name, array in weights.items()}
        return reply, {} if request.keep else trained

    def evaluate(self, body: bytes) -> bytes:
        request, weights = unpack(body, EvaluateRequest)
        classes = request.assignment.task.classes[1:]
        dice = CaseMetrics(metrics={metric: dict.fromkeys(classes, 0.5) for metric in get_args(Metric)})
        reply = EvaluateReply(
            site=self.name, label=request.label, weights_hash=digest(weights), val=[dice], test=[dice] * 2
        )
        return pack(reply)


def _epoch_of(body: bytes) -> int:
    return unpack(body, TeachRequest)[0].until_epoch


def _index_of(body: bytes) -> int:
    return unpack(body, ShardHeader)[0].index


def _steps_of(body: bytes) -> tuple[str, int, int]:
    request = unpack(body, AverageRequest)[0]
    return request.label, request.first, request.until


def _label_of(body: bytes) -> str:
    return unpack(body, EvaluateRequest)[0].label


class Loopback(Grid):
    """Flower's grid in this process: a node a desk, each handling one message at a time."""

    def __init__(self, desks: dict[str, Desk]) -> None:
        self.desks, self.offline = desks, set[str]()
        self.numbers = dict(enumerate(desks, start=2))
        self.workers = {name: ThreadPoolExecutor(1) for name in desks}
        self.replies: dict[str, Message] = {}
        self.under_way: dict[str, str] = {}
        """Ticket to site, from the push to the pull."""
        self.most_under_way = 0
        self.lock = threading.Lock()

    def set_run(self, run: FlowerRun) -> None:
        raise AssertionError("the coordinator's logic has no business here")

    @property
    def run(self) -> FlowerRun:
        raise AssertionError("the coordinator's logic has no business here")

    def create_message(self, *arguments: Any, **options: Any) -> Message:
        raise AssertionError("deprecated in Flower")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise AssertionError("polls every 3 s and loses replies in silence")

    def get_node_ids(self) -> Iterable[int]:
        return [node.node_id for node in self.get_nodes()]

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=n, name=name) for n, name in self.numbers.items() if name not in self.offline]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        with self.lock:
            there = [ticket for ticket in message_ids if ticket in self.replies]
            for ticket in there:
                self.under_way.pop(ticket, None)
            return [self.replies.pop(ticket) for ticket in there]

    def _push(self, message: Message) -> str:
        ticket, name = uuid.uuid4().hex, self.numbers[message.metadata.dst_node_id]
        message.metadata.__dict__["_message_id"] = ticket
        if name in self.offline:
            self._reply(ticket, message, Error(ErrorCode.NODE_UNAVAILABLE, "no node"))
        else:
            with self.lock:
                self.under_way[ticket] = name
                self.most_under_way = max(self.most_under_way, *Counter(self.under_way.values()).values())
            self.workers[name].submit(self._handle, ticket, name, message)
        return ticket

    def _handle(self, ticket: str, name: str, message: Message) -> None:
        action = message.metadata.message_type.removeprefix("query.")
        body = message.content.array_records["body"]["body"].numpy().tobytes()
        try:
            array = Array(np.frombuffer(self.desks[name].handle(action, body), np.uint8))
            self._reply(ticket, message, RecordDict({"body": ArrayRecord({"body": array})}))
        except LostError:
            return
        except Exception as error:
            self._reply(ticket, message, Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error)))

    def _reply(self, ticket: str, message: Message, content: RecordDict | Error) -> None:
        with self.lock:
            self.replies[ticket] = Message(content, reply_to=message)


class Bench:
    """A run folder, its desks and the line to them; `conduct` runs a phase as the ServerApp does."""

    def __init__(self, folder: Path, study: Study) -> None:
        self.study, self.run = study, create_or_resume(folder, study)
        self.desks = {site.name: Desk(site.name) for site in study.sites}
        self.grid = Loopback(self.desks)

    def conduct(self, *phases: str, number: int = -1) -> None:
        for phase in phases:
            conduct(phase, self.study, self.run, FlowerLine(self.grid, ttl_s=60.0), number)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return Run(self.run.folder).events(kind)

    def card(self, site: str) -> Card:
        found = read_card(self.run.folder, site)
        assert found is not None, f"{site} has no card"
        return found

    def close(self) -> None:
        for worker in self.grid.workers.values():
            worker.shutdown()


def make_study(
    scans: Path, *, averaging: dict[str, Any] | None = None, answers: dict[str, Any] | None = None, **federation: Any
) -> Study:
    """Three sites; rounds of 2 epochs up to 5; shards of 4 slices, 15 slices in 3 training patients."""
    plan = {"min_sites": 2, "patience_s": 20.0, "resend_s": 5.0, "shard_slices": 4, **federation}
    return Study.model_validate(
        {
            "name": "bench",
            "task": {"modality": "MR", "classes": ["background", "prostate"]},
            "preprocess": {"size": [32, 48]},
            "sites": [{"name": name} for name in SITES],
            "teacher": {"epochs": 5, "round_epochs": 2, "options": {"encoder": "resnet18"}},
            "student": {"model": "espnet", "sources": [{"folder": str(scans)}]},
            "distill": {"split": [0.75, 0.25, 0.0]},
            "averaging": averaging or {},
            "answers": answers or {},
            "federation": plan,
        }
    )


def pause(seconds: float) -> Callable[[str, bytes], bytes | None]:
    """A site that takes its time, then answers by the book."""

    def handle(action: str, body: bytes) -> bytes | None:
        time.sleep(seconds)
        return None

    return handle


def failing(error: Exception) -> Callable[[str, bytes], bytes | None]:
    """A site whose handler raises."""

    def handle(action: str, body: bytes) -> bytes | None:
        raise error

    return handle
