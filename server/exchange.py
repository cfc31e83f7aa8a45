"""The coordinator's one loop: asks every site what its phase has for it, sends again, puts away what comes back.

Flower delivers a message at most once and tells little of a lost one, so time-outs and re-sending are ours; a site
handles a repeated message as if it came once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from imaging.errors import InputError
from server.line import Line, Reply
from server.roster import Roster
from server.traffic import Traffic
from study.plan import Federation
from study.store import UnreadableError
from study.wire import AwayError, LacksError

POLL_S = 0.2
AGAIN_S = 3.0
"""Pause before a message that failed, or met nobody, is sent again."""
TRIES = 3
"""Bad replies to one message before its site is left out."""
LACKS = 6
"""Replies to one message that what it only names is lacking, before they count as bad: each copy that waited unread may
bring one."""
ASK_ENGINEER = "the site's engineer finds more in the site's service.log"


@dataclass(frozen=True)
class Ask:
    """One message: `body` packs it, anew at each sending, so that none waits in memory; `take` puts the reply away.

    `take` raises InputError for a reply that is not what was asked.
    """

    action: str
    label: str
    body: Callable[[], bytes]
    take: Callable[[bytes], None]
    purpose: str = ""
    """What its bytes are counted under; its action unless given."""

    @property
    def counted(self) -> str:
        return self.purpose or self.action


class Phase(Protocol):
    """What is asked: for each site one message after the other, at most `window` of them at a time."""

    @property
    def window(self) -> int: ...

    def asks(self, site: str) -> Iterator[Ask]:
        """The messages for a site; each is drawn when there is room for it, and may depend on the replies so far."""


@dataclass(eq=False)
class Pending:
    """A message under way: every ticket it has, when it is to be sent (again), how often its reply was bad."""

    site: str
    ask: Ask
    due: float
    tickets: set[str] = field(default_factory=set)
    bad: int = 0
    lacked: int = 0


class Exchange:
    """A phase, or one of its rounds, being asked over a line."""

    def __init__(self, phase: Phase, roster: Roster, line: Line, traffic: Traffic, plan: Federation) -> None:
        self.phase, self.roster, self.line, self.traffic, self.plan = phase, roster, line, traffic, plan
        self.asks = {site: phase.asks(site) for site in roster.sites}
        for site in roster.sites:  # whoever was ready first in the round before has had nothing to say since
            roster.hear(site)
        self.pending: list[Pending] = []

    def complete(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Ask and take until no site has anything left to be asked; InputError when too few sites are left."""
        while self._draw():
            self._send()
            waiting = {ticket: pending for pending in self.pending for ticket in pending.tickets}
            replies = self.line.fetch(waiting)
            for reply in replies:
                if (pending := waiting[reply.ticket]) in self.pending:  # else its site was left out just now
                    self._take(pending, reply)
            self._drop_silent()
            if not replies:
                sleep(POLL_S)

    def _draw(self) -> bool:
        """Fill every site's window; False when nothing is under way any more."""
        for site in self.roster.sites:
            room = self.phase.window - sum(pending.site == site for pending in self.pending)
            for _ in range(room):
                if (ask := next(self.asks[site], None)) is None:
                    break
                self.pending.append(Pending(site, ask, due=self.roster.clock()))
        return bool(self.pending)

    def _send(self) -> None:
        for pending in self.pending:
            if pending.due > self.roster.clock():
                continue
            body = pending.ask.body()
            if pending.tickets:
                self.roster.run.event("sent-again", site=pending.site, message=pending.ask.label)
            pending.tickets.add(self.line.send(pending.site, pending.ask.action, body))
            pending.due = self.roster.clock() + self.plan.resend_s
            self.traffic.count(pending.site, pending.ask.counted, sent=len(body))

    def _take(self, pending: Pending, reply: Reply) -> None:
        pending.tickets.discard(reply.ticket)
        fault = None if reply.away else self._put_away(pending, reply)
        if isinstance(fault, AwayError):
            self.roster.run.event("away", site=pending.site, message=pending.ask.label, cause=fault.what)
        if reply.away or isinstance(fault, AwayError):  # silence, which patience measures
            pending.due = self.roster.clock() + AGAIN_S
            return
        self._hear(pending.site)
        if fault is None:
            self.pending.remove(pending)
        elif isinstance(fault, LacksError) and pending.lacked < LACKS:  # the phase knows now, and packs it whole
            pending.lacked += 1
            pending.due = self.roster.clock()
        else:
            self._reject(pending, fault)

    def _put_away(self, pending: Pending, reply: Reply) -> InputError | None:
        """None, or why the reply is not what was asked; raises what is our own disk's fault, and no site's."""
        try:
            if reply.body is None:
                raise InputError(reply.fault, fix=ASK_ENGINEER)
            self.traffic.count(pending.site, pending.ask.counted, received=len(reply.body))
            pending.ask.take(reply.body)
        except InputError as error:
            if isinstance(error, UnreadableError) or isinstance(error.__cause__, OSError):
                raise
            return error
        except (ValueError, TypeError, KeyError) as error:  # a reply that we failed to foresee costs that reply only
            return InputError(f"a reply that cannot be understood ({error!r})", fix=ASK_ENGINEER)
        return None

    def _hear(self, site: str) -> None:
        """The site lives: its other messages wait in its queue, so their time starts anew."""
        self.roster.hear(site)
        for pending in self.pending:
            if pending.site == site and pending.tickets:
                pending.due = self.roster.clock() + self.plan.resend_s

    def _reject(self, pending: Pending, error: InputError) -> None:
        """A bad reply costs that reply; the same message answered badly `TRIES` times costs its site."""
        pending.bad += 1
        pending.due = self.roster.clock() + AGAIN_S
        self.roster.run.event(
            "rejected", site=pending.site, message=pending.ask.label, cause=error.what, attempt=pending.bad
        )
        if pending.bad == TRIES:
            self._leave_out(
                pending.site, f"{pending.ask.label} failed {TRIES} times: {error.what}", error.fix or ASK_ENGINEER
            )

    def _drop_silent(self) -> None:
        for site in {pending.site for pending in self.pending}:
            if self.roster.silent_s(site) > self.plan.patience_s:
                cause = f"it has been silent for {self.plan.patience_s:.0f} s"
                self._leave_out(site, cause, "see whether its node and its service still run; then run the phase again")

    def _leave_out(self, site: str, cause: str, remedy: str) -> None:
        self.pending = [pending for pending in self.pending if pending.site != site]
        self.roster.leave_out(site, cause, remedy)
