"""`preceptor simulate`: a whole study on this machine."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from server.words import PARTS, duration

if TYPE_CHECKING:
    from rich.console import Console

Part = Enum("Part", {part: part for part in PARTS})  # type: ignore[misc]  # typer wants an enumeration
LAST = list(Part)[-1]


def simulate_command(
    context: typer.Context,
    study: Annotated[Path, typer.Argument(help="The study.toml; `preceptor study` explains its keys.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; `runs/NAME` unless given.", show_default=False)] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Instead of the study's own.", show_default=False)
    ] = None,
    until: Annotated[Part, typer.Option(help="Stop after this part.")] = LAST,
) -> None:
    """Play a whole study on this machine: every hospital, the coordinator and the central trainer as processes of it.

    `preceptor simulate studies/prostate.toml` writes the hospitals' phantoms, trains their teachers, collects their
    answers, distils the students, evaluates them at the hospitals and writes `runs/prostate/report.html`.

    `preceptor simulate studies/prostate.toml --seed 1` does so with other draws, in `runs/prostate-seed-1`.

    Ctrl-C stops everything; the same command goes on from there.
    """
    from rich.console import Console

    from imaging.phantom import PROFILES
    from server.simulation import simulate
    from study.plan import check_rooms, read_study
    from study.run import STUDY

    plan = read_study(study)
    if seed is not None:
        plan = plan.model_copy(update={"seed": seed})
    check_rooms(plan, schemes=context.obj["schemes"], phantoms=PROFILES)
    folder = (out or Path("runs") / (plan.name if seed is None else f"{plan.name}-seed-{seed}")).resolve()
    console, started = Console(soft_wrap=True), time.monotonic()
    with stoppable(console):
        if not (folder / STUDY).exists():
            with console.status("building the study's networks once"):
                check_networks(study)
        simulate(plan, folder, console, until=until.value)
    console.print(f"Done in {duration(time.monotonic() - started)}.")
    if until is LAST:
        console.print(f"The report: [bold]{folder / 'report.html'}[/]", highlight=False)


@contextmanager
def stoppable(console: Console) -> Iterator[None]:
    """Ctrl-C and a polite request to end say how to go on, and end with exit code 130."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        console.print("\nStopped, with every process that was started. Run the same command again to go on.")
        raise typer.Exit(130) from None


def check_networks(study: Path) -> None:
    """Exit in its words unless `preceptor study` finds the file sound, down to the networks."""
    by_itself("study", str(study))


def by_itself(*words: str) -> str:
    """What one of our commands prints. A process of its own, as torch would stay in our memory; we fail as it does."""
    done = subprocess.run([sys.executable, "-m", "preceptor", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        typer.echo(done.stderr.strip(), err=True)
        raise typer.Exit(done.returncode)
    return done.stdout


def _interrupt(number: int, frame: object) -> NoReturn:
    """A polite request to end is Ctrl-C to us."""
    raise KeyboardInterrupt
