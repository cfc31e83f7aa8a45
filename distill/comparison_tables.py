"""A comparison as Markdown, JSON and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill import report_figures as figures
from distill.comparison import EVALUATE, ByRun, Difference, Trainings, differences, ranks, run_figures
from distill.records import phantoms_of, rescanned_of
from distill.report_tables import SHOWN, of_how_many
from imaging.atomic import write_text
from study.run import MIXTURE, read_study_of
from study.spread import mean_sd


def markdown(trainings: Trainings, reference: str) -> str:
    """Figures over runs, differences to `reference` and ranks, network by network where students have several."""
    groups = trainings.by_network(reference)
    parts = [_head(trainings), _by_network(trainings)]
    for number, (alike, own) in enumerate(groups):
        parts += [f"### {trainings.networks[own]}"] if len(groups) > 1 else []
        parts += [
            _figures(alike, teachers=not number),
            _differences(differences(alike, own), own),
            _ranks(ranks(alike)),
        ]
    return "\n\n".join(part for part in parts if part)


def as_json(trainings: Trainings, reference: str) -> dict[str, Any]:
    """The same for programs."""
    groups = trainings.by_network(reference)
    return {
        "runs": [str(run) for run in trainings.runs],
        "networks": trainings.networks,
        "figures": {label: _numbers(trainings.cases[label]) for label in trainings.labels},
        "teachers": {name: _numbers(runs) for name, runs in trainings.teachers.items()},
        "missing": trainings.missing,
        "differences": [
            {**vars(one), "verdict": one.verdict} for alike, own in groups for one in differences(alike, own)
        ],
        "ranks": {label: rank for alike, _ in groups for label, rank in ranks(alike).items()},
    }


def _numbers(runs: ByRun) -> dict[str, list[float | None]]:
    """By metric a figure a run; null where it is not defined, for JSON has no NaN."""
    return {
        metric: [figure if np.isfinite(figure) else None for figure in run_figures(runs, metric).tolist()]
        for metric in SHOWN
    }


def write(trainings: Trainings, reference: str, folder: Path) -> Path:
    """`comparison.md`, `.json` and `.svg` in `folder`; the first is given back."""
    content = json.dumps(as_json(trainings, reference), indent=1, allow_nan=False)
    write_text(folder / "comparison.json", content + "\n")
    found = [one for alike, own in trainings.by_network(reference) for one in differences(alike, own)]
    rows = [(one.label, one.mean, *(one.over_runs or one.over_patients or (one.mean, one.mean))) for one in found]
    over = "runs" if len(trainings.runs) > 1 else "patients"
    picture = figures.intervals(
        rows, xlabel=f"Dice gained over {reference}", title=f"Mean and 95 % interval over {over}"
    )
    write_text(folder / "comparison.svg", picture.replace("currentColor", "#555"))
    write_text(folder / "comparison.md", markdown(trainings, reference) + "\n")
    return folder / "comparison.md"


def _head(trainings: Trainings) -> str:
    study = read_study_of(trainings.runs[0])
    made_up = ", phantoms (synthetic scans)" if phantoms_of(study) else ""
    made_up += ", real scans with simulated scanners" if rescanned_of(study) else ""
    missing, runs = ", ".join(trainings.missing), len(trainings.runs)
    absent = f" Not trained or not evaluated in every run, and so left out: {missing}; {EVALUATE}." if missing else ""
    return (
        f"**{study.name}**{made_up}: {runs} run{'s' * (runs > 1)}, "
        f"{len(trainings.strata())} evaluations at {len(study.sites)} sites in all (a real patient can come in several "
        f"runs), student {' and '.join(dict.fromkeys(trainings.networks.values()))}.{absent}"
    )


def _figures(trainings: Trainings, *, teachers: bool) -> str:
    """A line a student; above them what they are measured against, the teachers at everybody's patients."""
    mark = trainings.teachers.get(MIXTURE)
    lines = [
        f"| training | Dice |{' to all teachers |' if mark else ''} HD95 mm | VOE |",
        "|---" * (4 + bool(mark)) + "|",
    ]
    rows = [(_teacher(name), runs) for name, runs in trainings.teachers.items() if teachers]
    for name, runs in [*rows, *((label, trainings.cases[label]) for label in trainings.labels)]:
        dice, hd95, voe = (run_figures(runs, metric) for metric in SHOWN)
        count = of_how_many([cases for by_site in runs for cases in by_site.values()])
        far = f" {np.mean(dice - run_figures(mark, 'dice')):+.3f} |" if mark else ""
        lines.append(f"| {name} | {mean_sd(dice, 3)} |{far} {mean_sd(hd95, 1)}{count} | {mean_sd(voe, 3)} |")
    told = "`To all teachers`: the distance to the mean of their probabilities. " if mark else ""
    return "\n".join(lines) + f"\n\nMean over sites, ± standard deviation over runs. {told}".rstrip()


