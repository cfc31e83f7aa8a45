"""How trainings compare over seeds: figures and spread, differences paired by patient, how firm a ranking is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, t, wilcoxon

from distill.records import crossed, distilled, evaluations
from distill.report_tables import mean_over_sites
from imaging.errors import InputError
from study.run import MIXTURE, read_study_of
from study.student import read_card
from study.wire import CaseMetrics, EvaluateReply, Metric

Split = Literal["val", "test"]
Values = NDArray[np.float64]
DRAWS = 10_000
"""Bootstrap draws."""
ALPHA = 0.05
EVALUATE = "`preceptor simulate STUDY --out RUN` has the sites evaluate what was trained in that run since"
NAMES = {"val": "validation", "test": "test"}


ByRun = Sequence[Mapping[str, Sequence[CaseMetrics]]]
"""Run -> site -> cases."""


def run_figures(cases: ByRun, metric: Metric) -> Values:
    """A figure a run: the mean over sites of each site's mean over its patients and foreground classes."""
    return np.array([mean_over_sites(list(by_site.values()), metric) for by_site in cases])


@dataclass(frozen=True)
class Trainings:
    """Students of the same labels from several runs (seeds) of one study, evaluated on the same patients of each."""

    runs: tuple[Path, ...]
    labels: tuple[str, ...]
    cases: Mapping[str, ByRun]
    """By label, in the same order of runs, sites and cases for every label."""
    teachers: Mapping[str, ByRun] = field(default_factory=dict)
    """The same of each teacher, and of all together, where a simulation has evaluated them at every site."""
    missing: tuple[str, ...] = ()
    """Students of the study, or of a run, that are left out: not every site of every run has evaluated them."""

    @classmethod
    def read(cls, runs: Sequence[Path], split: Split = "test", labels: Sequence[str] | None = None) -> Trainings:
        """Every student that all sites of all runs have evaluated, or these `labels`.

        Raises: InputError where one of them was not evaluated everywhere, or none was.
        """
        _check_runs(runs)
        found = [evaluations(run) for run in runs]
        sites = {site.name for run in runs for site in read_study_of(run).sites}
        whole = [{label for label, by_site in replies.items() if set(by_site) == sites} for replies in found]
        shared = set.intersection(*whole) if whole else set()
        if missing := [label for label in labels or () if label not in shared]:
            what = f"`{missing[0]}` was not evaluated at every site of every run"
            fix = f"{EVALUATE} (evaluated everywhere: {', '.join(sorted(shared)) or 'none'})"
            raise InputError(what, where=runs[0], fix=fix)
        if not shared:
            raise InputError("no student was evaluated at every site", where=runs[0], fix=EVALUATE)
        for replies in found:
            for site, reply in replies[next(iter(shared))].items():
                if not getattr(reply, split):
                    what = f"no {NAMES[split]} patient was evaluated at {site}"
                    raise InputError(what, where=runs[0], fix="compare the others' by `--split`")
        _check_patients(runs, found, shared)
        planned = read_study_of(runs[0]).distill.students
        chosen = tuple(labels or _in_order(shared, planned[1:]))
        cases = {
            label: [{site: getattr(replies[label][site], split) for site in sorted(sites)} for replies in found]
            for label in chosen
        }
        teachers = _teachers(runs, sites) if split == "test" else {}
        made = _in_order({label for run in runs for label in distilled(run)} | set(planned), planned)
        absent = () if labels else tuple(label for label in made if label not in shared)
        return cls(tuple(runs), chosen, cases, teachers, absent)

    @cached_property
    def networks(self) -> dict[str, str]:
        """Label -> the network of that student, in the labels' order."""
        study = read_study_of(self.runs[0])
        cards = {label: read_card(self.runs[0] / "distill" / label) for label in self.labels}
        return {label: card.model if card else study.student.model for label, card in cards.items()}

    def by_network(self, reference: str) -> list[tuple[Trainings, str]]:
        """The students of each network, for only they can be compared one with another, and their own `reference`.

        Its own network comes first; a network without such a student has its first one in the reference's place.
        """
        networks = dict.fromkeys([self.networks[reference], *self.networks.values()])
        found = []
        for network in networks:
            same = tuple(label for label in self.labels if self.networks[label] == network)
            own = [label for label in (reference, f"{reference}-{network}") if label in same]
            found.append((replace(self, labels=same), (own or same)[0]))
        return found

    def check(self, label: str) -> None:
        """InputError unless that student is there to compare with."""
        if label not in self.labels:
            fix = f"name one of {', '.join(self.labels)} by `--reference`"
            raise InputError(f"`{label}` was not evaluated at every site of every run", where=self.runs[0], fix=fix)

    def figures(self, label: str, metric: Metric) -> Values:
        """A figure a run: the mean over sites of each site's mean over its patients and foreground classes."""
        return run_figures(self.cases[label], metric)

    def patients(self, label: str) -> Values:
        """Dice of every patient of every run and site, mean over the foreground classes where it is defined."""
        runs = self.cases[label]
        return np.array([case.mean("dice") for by_site in runs for cases in by_site.values() for case in cases])

    def strata(self) -> NDArray[np.int64]:
        """Which run and site each of `patients` is of: every site counts alike, however many patients it has."""
        sizes = [len(cases) for by_site in self.cases[self.labels[0]] for cases in by_site.values()]
        return np.repeat(np.arange(len(sizes)), sizes)


