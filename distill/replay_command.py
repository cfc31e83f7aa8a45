"""`preceptor replay`: whether a finished training gives the same student again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def replay_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    label: Annotated[
        str | None, typer.Option(help="Folder under RUN/distill; the study's scheme unless given.")
    ] = None,
) -> None:
    """Train a finished student again from its first step, and say whether it is the same, bit for bit.

    `preceptor replay runs/prostate --label uniform`

    Exit code 0 where it is, 1 where it is not; then it says what differs of all that is recorded: settings, slices,
    answers, versions, processor, device, processes and threads. The student that is there stays as it is. It takes as
    long as the training took.
    """
    from rich.console import Console

    from distill.machine import fabric_of, led
    from distill.progress import shown
    from distill.replay import read_finished, replay
    from study.run import read_study_of

    name = label or read_study_of(run).distill.scheme
    finished = read_finished(run, name)
    fabric = fabric_of(finished.study.distill)
    with led(fabric), shown(Console(stderr=True), f"{name} again") as show:
        found = replay(finished, fabric, show)
    if not fabric.is_global_zero:
        return
    typer.echo(f"{name}: {'the same student' if found.same else 'ANOTHER student'}")
    typer.echo(f"  then {found.then}\n  now  {found.now}")
    if found.differing:
        typer.echo("What differs:\n" + "\n".join(f"  {line}" for line in found.differing))
    elif not found.same:
        typer.echo(
            "Nothing that is recorded differs: processors of one name may round differently, or it is our fault."
        )
    raise typer.Exit(0 if found.same else 1)
