"""Phase `average`: the student is trained at the sites and its weights are averaged, round after round."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import Field

from imaging.atomic import write_bytes
from imaging.errors import InputError
from server.exchange import Ask
from server.strategies import Average, flower
from study.averaging_table import LOCAL
from study.baselines import START, Start, request, ship
from study.cards import read_card
from study.envelope import Header
from study.plan import Study
from study.run import Run
from study.student import CARD, Check
from study.wire import Arrays, AverageReply, digest, expect, pack, unpack

H = TypeVar("H", bound=Header)
ROOT = Path(__file__).resolve().parent.parent


class State(Header):
    """How far a student is; its common weights and what the strategy remembers are the arrays beside."""

    settings: dict[str, Any]
    round: int = 0
    seconds: float = 0.0
    """Of the slowest site of every round."""
    history: list[Check] = Field(default_factory=list)


class Averaging:
    """Every student of `[averaging]`, one after the other; each goes on from the last round that was finished."""

    name = "average"
    settled = 0

    def __init__(self, study: Study, run: Run) -> None:
        self.study, self.run = study, run
        self.labels = [label for label in study.averaging.labels if not self._finished(label)]
        self.sites = [site.name for site in study.sites] if self.labels else []

    def rounds(self) -> Iterator[Round]:
        """Round after round, each to be completed before the next is drawn."""
        for label in self.labels:
            yield from self._local() if label == LOCAL else self._averaged(label)

    def _local(self) -> Iterator[Round]:
        """Nothing is averaged, and every part of the training begins with the same message."""
        state, _ = self._state(LOCAL)
        _, weights = first_weights(self.run.folder)
        while state.round < self.study.averaging.rounds:
            one = Round(self.study, self.run, LOCAL, state.round + 1, weights)
            yield one
            state = self._keep(state, one, {})

    def _averaged(self, label: str) -> Iterator[Round]:
        start, weights = first_weights(self.run.folder)
        average = Average(flower(label, self.study.averaging), weights, start.learned)
        state, arrays = self._state(label)
        if arrays:
            average.restore(arrays)
        while state.round < self.study.averaging.rounds:
            one = Round(self.study, self.run, label, state.round + 1, average.weights)
            yield one
            average.close(
                one.number, [(one.trained[site], reply.slices) for site, reply in sorted(one.replies.items())]
            )
            state = self._keep(state, one, average.arrays())
        parameters, history = start.parameters, state.history
        ship(
            self.study, self.run.folder, label, average.weights,
            parameters=parameters, seconds=state.seconds, history=history,
        )  # fmt: skip

    def _keep(self, state: State, one: Round, arrays: Arrays) -> State:
        """The state with that round done, on disk: a kill from here on repeats nothing of it."""
        check = one.check()
        state = State(
            settings=state.settings,
            round=one.number,
            seconds=state.seconds + max(reply.seconds for reply in one.replies.values()),
            history=[*state.history, check],
        )
        write_bytes(state_path(self.run.folder, one.label), pack(state, arrays))
        self.run.event(
            "round-ended", label=one.label, round=one.number, of=self.study.averaging.rounds, sites=sorted(one.replies)
        )
        return state

    def _state(self, label: str) -> tuple[State, Arrays]:
        """Where that student stands; InputError where it has been trained with other settings."""
        path, settings = state_path(self.run.folder, label), self._settings(label)
        if not path.exists():
            return State(settings=settings), {}
        state, arrays = _read(path, State)
        if state.settings != settings:
            folder = self.run.folder / "distill" / label
            differing = ", ".join(sorted(key for key in settings if state.settings.get(key) != settings[key]))
            fix = f"remove {path} and {folder}, restore the settings, or choose another folder with `--out`"
            raise InputError(f"a student of other settings is there: {label}; differing: {differing}", fix=fix)
        return state, arrays

    def _finished(self, label: str) -> bool:
        shipped = label == LOCAL or (self.run.folder / "distill" / label / CARD).exists()
        return self._state(label)[0].round == self.study.averaging.rounds and shipped

    def _settings(self, label: str) -> dict[str, Any]:
        plan = self.study.averaging
        own = {"fedprox": {"mu": plan.mu}, "fedadam": {"server_lr": plan.server_lr}}.get(label, {})
        return {"study": self.study.hash(), "rounds": plan.rounds, "steps": self.study.averaging_steps, **own}


def state_path(run_folder: Path, label: str) -> Path:
    """Where that student's finished rounds are kept."""
    return run_folder / START.parent / f"{label}.safetensors"


