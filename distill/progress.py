"""How a training is shown: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from study.training import Progress

LINE_EVERY_S = 15.0
"""Between two plain lines; a validation always gets one."""


@contextmanager
def shown(console: Console, label: str) -> Iterator[Callable[[Progress], None]]:
    """What to call after every step of one training, until exit."""
    if not console.is_terminal:
        yield Lines(console, label)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[terms]}"))
    with Bars(*columns, TimeRemainingColumn(), console=console) as bars:
        task = bars.add_task(label, total=None, terms="")
        dice = ""

        def advance(done: Progress) -> None:
            nonlocal dice
            dice = dice_of(done) or dice
            bars.update(task, completed=done.step, total=done.steps, terms=f"{terms_of(done)} {dice}")

        yield advance


class Lines:
    """Progress as plain lines, for a log."""

    def __init__(self, console: Console, label: str) -> None:
        self._console, self._label = console, label
        self._first: tuple[int, float] | None = None
        self._last = 0.0

    def __call__(self, done: Progress) -> None:
        now = time.monotonic()
        self._first = self._first or (done.step, now)
        if done.validation is None and now - self._last < LINE_EVERY_S:
            return
        self._last = now
        line = f"{self._label}: step {done.step} of {done.steps}, {terms_of(done)} {dice_of(done)}".rstrip()
        self._console.print(line + self._left(done, now), highlight=False, soft_wrap=True)

    def _left(self, done: Progress, now: float) -> str:
        """Time left at the speed since the first step of this process; empty at that step."""
        step, started = self._first or (done.step, now)
        if step == done.step:
            return ""
        seconds = (now - started) / (done.step - step) * (done.steps - done.step)
        return f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"


def terms_of(done: Progress) -> str:
    """The loss terms in words, such as `dice 0.112 kl 0.034`."""
    return " ".join(f"{name} {value:.3f}" for name, value in done.terms.items())


def dice_of(done: Progress) -> str:
    """Validation Dice in words; empty where this step was not validated."""
    if done.validation is None or done.validation.dice is None:
        return ""
    return f"· validation Dice {done.validation.dice:.3f}"
