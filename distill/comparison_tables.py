"""A comparison as Markdown, JSON and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill import report_figures as figures
from distill.comparison import Difference, Trainings, differences, ranks
from distill.report_tables import SHOWN, of_how_many
from imaging.atomic import write_text
from study.plan import PhantomSource
from study.run import read_study_of


def markdown(trainings: Trainings, reference: str) -> str:
    """Three tables: figures over runs, differences to `reference`, ranks."""
    found, standing = differences(trainings, reference), ranks(trainings)
    parts = [_head(trainings), _figures(trainings), _differences(found, reference), _ranks(standing)]
    return "\n\n".join(parts)


def as_json(trainings: Trainings, reference: str) -> dict[str, Any]:
    """The same for programs."""
    return {
        "runs": [str(run) for run in trainings.runs],
        "figures": {
            label: {metric: trainings.figures(label, metric).tolist() for metric in SHOWN} for label in trainings.labels
        },
        "differences": [{**vars(one), "verdict": one.verdict} for one in differences(trainings, reference)],
        "ranks": ranks(trainings),
    }


def write(trainings: Trainings, reference: str, folder: Path) -> Path:
    """`comparison.md`, `.json` and `.svg` in `folder`; the first is given back."""
    write_text(folder / "comparison.json", json.dumps(as_json(trainings, reference), indent=1) + "\n")
    rows = [(one.label, one.mean, one.low, one.high) for one in differences(trainings, reference)]
    picture = figures.intervals(rows, xlabel=f"Dice gained over {reference}", title="Paired by patient, 95 %")
    write_text(folder / "comparison.svg", picture.replace("currentColor", "#555"))
    write_text(folder / "comparison.md", markdown(trainings, reference) + "\n")
    return folder / "comparison.md"


def _head(trainings: Trainings) -> str:
    study = read_study_of(trainings.runs[0])
    made_up = any(isinstance(site.source, PhantomSource) for site in study.sites)
    patients = len(trainings.strata())
    return (
        f"**{study.name}**{', phantoms (synthetic scans)' if made_up else ''}: {len(trainings.runs)} runs, "
        f"{patients} evaluations at {len(study.sites)} sites in all (a real patient can come in several runs), "
        f"student {study.student.model}."
    )


def _figures(trainings: Trainings) -> str:
    lines = ["| training | Dice | HD95 mm | VOE |", "|---|---|---|---|"]
    for label in trainings.labels:
        dice, hd95, voe = (trainings.figures(label, metric) for metric in SHOWN)
        count = of_how_many([cases for by_site in trainings.cases[label] for cases in by_site.values()])
        lines.append(f"| {label} | {_spread(dice, 3)} | {_spread(hd95, 1)}{count} | {_spread(voe, 3)} |")
    return "\n".join(lines) + "\n\nMean over sites, ± standard deviation over runs."


def _differences(found: Sequence[Difference], reference: str) -> str:
    lines = [f"| training | Dice gained over `{reference}` | 95 % interval | p (Holm) | |", "|---|---|---|---|---|"]
    for one in found:
        lines.append(
            f"| {one.label} | {one.mean:+.3f} | {one.low:+.3f} to {one.high:+.3f} | {_p(one.p_holm)} | {one.verdict} |"
        )
    return "\n".join(lines) + "\n\n" + EXPLAINED


EXPLAINED = (
    "Paired by patient. The interval is of the mean over runs (Student's t; of a single run over patients, and then "
    "about these two students alone); p is Wilcoxon's over patients. `better` and `worse` need both."
)


def _ranks(standing: dict[str, dict[str, float]]) -> str:
    lines = ["| training | rank | 95 % of draws | first in |", "|---|---|---|---|"]
    for label, one in sorted(standing.items(), key=lambda item: item[1]["rank"]):
        lines.append(f"| {label} | {one['rank']:g} | {one['lowest']:g} to {one['highest']:g} | {one['first']:.0%} |")
    return "\n".join(lines) + "\n\nRanks by mean Dice; draws are of patients, with replacement."


def _spread(values: Any, digits: int) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "–"
    spread = f" ± {known.std(ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{known.mean():.{digits}f}{spread}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