@dataclass(frozen=True)
class Difference:
    """How much better one training is than another, in Dice, paired by patient."""

    label: str
    reference: str
    mean: float
    """Over runs and sites, each counting alike."""
    over_patients: tuple[float, float] | None
    """The 95 % interval of that mean by bootstrap over patients, paired: about these students, not their trainings.

    None where no site of a run has two patients.
    """
    over_runs: tuple[float, float] | None
    """The same by Student's t over runs, since the patients of a run share one pair of students; None of one run."""
    p: float
    """Wilcoxon's signed ranks over patients for these students, twice that of the mean's side; 1 where none differs."""
    p_holm: float
    """The same after Holm's correction for all differences of the table."""

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or that the data cannot tell them apart: every interval and the test must say so."""
        known = [ends for ends in (self.over_runs, self.over_patients) if ends]
        if self.p_holm >= ALPHA or not known or any(low <= 0 <= high for low, high in known):
            return "cannot be told apart"
        return "better" if self.mean > 0 else "worse"


def differences(trainings: Trainings, reference: str, *, seed: int = 0) -> list[Difference]:
    """Every training against `reference`."""
    base, strata, found = trainings.patients(reference), trainings.strata(), []
    runs = trainings.figures(reference, "dice")
    for label in trainings.labels:
        if label != reference:
            gain, by_run = trainings.patients(label) - base, trainings.figures(label, "dice") - runs
            known = gain[np.isfinite(gain)]
            side: Literal["greater", "less"] = "greater" if by_run.mean() > 0 else "less"
            p = min(1.0, 2 * float(wilcoxon(known, alternative=side).pvalue)) if np.any(known) else 1.0
            intervals = _over_patients(gain, strata, seed), _over_runs(by_run) if len(by_run) > 1 else None
            found.append(Difference(label, reference, float(by_run.mean()), *intervals, p, p))
    return [replace(one, p_holm=p) for one, p in zip(found, holm([one.p for one in found]), strict=True)]


def _over_runs(gains: Values) -> tuple[float, float]:
    """The 95 % interval of a mean over runs, by Student's t."""
    half = float(t.ppf(1 - ALPHA / 2, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains)))
    return float(gains.mean()) - half, float(gains.mean()) + half


