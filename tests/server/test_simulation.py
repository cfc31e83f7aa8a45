"""A part that no phase of the federation is writes the same events, however it ends."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from imaging.errors import InputError
from server.simulation import Simulation
from study.run import Run


@pytest.mark.parametrize(
    ("ending", "fault"),
    [
        (None, None),
        (InputError("the disk is full", fix="free some"), {"cause": "the disk is full", "remedy": "free some"}),
        (KeyboardInterrupt(), {"cause": "it was stopped", "remedy": "run the same command again to go on"}),
        (SystemExit(143), {"cause": "it was stopped", "remedy": "run the same command again to go on"}),
    ],
)
def test_a_part_says_when_it_began_and_how_it_ended(tmp_path: Path, ending: BaseException | None, fault: Any) -> None:
    run = Run(tmp_path)
    simulation = Simulation(*cast(Any, (None, run, None, None)))
    with pytest.raises(type(ending)) if ending else nullcontext(), simulation._timed("distill"):
        if ending:
            raise ending
    assert [event["phase"] for event in run.events("phase-started")] == ["distill"]
    [ended] = run.events("phase-ended")
    assert (ended["phase"], ended["fault"]) == ("distill", fault)
    assert ended["seconds"] >= 0