def _teacher(name: str) -> str:
    return f"*{name}, mean of their probabilities*" if name == MIXTURE else f"*teacher of {name}*"


def _by_network(trainings: Trainings) -> str:
    """AMTKD's Tables 3 and 4: a line a training, a column a network, Dice / VOE.

    Trainings of one network alone stand in the next table, but for students of one teacher each, who stand beside it.
    """
    networks, rows = list(dict.fromkeys(trainings.networks.values())), dict[str, dict[str, str]]()
    for label, network in trainings.networks.items():
        rows.setdefault(label.removesuffix(f"-{network}"), {})[network] = label
    taught = {f"only-{site}" for site in trainings.teachers}
    shared = {name: labels for name, labels in rows.items() if len(labels) > 1 or name in taught}
    if not shared:
        return ""
    lines = [f"| training | teacher itself | {' | '.join(networks)} |", "|---|---|" + "---|" * len(networks)]
    for name, labels in shared.items():
        students = [trainings.cases.get(labels.get(network, "")) for network in networks]
        cells = [trainings.teachers.get(name.removeprefix("only-")), *students]
        lines.append(f"| {name} | {' | '.join(_dice_voe(runs) if runs else '' for runs in cells)} |")
    return (
        "\n".join(lines) + "\n\nDice / VOE by the student's network, mean over sites, ± standard deviation over runs."
    )


def _dice_voe(runs: ByRun) -> str:
    return f"{mean_sd(run_figures(runs, 'dice'), 3)} / {mean_sd(run_figures(runs, 'voe'), 3)}"


def _differences(found: Sequence[Difference], reference: str) -> str:
    title = f"| training | Dice gained over `{reference}` | 95 % over runs | 95 % over patients | p (Holm) | |"
    lines = [title, "|---|---|---|---|---|---|"]
    for one in found:
        intervals = f"{_interval(one.over_runs)} | {_interval(one.over_patients)}"
        lines.append(f"| {one.label} | {one.mean:+.3f} | {intervals} | {_p(one.p_holm)} | {one.verdict} |")
    return "\n".join(lines) + "\n\n" + EXPLAINED


EXPLAINED = (
    "Paired by patient. Over runs by Student's t; over patients by bootstrap, and p by Wilcoxon: these two are about "
    "these very students, whose trainings vary too, and count a patient of several runs as several, so that p is too "
    "small there. `better` and `worse` need both intervals, where they are, and p."
)


def _ranks(standing: dict[str, dict[str, float]]) -> str:
    lines = ["| training | rank | 95 % of draws | first in |", "|---|---|---|---|"]
    for label, one in sorted(standing.items(), key=lambda item: item[1]["rank"]):
        drawn = f"{one['lowest']:g} to {one['highest']:g} | {one['first']:.0%}" if "first" in one else "– | –"
        lines.append(f"| {label} | {one['rank']:g} | {drawn} |")
    return "\n".join(lines) + "\n\nRanks by mean Dice; draws are of runs and of each one's patients, with replacement."


def _interval(ends: tuple[float, float] | None) -> str:
    return f"{ends[0]:+.3f} to {ends[1]:+.3f}" if ends else "–"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
