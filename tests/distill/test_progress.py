"""Progress without a terminal: a line now and then, with the time left at the speed so far."""

from __future__ import annotations

import io
import itertools
import time

import pytest
from rich.console import Console

from distill.progress import shown
from study.training import Progress, Validation


def test_a_log_gets_a_line_now_and_then_and_no_guess_before_there_is_a_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(100, 10)  # a step takes ten seconds
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    log = io.StringIO()
    with shown(Console(file=log), "amtkd") as show:
        for step in (41, 42, 43, 44):
            validation = Validation(step, {}, 0.5, 1.0) if step == 44 else None
            show(Progress(step, 60, {"dice": 0.25}, validation))
    assert log.getvalue().splitlines() == [
        "amtkd: step 41 of 60, dice 0.250",
        "amtkd: step 43 of 60, dice 0.250, 3 min left",
        "amtkd: step 44 of 60, dice 0.250 · validation Dice 0.500, 3 min left",
    ]
