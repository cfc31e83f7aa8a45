"""The ServerApp: one Flower run is one phase of a study, which can be run again at any time and goes on from there."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from imaging.errors import InputError
from server.averaging import Averaging
from server.collect import Collection
from server.evaluate import Evaluation
from server.exchange import Exchange
from server.line import FlowerLine, Line
from server.roster import Roster
from server.traffic import Traffic
from server.train import Training
from study.plan import Study
from study.run import Run

PHASES: dict[str, Callable[[Study, Run, int], Training | Collection | Averaging | Evaluation]] = {
    Training.name: Training,
    Collection.name: Collection,
    Averaging.name: lambda study, run, _: Averaging(study, run),
    Evaluation.name: lambda study, run, _: Evaluation(study, run),
}

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the phase that the run config names, for the run directory that it names."""
    folder, phase = Path(str(context.run_config["run"])), str(context.run_config["phase"])
    run = Run(folder)
    study, number = run.study, int(context.run_config["round"])
    conduct(phase, study, run, FlowerLine(grid, ttl_s=2 * study.federation.patience_s), number)


def conduct(name: str, study: Study, run: Run, line: Line, number: int = -1) -> None:
    """One phase to its end; how it ended stands in the run's events too, for whoever started it and waits.

    `number` is the round that the teachers train for or are asked in, from 0; it must be told where there are several.

    Raises: InputError when too few sites are left or have what the phase needs.
    """
    started = time.monotonic()
    run.event("phase-started", phase=name)
    fault: dict[str, str | None] | None = None
    try:
        _conduct(name, study, run, line, round_of(study, number))
    except InputError as error:
        fault = {"cause": error.what, "where": str(error.where or "") or None, "remedy": error.fix}
        raise
    except Exception as error:
        fault = {"cause": f"unforeseen: {type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        raise
    except BaseException:  # SystemExit and its like: whoever waits must not take the phase for done
        fault = {"cause": f"phase {name} was stopped", "remedy": "run the same command again to go on"}
        raise
    finally:
        run.event("phase-ended", phase=name, seconds=round(time.monotonic() - started, 2), fault=fault)


def _conduct(name: str, study: Study, run: Run, line: Line, number: int) -> None:
    if name not in PHASES:
        raise InputError(f"no phase is called `{name}`", where="run config", fix=f"choose one of {', '.join(PHASES)}")
    phase, plan = PHASES[name](study, run, number), study.federation
    roster = Roster(run, name, phase.sites, number=number, min_sites=plan.min_sites, settled=phase.settled)
    roster.gather(line, patience_s=plan.patience_s)
    traffic = Traffic(run.folder / "traffic.json")
    for part in phase.rounds() if isinstance(phase, Averaging) else (phase,):
        Exchange(part, roster, line, traffic, plan).complete()


def round_of(study: Study, number: int) -> int:
    """The round that is meant by `number`; InputError where the study has none such, or none was told of several."""
    rounds = study.answers.rounds
    if number == -1 and rounds == 1:
        return 0
    if not 0 <= number < rounds:
        fix = f"add `round=0` to `round={rounds - 1}` to the run config, one after the other"
        raise InputError(f"the study asks in {rounds} rounds, and round {number} is none of them", fix=fix)
    return number