def _over_patients(gain: Values, strata: NDArray[np.int64], seed: int) -> tuple[float, float] | None:
    if max(np.bincount(strata), default=0) < 2:
        return None
    low, high = np.quantile(resampled(gain, strata, seed=seed), [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def resampled(values: Values, strata: NDArray[np.int64], *, seed: int | list[int], draws: int = DRAWS) -> Values:
    """Bootstrap draws of the mean over strata of each stratum's mean, patients drawn with replacement within each.

    Draws of n patients vary by (n - 1) / n of what means of n patients do, two thirds with three patients a site: so
    they are stretched about the stratum's mean (Rao and Wu 1988, their rescaling with n of n drawn).
    """
    generator, parts = np.random.default_rng(seed), _by_stratum(values, strata)
    total = np.zeros(draws)
    for own in parts:
        n, mean = len(own), own.mean()
        drawn = own[generator.integers(n, size=(draws, n))].mean(axis=1)
        total += mean + (drawn - mean) * np.sqrt(n / max(1, n - 1))
    return total / max(1, len(parts))


def ranks(trainings: Trainings, *, seed: int = 0, draws: int = 2000) -> dict[str, dict[str, float]]:
    """Each training's rank by mean Dice, and in what share of bootstrap draws it is first.

    Drawn are runs, since another training may rank otherwise, and then the patients of each. All trainings are judged
    on the same draws. Ranks of equals are their mean. One run of one patient a site has its ranks alone: there is
    nothing to draw.
    """
    means = np.array([_drawn(trainings, label, seed=seed, draws=draws) for label in trainings.labels])
    order = rankdata(-means, axis=0)
    now = rankdata([-float(np.mean(trainings.figures(label, "dice"))) for label in trainings.labels])
    if len(trainings.runs) < 2 and max(np.bincount(trainings.strata()), default=0) < 2:
        return {label: {"rank": float(rank)} for label, rank in zip(trainings.labels, now, strict=True)}
    return {
        label: {
            "rank": float(now[n]),
            "lowest": float(np.quantile(order[n], ALPHA / 2, method="inverted_cdf")),
            "highest": float(np.quantile(order[n], 1 - ALPHA / 2, method="inverted_cdf")),
            "first": float(((order[n] == order.min(axis=0)) / (order == order.min(axis=0)).sum(axis=0)).mean()),
        }
        for n, label in enumerate(trainings.labels)
    }


def _drawn(trainings: Trainings, label: str, *, seed: int, draws: int) -> Values:
    """Means of a training in bootstrap draws of its runs and, within each, of patients."""
    values, strata, runs = trainings.patients(label), trainings.strata(), len(trainings.cases[label])
    run_of = strata // (int(strata.max() + 1) // runs)
    each = [resampled(values[run_of == r], strata[run_of == r], seed=[seed, r], draws=draws) for r in range(runs)]
    drawn = np.random.default_rng(seed).integers(runs, size=(draws, runs))
    found: Values = np.array(each)[drawn, np.arange(draws)[:, None]].mean(axis=1)
    return found


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979): the smallest p times their number, the next times one less, …"""
    order = np.argsort(ps)
    corrected, highest = [1.0] * len(ps), 0.0
    for place, i in enumerate(order):
        highest = max(highest, ps[i] * (len(ps) - place))
        corrected[i] = min(1.0, highest)
    return corrected


def _teachers(runs: Sequence[Path], sites: set[str]) -> dict[str, list[dict[str, list[CaseMetrics]]]]:
    """What cross.json of all runs has of each teacher, and of all together, at every site."""
    found = [crossed(run) for run in runs]
    names = [*sorted(sites), MIXTURE]
    return {
        name: [one[name] for one in found] for name in names if all(set(one.get(name, {})) == sites for one in found)
    }


def _check_patients(
    runs: Sequence[Path], found: Sequence[Mapping[str, Mapping[str, EvaluateReply]]], labels: set[str]
) -> None:
    """InputError where the students of a run were evaluated on different patients of a site: they pair with nobody."""
    for run, replies in zip(runs, found, strict=True):
        for site in sorted(replies[min(labels)]):
            asked = {(reply.cases, len(reply.val), len(reply.test)) for reply in (replies[one][site] for one in labels)}
            if len(asked) > 1:
                what = f"the patients of {site} changed between its evaluations of {' and '.join(sorted(labels)[:2])} …"
                fix = f"remove {run / 'evaluation'} and evaluate again: the same command does it"
                raise InputError(what, where=run, fix=fix)


def _check_runs(runs: Sequence[Path]) -> None:
    """InputError unless these are runs of one study that differ by their seeds."""
    studies = [read_study_of(run) for run in runs]
    for run, study in zip(runs[1:], studies[1:], strict=True):
        if study.model_copy(update={"seed": 0}).hash() != studies[0].model_copy(update={"seed": 0}).hash():
            raise InputError(f"is a run of another study than {runs[0]}", where=run, fix="compare runs of one study")
    if len({study.seed for study in studies}) < len(studies):
        raise InputError("two runs have one seed", where=runs[0], fix="name each run once; a seed is one draw of all")


def _by_stratum(values: Values, strata: NDArray[np.int64]) -> list[Values]:
    """The defined values of each stratum that has one."""
    known = np.isfinite(values)
    return [values[(strata == name) & known] for name in np.unique(strata[known])]


def _in_order(labels: set[str], order: Sequence[str]) -> list[str]:
    known = [label for label in order if label in labels]
    return known + sorted(labels - set(known))
