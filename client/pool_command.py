"""`preceptor pool`: what a student could learn if nobody had to keep anything to himself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pool_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A simulation's folder.")],
) -> None:
    """Train the student on all sites' training patients together: the upper bound of every other way.

    In a simulation only, since in a real study nobody may read all the hospitals' scans.

    `preceptor pool runs/prostate` leaves RUN/distill/pooled; `pooled = true` in `[averaging]` of the study makes it a
    part of `preceptor simulate`. Started again, it goes on where it stopped.
    """
    from rich.console import Console

    from client.pooled import pool
    from study.run import read_study_of

    with Console(stderr=True).status("training the pooled student") as status:
        card = pool(
            read_study_of(run),
            run,
            progress=lambda done: status.update(f"training the pooled student: step {done.step} of {done.steps}"),
        )
    typer.echo(f"{card.label}: {card.steps} steps in {card.seconds / 60:.1f} min, {run / 'distill' / card.label}")
