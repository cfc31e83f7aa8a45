"""The ServerApp: one Flower run is one phase of a study, which can be run again at any time and goes on from there."""

from __future__ import annotations

import time
import traceback
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

PHASES = {phase.name: phase for phase in (Training, Collection, Averaging, Evaluation)}

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the phase that the run config names, for the run directory that it names."""
    folder, phase = Path(str(context.run_config["run"])), str(context.run_config["phase"])
    run = Run(folder)
    study = run.study
    conduct(phase, study, run, FlowerLine(grid, ttl_s=2 * study.federation.patience_s))


def conduct(name: str, study: Study, run: Run, line: Line) -> None:
    """One phase to its end; how it ended stands in the run's events too, for whoever started it and waits.

    Raises: InputError when too few sites are left or have what the phase needs.
    """
    started = time.monotonic()
    run.event("phase-started", phase=name)
    fault: dict[str, str | None] | None = None
    try:
        _conduct(name, study, run, line)
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


def _conduct(name: str, study: Study, run: Run, line: Line) -> None:
    if name not in PHASES:
        raise InputError(f"no phase is called `{name}`", where="run config", fix=f"choose one of {', '.join(PHASES)}")
    phase, plan = PHASES[name](study, run), study.federation
    roster = Roster(run, name, phase.sites, min_sites=plan.min_sites, settled=phase.settled)
    roster.gather(line, patience_s=plan.patience_s)
    traffic = Traffic(run.folder / "traffic.json")
    for part in phase.rounds() if isinstance(phase, Averaging) else (phase,):
        Exchange(part, roster, line, traffic, plan).complete()
