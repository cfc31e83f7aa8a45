"""Curves of a training in TensorBoard or MLflow, beside our own events; `pip install preceptor[tracking]` has both."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imaging.errors import InputError

if TYPE_CHECKING:
    from study.training import Progress

log = logging.getLogger("distill")
Follow = Callable[["Progress"], None]
Write = Callable[[dict[str, float], int], None]
"""Values by name, step."""


class Tracker(StrEnum):
    """Where curves can go."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"


@contextmanager
def tracked(tracker: Tracker | None, folder: Path, label: str, settings: dict[str, Any]) -> Iterator[Follow]:
    """What to call after every step of one training, until exit; nothing happens without a tracker.

    TensorBoard's files go into `folder`/tensorboard/`label`; MLflow takes its server from MLFLOW_TRACKING_URI, and
    `folder`'s name for its experiment. A training that is taken up again is another run there. Only its beginning may
    fail: what a tracker does later ends no training.
    Raises: InputError when the tracker is not installed.
    """
    if tracker is None:
        yield lambda done: None
        return
    if find_spec(tracker) is None:
        fix = "run `pip install 'preceptor[tracking]'`, or leave out `--track`"
        raise InputError(f"{tracker} is not installed", fix=fix)
    opened = (_tensorboard if tracker is Tracker.tensorboard else _mlflow)(folder, label, settings)
    write = opened.__enter__()
    try:
        yield _forgiving(write)
    finally:
        try:  # it is told how the training ended; what it makes of that must not take that end's place
            opened.__exit__(*sys.exc_info())
        except Exception as error:  # whatever another's library raises
            log.warning("the tracker could not be closed, and may lack the end of the curves (%s)", error)


def _forgiving(write: Write) -> Follow:
    """Tells of every step until that fails, such as by a server that is gone: the training goes on without."""
    gone = False

    def follow(done: Progress) -> None:
        nonlocal gone
        if gone:
            return
        try:
            _tell(done, write)
        except Exception as error:  # whatever another's library raises
            gone = True
            log.warning("the tracker failed, and is told no more of this training (%s)", error)

    return follow


def _tell(done: Progress, write: Write) -> None:
    values = {f"loss/{name}": value for name, value in done.terms.items()}
    if done.validation is not None and done.validation.dice is not None:
        values["validation/dice"] = done.validation.dice
    write(values, done.step)


@contextmanager
def _tensorboard(folder: Path, label: str, settings: dict[str, Any]) -> Iterator[Write]:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

    with SummaryWriter(str(folder / "tensorboard" / label)) as writer:
        writer.add_text("settings", str(settings))

        def write(values: dict[str, float], step: int) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        yield write


@contextmanager
def _mlflow(folder: Path, label: str, settings: dict[str, Any]) -> Iterator[Write]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a hospital's machine tells its maker nothing unasked
    import mlflow  # noqa: PLC0415

    mlflow.set_experiment(folder.resolve().name)
    with mlflow.start_run(run_name=label):
        mlflow.log_params(settings)

        def write(values: dict[str, float], step: int) -> None:
            mlflow.log_metrics(values, step=step)  # one request a step

        yield write
