"""What the person at the terminal sees: a live table, or one line at each milestone where there is no terminal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from server.hospitals import cohorts
from server.scene import Scene, SiteScene
from server.tail import Tail
from server.watch import Watch
from server.words import PARTS, duration, words
from study.plan import Study

TICK_S, SHOW_S = 0.1, 0.5
ALWAYS = {
    "site-left-out",
    "rejected",
    "sent-again",
    "phase-ended",
    "put-aside",
    "student-failed",
    "withheld",
    "settings-changed",
}
"""Events that get a line above the live table too."""


class Screen:
    """Follows a run directory and tells; `tick` waits a moment and brings it up to date."""

    def __init__(self, study: Study, folder: Path, console: Console, *, watch: Watch) -> None:
        self.study, self.folder, self.console, self.watch = study, folder, console, watch
        self.scene = Scene(study, cohorts(study, folder))
        self.began, self._shown = time.monotonic(), 0.0
        self._tails: dict[str, Tail] = {}
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._read()  # of earlier starts: known, not told again
        self.scene.begin_watching()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._tell()
        if self._live:
            self._live.stop()

    def tick(self) -> None:
        """Wait a tenth of a second; show what has happened."""
        time.sleep(TICK_S)
        if time.monotonic() - self._shown >= SHOW_S:
            self._tell()
            self._shown = time.monotonic()

    def _tell(self) -> None:
        for event in self._read():
            line = words(event)
            if line is not None and (self._live is None or event["kind"] in ALWAYS):
                clock = time.strftime("%H:%M:%S", time.localtime(event["time"]))
                self.console.print(f"[dim]{clock}[/] {escape(line)}", highlight=False, soft_wrap=True)
        if self._live:
            self._live.update(self._picture(), refresh=True)

    def _read(self) -> list[dict[str, Any]]:
        """New events of the run and of its distillations, the latter with their student; the scene has heard them."""
        found = self._tail("", self.folder).read()
        for name in self.scene.plans:
            log = self._tail(name, self.folder / "distill" / name)
            found += [{**event, "student": name} for event in log.read()]
        for event in found:
            self.scene.hear(event)
        return found

    def _tail(self, key: str, folder: Path) -> Tail:
        return self._tails.setdefault(key, Tail(folder / "events.jsonl"))

    def _picture(self) -> RenderableType:
        return Group(self._parts(), Padding(self._sites(), (1, 0)), self._now())

    def _parts(self) -> Text:
        """The whole way, what is done of it and where we are."""
        line = Text(f"{self.study.name}  ", style="bold")
        for part in PARTS:
            style = "green" if part in self.scene.done else "bold cyan" if part == self.scene.part else "dim"
            line.append(f" {part} ", style=style)
        return line

    def _sites(self) -> Table:
        table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
        for title in ("site", "doing", "epoch", "best Dice", "shards", "evaluated"):
            table.add_column(title, justify="left" if title in {"site", "doing"} else "right", no_wrap=True)
        for name, site in self.scene.sites.items():
            table.add_row(name, *self._site(site, self.watch.latest.get(name, {})))
        for name, plan in self.scene.plans.items():
            if step := self.scene.steps[name]:
                dice = f"{self.scene.validated[name]:.3f}" if name in self.scene.validated else ""
                done = f"step {step}/{plan.steps}"
                table.add_row(Text(name, style="magenta"), done, "", dice, "", "")
        return table

    def _site(self, site: SiteScene, now: dict[str, Any]) -> list[RenderableType]:
        doing = str(now.get("doing") or ("waiting" if now else ""))
        if now.get("doing") and now.get("steps"):
            doing += f" {now['step']}/{now['steps']}"
        state: RenderableType = Text("left out", style="red") if site.left_out else Text(doing, style="cyan")
        epoch = max(site.epoch, int(now.get("epoch") or 0))
        dice = now.get("dice") or site.dice
        return [
            state,
            f"{epoch}/{site.epochs}" + (" ✓" if site.finished else ""),
            f"{dice:.3f}" if dice is not None else "",
            f"{len(site.shards)}/{self.scene.shards}" if self.scene.shards else "",
            f"{len(site.labels)}/{self.scene.students}" if site.labels else "",
        ]

    def _now(self) -> RenderableType:
        left = self.scene.left_s()
        tail = f"about {duration(left)} left" if left is not None else ""
        row = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=1.0, completed=self.scene.share(), width=30)
        row.add_row(
            Text(PARTS.get(self.scene.part, "starting")), bar, tail, f"{duration(time.monotonic() - self.began)} so far"
        )
        return row
