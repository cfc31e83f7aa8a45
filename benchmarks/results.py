"""Tables of docs/results.md from finished run folders, one a seed: mean test Dice over sites, its spread, paired gains.

    python benchmarks/results.py runs/cardiac-seed-0 runs/cardiac-seed-1 runs/cardiac-seed-2 [--split val]

A run's figure is the mean over sites of the site's mean over test cases and foreground classes. ± is the standard
deviation over seeds; a gain is paired by seed, with the lowest and highest seed beside it. A training counts that every
site of every run has evaluated. `preceptor tables` says more of the same runs: intervals, tests and ranks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill.comparison import Trainings
from distill.report import crossed
from distill.report_tables import SHOWN, mean_over_sites, of_how_many
from study.run import read_study_of
from study.wire import Card


def teachers(runs: Sequence[Path]) -> list[float]:
    """The validation Dice of the teachers' kept weights at home, averaged over sites; one figure a seed."""
    cards = [[Card.model_validate_json(p.read_text()) for p in (run / "teachers").glob("*.json")] for run in runs]
    return [float(np.mean([card.dice for card in found])) for found in cards if found]


def alone(runs: Sequence[Path]) -> list[float]:
    """The test Dice of students trained at one site alone, averaged over sites and students; one figure a seed."""
    found = [[by_site for name, by_site in crossed(run).items() if name.startswith("local-")] for run in runs]
    return [float(np.mean([mean_over_sites(list(one.values()), "dice") for one in own])) for own in found if own]


def table(trainings: Trainings) -> str:
    """The figures as Markdown, the shipped scheme last."""
    lines = ["| training | Dice | gain over supervised | HD95 mm | VOE |", "|---|---|---|---|---|"]
    ships = read_study_of(trainings.runs[0]).distill.scheme
    base = trainings.figures("supervised", "dice") if "supervised" in trainings.labels else None
    for label in sorted(trainings.labels, key=lambda label: label == ships):
        dice, hd95, voe = (trainings.figures(label, metric) for metric in SHOWN)
        gain = dice - base if base is not None and label != "supervised" else None
        spread = "" if gain is None else f"{gain.mean():+.3f} ({gain.min():+.3f} to {gain.max():+.3f})"
        count = of_how_many([cases for by_site in trainings.cases[label] for cases in by_site.values()])
        lines.append(
            f"| {label} | {dice.mean():.3f} ± {dice.std():.3f} | {spread} "
            f"| {hd95.mean():.1f} ± {hd95.std():.1f}{count} | {voe.mean():.3f} ± {voe.std():.3f} |"
        )
    home = teachers(trainings.runs)
    lines.append(f"\n{len(home)} seeds; teachers at home, validation Dice: {np.mean(home):.3f} ± {np.std(home):.3f}.")
    if local := alone(trainings.runs):
        lines.append(f"Students of one site alone, {len(local)} seeds: {np.mean(local):.3f} ± {np.std(local):.3f}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--split", default="test", choices=["val", "test"])
    arguments = parser.parse_args()
    print(table(Trainings.read(arguments.runs, arguments.split)))


if __name__ == "__main__":
    main()
