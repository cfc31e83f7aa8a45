"""Tables of docs/results.md from finished run folders, one a seed: mean test Dice over sites, its spread, paired gains.

    python benchmarks/results.py runs/cardiac-seed-0 runs/cardiac-seed-1 runs/cardiac-seed-2 [--split val] [--json]

A run's figure is the mean over sites of the site's mean over test cases and foreground classes. ± is the standard
deviation over seeds; a gain is paired by seed, with the lowest and highest seed beside it. A training counts that every
site of every run has evaluated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from distill.report import evaluations
from distill.report_tables import SHOWN, mean_over_sites, of_how_many
from study.run import read_study_of
from study.wire import Card, CaseMetrics

Figures = dict[str, dict[str, list[float]]]
"""Scheme → metric → one figure a seed."""


def everywhere(runs: list[Path], split: str) -> dict[str, list[list[list[CaseMetrics]]]]:
    """Scheme → run → site → cases, of the schemes that every site of every run has evaluated."""
    replies = [evaluations(run) for run in runs]
    sites = {site.name for run in runs for site in read_study_of(run).sites}
    whole = [{scheme for scheme, by_site in found.items() if set(by_site) == sites} for found in replies]
    shared = sorted(set.intersection(*whole))
    return {
        scheme: [[getattr(found[scheme][site], split) for site in sorted(sites)] for found in replies]
        for scheme in shared
    }


def figures(runs: list[Path], split: str) -> Figures:
    """Mean over sites of every scheme in every run."""
    return {
        scheme: {metric: [mean_over_sites(sites, metric) for sites in by_run] for metric in SHOWN}
        for scheme, by_run in everywhere(runs, split).items()
    }


def distances(runs: list[Path], split: str) -> dict[str, str]:
    """Scheme → ` (n of m)` where only n of m structures were found, and so have a distance."""
    return {
        scheme: of_how_many([cases for sites in by_run for cases in sites])
        for scheme, by_run in everywhere(runs, split).items()
    }


def teachers(runs: list[Path]) -> list[float]:
    """The validation Dice of the teachers' kept weights at home, averaged over sites; one figure a seed."""
    cards = [[Card.model_validate_json(p.read_text()) for p in (run / "teachers").glob("*.json")] for run in runs]
    return [float(np.mean([card.dice for card in found])) for found in cards if found]


def table(runs: list[Path], split: str) -> str:
    """The figures as Markdown, the shipped scheme last."""
    found, study = figures(runs, split), read_study_of(runs[0])
    lines = ["| training | Dice | gain over supervised | HD95 mm | VOE |", "|---|---|---|---|---|"]
    counts = distances(runs, split)
    order = [s for s in (*study.distill.compare, study.distill.scheme) if s in found]
    for scheme in order + sorted(set(found) - set(order)):
        dice, base = np.array(found[scheme]["dice"]), np.array(found.get("supervised", found[scheme])["dice"])
        gain = dice - base
        spread = "" if scheme == "supervised" else f"{gain.mean():+.3f} ({gain.min():+.3f} to {gain.max():+.3f})"
        hd95, voe = (np.array(found[scheme][metric]) for metric in ("hd95", "voe"))
        lines.append(
            f"| {scheme} | {dice.mean():.3f} ± {dice.std():.3f} | {spread} "
            f"| {hd95.mean():.1f} ± {hd95.std():.1f}{counts[scheme]} | {voe.mean():.3f} ± {voe.std():.3f} |"
        )
    home = teachers(runs)
    lines.append(f"\n{len(runs)} seeds; teachers at home, validation Dice: {np.mean(home):.3f} ± {np.std(home):.3f}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = figures(arguments.runs, arguments.split)
    print(json.dumps(found) if arguments.json else table(arguments.runs, arguments.split))


if __name__ == "__main__":
    main()
