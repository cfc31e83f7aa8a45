"""Means and spreads of per-case metrics, as they stand in tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from study.spread import mean_sd
from study.wire import CaseMetrics, Metric

SHOWN: tuple[Metric, ...] = ("dice", "hd95", "voe")


@dataclass(frozen=True)
class Cell:
    """Dice, HD95 and VOE over some cases, as text; `shade` in [0, 0.5] grows with the Dice."""

    dice: str
    hd95: str
    voe: str
    shade: float


def values(cases: Sequence[CaseMetrics], metric: Metric) -> list[float]:
    """One value a case, the mean over the classes where it is defined; a case without any is left out."""
    return [value for value in (case.mean(metric) for case in cases) if np.isfinite(value)]


def cell(cases: Sequence[CaseMetrics]) -> Cell:
    """Mean ± standard deviation over the cases of one site; dashes without cases."""
    if not cases:
        return Cell("–", "–", "–", 0.0)
    dice = values(cases, "dice")
    hd95 = _millimetres(mean_sd(values(cases, "hd95"), 1)) + of_how_many([cases])
    return Cell(mean_sd(dice, 3), hd95, mean_sd(values(cases, "voe"), 3), _shade(dice))


def pooled(sites: Sequence[Sequence[CaseMetrics]]) -> Cell:
    """The mean over sites of each site's mean: every hospital counts alike, however many cases it has."""
    if not sites:
        return Cell("–", "–", "–", 0.0)
    means = {metric: mean_over_sites(sites, metric) for metric in SHOWN}
    text = {m: f"{mean:.{1 if m == 'hd95' else 3}f}" if np.isfinite(mean) else "–" for m, mean in means.items()}
    hd95 = _millimetres(text["hd95"]) + of_how_many(sites)
    return Cell(text["dice"], hd95, text["voe"], _shade([means["dice"]] if np.isfinite(means["dice"]) else []))


def mean_over_sites(sites: Sequence[Sequence[CaseMetrics]], metric: Metric) -> float:
    """The mean over sites of each site's mean over its cases; NaN where no site has a case with that metric."""
    means = [float(np.mean(found)) for cases in sites if (found := values(cases, metric))]
    return float(np.mean(means)) if means else float("nan")


def of_how_many(sites: Sequence[Sequence[CaseMetrics]]) -> str:
    """` (n of m)` where only n of m structures have a distance, else nothing.

    A structure that was not found has none: without this count, a network that misses the hard cases looks exact.
    """
    distances = [value for cases in sites for case in cases for value in case.metrics["hd95"].values()]
    there = sum(value is not None for value in distances)
    return "" if there == len(distances) else f" ({there} of {len(distances)})"


def class_means(sites: Iterable[Sequence[CaseMetrics]], classes: Sequence[str]) -> list[str]:
    """Mean Dice of each class over sites, as text."""
    found = list(sites)
    return [_text([_class_dice(cases, name) for cases in found]) for name in classes]


def _class_dice(cases: Sequence[CaseMetrics], name: str) -> float:
    dice = [case.metrics["dice"][name] for case in cases]
    defined = [d for d in dice if d is not None]
    return float(np.mean(defined)) if defined else float("nan")


def _text(means: Sequence[float]) -> str:
    defined = [m for m in means if np.isfinite(m)]
    return f"{np.mean(defined):.3f}" if defined else "–"


def _millimetres(distance: str) -> str:
    return distance if distance == "–" else f"{distance} mm"


def _shade(dice: Sequence[float]) -> float:
    return round(0.5 * float(np.mean(dice)), 3) if dice else 0.0