class Round:
    """One round: the same weights to every site, and what each makes of them."""

    window = 1

    def __init__(self, study: Study, run: Run, label: str, number: int, weights: Arrays) -> None:
        self.study, self.run, self.label, self.number, self.weights = study, run, label, number, weights
        steps, plan = study.averaging_steps, study.averaging
        self.first = 0 if label == LOCAL else plan.done(number - 1, steps)
        self.until = plan.done(number, steps)
        self.sent = digest(weights)
        self.replies: dict[str, AverageReply] = {}
        self.trained: dict[str, Arrays] = {}

    def asks(self, site: str) -> Iterator[Ask]:
        label = f"round {self.number} of {self.label}"
        yield Ask("average", label, partial(self._pack, site), partial(self.take, site), purpose=self.label)

    def take(self, site: str, body: bytes) -> None:
        """Keep what a site has trained; InputError when it is another's, of other weights, or not whole."""
        reply, arrays = unpack(body, AverageReply)
        if (reply.site, reply.label, reply.sent, reply.until) != (site, self.label, self.sent, self.until):
            raise InputError(
                f"{reply.label} trained to step {reply.until} by {reply.site}, asked was {self.label} to step "
                f"{self.until} by {site}, from the same weights"
            )
        card = read_card(self.run.folder, site)
        if card is not None and reply.slices > (most := card.slices["train"]):  # it would count for more than it is
            raise InputError(f"{site} tells of {reply.slices} training slices, its teacher's card of {most}")
        expected = {} if self.label == LOCAL else self.weights
        if foreign := sorted(set(arrays) - set(expected)):
            raise InputError(f"the weights hold `{foreign[0]}`, which was not asked for")
        for name, sent in expected.items():
            expect(arrays, name, sent.dtype.type, sent.shape)
        self.replies[site], self.trained[site] = reply, arrays
        loss = round(sum(reply.terms.values()), 4) if reply.terms else None
        self.run.event("averaged", site=site, label=self.label, round=self.number, loss=loss, slices=reply.slices)

    def check(self) -> Check:
        """How the round's training went: each loss term's mean over the sites, by their slices."""
        slices = [reply.slices for reply in self.replies.values()]
        names = dict.fromkeys(name for reply in self.replies.values() for name in reply.terms)
        terms = {
            name: float(np.average([reply.terms.get(name, 0.0) for reply in self.replies.values()], weights=slices))
            for name in names
        }
        return Check(step=self.until, dice=None, terms=terms)

    def _pack(self, site: str) -> bytes:
        return pack(request(self.study, site, self.label, self.first, self.until), self.weights)


def first_weights(run_folder: Path) -> tuple[Start, Arrays]:
    """The weights that the student begins with; made once, by a process that may import torch."""
    path = run_folder / START
    if not path.exists():
        words = [sys.executable, "-m", "study.start", str(run_folder)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"the student's first weights cannot be made: {done.stderr.strip()[-500:]}", where=path)
    return _read(path, Start)


def _read(path: Path, kind: type[H]) -> tuple[H, Arrays]:
    """What we wrote there; InputError where it has been damaged since."""
    try:
        return unpack(path.read_bytes(), kind)
    except InputError as error:
        raise InputError(
            f"is damaged ({error.what})", where=path, fix=f"remove {path.parent} to average anew"
        ) from error
