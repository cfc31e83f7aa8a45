"""Students without teachers, trained where the masks are: how one is asked for, and how it is put away."""

from __future__ import annotations

from pathlib import Path

from safetensors.numpy import save

from imaging.atomic import write_bytes
from study.averaging_table import LOCAL
from study.cohorts import assignment
from study.envelope import Arrays, Header, digest
from study.plan import Study
from study.schedule import cyclic_lr
from study.student import WEIGHTS, Check, StudentCard, write_card
from study.wire import AverageRequest

START = Path("averaging") / "start.safetensors"
"""In a run folder: the weights that a student begins with, written by `study.start`."""


class Start(Header):
    """Beside those weights: which of them are learned; the rest are batch norm's statistics and counts."""

    learned: list[str]
    parameters: int


def request(study: Study, site: str, label: str, first: int, until: int) -> AverageRequest:
    """What a site is asked so that it trains that student from step `first` to step `until`."""
    plan = study.distill
    return AverageRequest(
        assignment=assignment(study, site),
        label=label,
        model=study.student.model,
        options=study.student.options,
        first=first,
        until=until,
        steps=study.averaging_steps,
        keep=label == LOCAL,
        batch=plan.batch,
        lr=plan.lr,
        lr_min=plan.lr_min,
        lr_half_cycle=plan.lr_half_cycle,
        loss=plan.amtkd,
        mu=study.averaging.mu if label == "fedprox" else 0.0,
    )


def lr_at(asked: AverageRequest, step: int) -> float:
    """The student's learning rate (AMTKD, section 4.3) at a step counted from 0 over all rounds."""
    return cyclic_lr(step, lr_min=asked.lr_min, lr_max=asked.lr, half_cycle=asked.lr_half_cycle)


def ship(
    study: Study,
    run_folder: Path,
    label: str,
    weights: Arrays,
    *,
    parameters: int,
    seconds: float,
    history: list[Check],
) -> StudentCard:
    """Put a finished student into `distill/<label>`, where evaluation, report and tables find it; the card last."""
    folder = run_folder / "distill" / label
    write_bytes(folder / WEIGHTS, save(weights))
    card = StudentCard.of(
        study,
        label=label,
        scheme=label,
        seed=study.seed,
        parameters=parameters,
        steps=study.averaging_steps,
        best_step=study.averaging_steps,
        val_dice=None,
        history=history,
        seconds=seconds,
        weights_hash=digest(weights),
        teachers=[],
    )
    write_card(folder, card)
    return card
