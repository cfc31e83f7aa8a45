"""A comparison as Markdown, JSON and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill import report_figures as figures
from distill.comparison import ByRun, Difference, Trainings, differences, over_runs, ranks
from distill.report_tables import SHOWN, of_how_many
from imaging.atomic import write_text
from study.plan import PhantomSource
from study.run import MIXTURE, read_study_of


def markdown(trainings: Trainings, reference: str) -> str:
    """Figures over runs, differences to `reference` and ranks; by network too, where students have several."""
    alike = trainings.like(reference)
    found, standing = differences(alike, reference), ranks(alike)
    parts = [_head(trainings, reference), _figures(alike), _by_network(trainings), _differences(found, reference)]
    return "\n\n".join(part for part in [*parts, _ranks(standing)] if part)


def as_json(trainings: Trainings, reference: str) -> dict[str, Any]:
    """The same for programs."""
    alike = trainings.like(reference)
    return {
        "runs": [str(run) for run in trainings.runs],
        "networks": trainings.networks,
        "figures": {label: _numbers(trainings.cases[label]) for label in trainings.labels},
        "teachers": {name: _numbers(runs) for name, runs in trainings.teachers.items()},
        "differences": [{**vars(one), "verdict": one.verdict} for one in differences(alike, reference)],
        "ranks": ranks(alike),
    }


def _numbers(runs: ByRun) -> dict[str, list[float]]:
    return {metric: over_runs(runs, metric).tolist() for metric in SHOWN}


def write(trainings: Trainings, reference: str, folder: Path) -> Path:
    """`comparison.md`, `.json` and `.svg` in `folder`; the first is given back."""
    write_text(folder / "comparison.json", json.dumps(as_json(trainings, reference), indent=1) + "\n")
    rows = [(one.label, one.mean, one.low, one.high) for one in differences(trainings.like(reference), reference)]
    picture = figures.intervals(rows, xlabel=f"Dice gained over {reference}", title="Paired by patient, 95 %")
    write_text(folder / "comparison.svg", picture.replace("currentColor", "#555"))
    write_text(folder / "comparison.md", markdown(trainings, reference) + "\n")
    return folder / "comparison.md"


def _head(trainings: Trainings, reference: str) -> str:
    study = read_study_of(trainings.runs[0])
    made_up = any(isinstance(site.source, PhantomSource) for site in study.sites)
    patients = len(trainings.strata())
    return (
        f"**{study.name}**{', phantoms (synthetic scans)' if made_up else ''}: {len(trainings.runs)} runs, "
        f"{patients} evaluations at {len(study.sites)} sites in all (a real patient can come in several runs), "
        f"student {trainings.networks[reference]}."
    )


def _figures(trainings: Trainings) -> str:
    """A line a student; above them what they are measured against, the teachers at everybody's patients."""
    lines = ["| training | Dice | HD95 mm | VOE |", "|---|---|---|---|"]
    rows = [(_teacher(name), runs) for name, runs in trainings.teachers.items()]
    for name, runs in [*rows, *((label, trainings.cases[label]) for label in trainings.labels)]:
        dice, hd95, voe = (over_runs(runs, metric) for metric in SHOWN)
        count = of_how_many([cases for by_site in runs for cases in by_site.values()])
        lines.append(f"| {name} | {_spread(dice, 3)} | {_spread(hd95, 1)}{count} | {_spread(voe, 3)} |")
    return "\n".join(lines) + "\n\nMean over sites, ± standard deviation over runs."


def _teacher(name: str) -> str:
    return f"*{name}, mean of their probabilities*" if name == MIXTURE else f"*teacher of {name}*"


def _by_network(trainings: Trainings) -> str:
    """AMTKD's Tables 3 and 4: a line a training, a column a network, Dice / VOE; empty where there is one network."""
    networks, rows = list(dict.fromkeys(trainings.networks.values())), dict[str, dict[str, str]]()
    for label, network in trainings.networks.items():
        rows.setdefault(label.removesuffix(f"-{network}"), {})[network] = label
    shared = {name: labels for name, labels in rows.items() if len(labels) > 1}
    if not shared:
        return ""
    lines = [f"| training | teacher itself | {' | '.join(networks)} |", "|---|---|" + "---|" * len(networks)]
    for name, labels in shared.items():
        students = [trainings.cases.get(labels.get(network, "")) for network in networks]
        cells = [trainings.teachers.get(name.removeprefix("only-")), *students]
        lines.append(f"| {name} | {' | '.join(_dice_voe(runs) if runs else '' for runs in cells)} |")
    return "\n".join(lines) + "\n\nDice / VOE by the student's network, mean over sites and runs."


def _dice_voe(runs: ByRun) -> str:
    return f"{over_runs(runs, 'dice').mean():.3f} / {over_runs(runs, 'voe').mean():.3f}"


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
