"""What a job writes down while it trains: one line a step and one a validation, in its events.jsonl."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from imaging.atomic import write_text
from study.run import EVENTS, Run, events
from study.training import Progress


class History:
    """Called after every step; hands the step on to `progress`.

    A killed job takes up again at its last checkpoint, so the lines of steps that are done anew go before.
    """

    def __init__(self, folder: Path, lr: Callable[[int], float], progress: Callable[[Progress], None] | None) -> None:
        self._folder, self._lr, self._progress = folder, lr, progress
        self._begun = False

    def __call__(self, done: Progress) -> None:
        if not self._begun:
            self._forget(done.step)
        run = Run(self._folder)
        run.event("step", step=done.step, lr=self._lr(done.step - 1), terms=done.terms)
        if done.validation is not None:
            check = done.validation
            run.event("validation", step=check.step, dice=check.dice, terms=check.terms, seconds=check.seconds)
        if self._progress is not None:
            self._progress(done)

    def _forget(self, step: int) -> None:
        self._begun = True
        if (self._folder / EVENTS).exists():
            kept = [event for event in events(self._folder) if event.get("step", 0) < step]
            write_text(self._folder / EVENTS, "".join(json.dumps(event) + "\n" for event in kept))
