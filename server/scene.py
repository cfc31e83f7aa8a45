"""What a simulation is at: gathered from its events, so that a resumed one shows what was done before."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from server.hospitals import Cohort
from server.words import Event
from study.plan import Study

Clock = Callable[[], float]
ENOUGH = 0.02
"""Share of a part that must be done before the time left is worth telling."""


@dataclass
class SiteScene:
    """A site as the coordinator knows it."""

    epochs: int
    epoch: int = 0
    finished: bool = False
    dice: float | None = None
    shards: set[tuple[int, int]] = field(default_factory=set)
    """Round and number."""
    labels: set[str] = field(default_factory=set)
    left_out: bool = False

    @property
    def trained(self) -> float:
        return 1.0 if self.finished else self.epoch / self.epochs


class Scene:
    """The state after all events so far."""

    def __init__(
        self, study: Study, cohorts: Sequence[Cohort] = (), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.study, self.cohorts, self.clock = study, cohorts, clock
        self.sites = {site.name: SiteScene(study.teacher_of(site.name).epochs) for site in study.sites}
        self.plans = {name: study.distill.of(name) for name in study.distill.students}
        self.rounds = dict.fromkeys(study.averaging.labels, 0)
        self.steps: dict[str, int] = defaultdict(int)
        self.validated: dict[str, float] = {}
        self.shards = 0
        self.part, self.done = "", list[str]()
        self._begin("")

    def hear(self, event: Event) -> None:
        """Take one event in."""
        if "site" in event and event["site"] in self.sites:
            self._hear_site(event, self.sites[event["site"]])
        match event["kind"]:
            case "phase-started":
                self.done = [part for part in self.done if part != event["phase"]]  # of an earlier round
                self._begin(event["phase"])
            case "phase-ended" if not event.get("fault"):
                self.done.append(event["phase"])
            case "asking":
                self.shards = event["shards"] * self.study.answers.rounds
            case "round-ended":
                self.rounds[event["label"]] = event["round"]
            case "step" | "validation":
                self.steps[event["student"]] = max(self.steps[event["student"]], event["step"])
                if event.get("dice") is not None:
                    self.validated[event["student"]] = event["dice"]

    def share(self) -> float:
        """How much of the current part is done, 0 to 1."""
        taking_part = [site for site in self.sites.values() if not site.left_out]
        n = max(1, len(taking_part))
        shares: dict[str, Callable[[], float]] = {
            "scans": self._scanned,
            "train": lambda: sum(site.trained for site in taking_part) / n,
            "collect": lambda: (
                sum(len(site.shards) for site in taking_part) / (n * self.shards) if self.shards else 0.0
            ),
            "distill": self._distilled,
            "average": lambda: sum(self.rounds.values()) / max(1, self.study.averaging.rounds * len(self.rounds)),
            "evaluate": lambda: sum(len(site.labels) for site in taking_part) / (n * self.students),
        }
        return min(1.0, shares[self.part]()) if self.part in shares else 0.0

    @property
    def students(self) -> int:
        """How many every site is to evaluate."""
        plan = self.study.averaging
        return len(self.plans) + len(plan.strategies) + plan.pooled

    def left_s(self) -> float | None:
        """Seconds the current part will still take at its pace so far; None while that is unknown."""
        gained = self.share() - self._share_at_start
        return (self.clock() - self.began) * (1 - self.share()) / gained if gained > ENOUGH else None

    def begin_watching(self) -> None:
        """What was heard so far belongs to earlier starts: the pace counts from here."""
        self._begin("")
        self.done.clear()

    def _begin(self, part: str) -> None:
        self.part, self.began = part, self.clock()
        self._share_at_start = self.share()

    def _scanned(self) -> float:
        cases = sum(cohort.source.count for cohort in self.cohorts)
        return sum(cohort.cases_there() for cohort in self.cohorts) / max(1, cases)

    def _distilled(self) -> float:
        return sum(self.steps[name] for name in self.plans) / sum(plan.steps for plan in self.plans.values())

    def _hear_site(self, event: Event, site: SiteScene) -> None:
        match event["kind"]:
            case "site-joined":
                site.left_out = False
            case "site-left-out":
                site.left_out = True
            case "taught":
                site.epoch, site.finished, site.dice = event["epoch"], event["finished"], event["dice"]
            case "collected":
                site.shards.add((event.get("round", 0), event["shard"]))
            case "evaluated":
                site.labels.add(event["label"])
