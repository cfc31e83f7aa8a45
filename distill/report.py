"""report.html: one file, readable anywhere, made of what lies in the run directory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from numpy.typing import NDArray

from distill import report_figures as figures
from distill.records import cards_of, crossed, distilled, evaluations, phantoms_of, rescanned_of, whole_json
from distill.report_cost import costs
from distill.report_tables import Cell, cell, class_means, mean_over_sites, pooled
from imaging.atomic import write_text
from study.averaging_table import LOCAL
from study.plan import Study
from study.run import MIXTURE, events, left_out, read_study_of
from study.wire import Card, CaseMetrics, Header

H = TypeVar("H", bound=Header)

SLICES_PER_SITE = 6


@dataclass(frozen=True)
class Row:
    """A line of a table: its name and its cells; `chosen` marks the shipped scheme."""

    name: str
    cells: list[Cell]
    chosen: bool = False


def write_report(run: Path) -> Path:
    """Make `run`/report.html from whatever the run directory holds by now; returns its path.

    Raises: InputError when `run` is no run directory.
    """
    study = read_study_of(run)
    page = _template().render(**_content(run, study))
    write_text(run / "report.html", page)
    return run / "report.html"


def _template() -> Any:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=select_autoescape(["j2"]), undefined=StrictUndefined)
    return environment.get_template("report.html.j2")


def _content(run: Path, study: Study) -> dict[str, Any]:
    """Everything the template names."""
    sites = [site.name for site in study.sites]
    replies = evaluations(run)
    named = dict.fromkeys([*study.distill.students[1:], study.distill.scheme, *sorted(replies)])
    schemes = [name for name in named if name in replies]
    cases = {scheme: {site: reply.test for site, reply in replies[scheme].items()} for scheme in schemes}
    cards, structures = cards_of(run), list(study.task.structures)
    return {
        "study": study,
        "hash": study.hash(),
        "sites": sites,
        "classes": structures,
        "phantoms": phantoms_of(study),
        "rescanned": rescanned_of(study),
        "pictures": study.preprocess.pictures,
        "warnings": [*_warnings(run), *_student_warnings(run, study.distill.scheme, cases)],
        "students": [Row(s, _across(cases[s], sites), s == study.distill.scheme) for s in schemes],
        "students_figure": figures.dots(_dice(cases), xlabel="Dice", title="Every test case") if schemes else "",
        "by_class": [{"name": s, "cells": class_means(cases[s].values(), structures)} for s in schemes],
        "tested": {site: max((len(c.get(site, [])) for c in cases.values()), default=0) for site in sites},
        "cross": _cross(run, sites),
        "cards": cards,
        "curves": _curves(run, cards, list(named)),
        "weights": _weights(run, schemes),
        "overlays": _overlays(run, study),
        "traffic": _traffic(run),
        "costs": costs(study, _bytes(run), cases, _alone(run)),
        "times": _times(run),
        "facts": _facts(run, study),
    }


def _across(by_site: dict[str, list[CaseMetrics]], sites: Sequence[str]) -> list[Cell]:
    """A cell a site, and one of the mean over sites."""
    return [
        *(cell(by_site.get(site, [])) for site in sites),
        pooled([by_site[site] for site in sites if by_site.get(site)]),
    ]


def _dice(cases: dict[str, dict[str, list[CaseMetrics]]]) -> dict[str, dict[str, Sequence[float]]]:
    return {
        s: {site: [c.mean("dice") for c in found] for site, found in by_site.items()} for s, by_site in cases.items()
    }


def _cross(run: Path, sites: Sequence[str]) -> list[Row]:
    """Rows: teachers, all together, then students of one site alone. Empty unless the simulation measured it."""
    table = crossed(run)
    others = [name for name in (MIXTURE, *(f"{LOCAL}-{site}" for site in sites)) if name in table]
    return [Row(name, _across(table.get(name, {}), sites)) for name in (*sites, *others)] if table else []


def _curves(run: Path, cards: Sequence[Card], schemes: Sequence[str]) -> list[str]:
    """Validation Dice of teachers by epoch; loss on masks and validation Dice of students by step."""
    teachers = [
        (card.site, [e.epoch for e in card.history], [e.dice for e in card.history]) for card in cards if card.history
    ]
    losses, dices = [], []
    for scheme in schemes:
        log = events(run / "distill" / scheme)
        steps = [(e["step"], _on_masks(e["terms"])) for e in log if e["kind"] == "step"]
        checks = [(e["step"], e["dice"]) for e in log if e["kind"] == "validation" and e["dice"] is not None]
        losses.append((scheme, *_smooth(steps)))
        dices.append((scheme, [s for s, _ in checks], [d for _, d in checks]))
    drawn = [figures.curves(teachers, xlabel="epoch", ylabel="validation Dice", title="Teachers at home")]
    drawn.append(
        figures.curves([d for d in losses if d[1]], xlabel="step", ylabel="loss on masks", title="Students in training")
    )
    if any(d[1] for d in dices):
        drawn.append(
            figures.curves([d for d in dices if d[1]], xlabel="step", ylabel="validation Dice", title="Students")
        )
    return drawn


def _on_masks(terms: dict[str, float]) -> float:
    """What all schemes share; what they learn from teachers is of another size in each."""
    return sum(terms.get(name, 0.0) for name in ("dice", "lovasz", "ce", "focal", "y"))


def _smooth(points: Sequence[tuple[int, float]], *, bins: int = 60) -> tuple[list[float], list[float]]:
    """At most `bins` points: means over equal stretches, since a batch's loss jumps."""
    chunks = [
        c
        for c in np.array_split(np.array(points, dtype=float).reshape(-1, 2), min(bins, max(1, len(points))))
        if len(c)
    ]
    return [float(c[:, 0].mean()) for c in chunks], [float(c[:, 1].mean()) for c in chunks]


def _weights(run: Path, schemes: Sequence[str]) -> list[str]:
    """A histogram of the teachers' weights a slice for every scheme that weighs them slice by slice."""
    drawn = []
    for scheme in schemes:
        path = run / "distill" / scheme / "weights.json"
        if path.exists():
            found = whole_json(path)
            values = np.array(found["weights"], dtype=float).reshape(-1, len(found["sites"]))
            groups = {site: values[:, column] for column, site in enumerate(found["sites"])}
            if values.std(axis=0).max(initial=0.0) > 1e-6:
                drawn.append(figures.histogram(groups, xlabel="weight", title=scheme))
    return drawn


@dataclass(frozen=True)
class Gallery:
    """Some slices of one site under one scheme."""

    title: str
    items_: list[dict[str, str]]


def _overlays(run: Path, study: Study) -> list[Gallery]:
    """Slices that the hospitals of a simulation kept for themselves; a real hospital's are not here to be read."""
    found = []
    for site in study.sites:
        folder = run / "hospitals" / site.name / "workspace" / "overlays" / study.distill.scheme
        items = list(_slices(sorted(folder.glob("*.npz"))))
        if items:
            found.append(Gallery(site.name, items[:SLICES_PER_SITE]))
    return found


def _slices(paths: Sequence[Path]) -> Iterator[dict[str, str]]:
    """Pictures with captions, as many as the files hold, in the files' order."""
    for path in paths:
        with np.load(path) as content:
            arrays: dict[str, NDArray[Any]] = {name: content[name] for name in content.files}
        for image, reference, prediction in zip(
            arrays["image"], arrays["reference"], arrays["prediction"], strict=True
        ):
            both, total = (
                ((reference == prediction) & (reference > 0)).sum(),
                (reference > 0).sum() + (prediction > 0).sum(),
            )
            dice = f"Dice {2 * both / total:.2f} in this slice" if total else "nothing here, nothing found"
            yield {"png": figures.overlay(image.astype(np.float32), reference, prediction), "caption": dice}


def _alone(run: Path) -> dict[str, dict[str, list[CaseMetrics]]]:
    return {name: by_site for name, by_site in crossed(run).items() if name.startswith(f"{LOCAL}-")}


def _bytes(run: Path) -> dict[str, Any]:
    path = run / "traffic.json"
    return dict(whole_json(path)) if path.exists() else {}


def _traffic(run: Path) -> list[dict[str, str]]:
    return [
        {
            "site": site,
            "sent": _megabytes(row["sent"]),
            "received": _megabytes(row["received"]),
            "messages": str(row["messages"]),
        }
        for site, row in sorted(_bytes(run).items())
    ]


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _times(run: Path) -> list[dict[str, str]]:
    """How long each phase took, summed over its attempts."""
    seconds: dict[str, float] = {}
    for event in events(run):
        if event["kind"] == "phase-ended":
            seconds[event["phase"]] = seconds.get(event["phase"], 0.0) + event["seconds"]
    return [{"phase": phase, "time": f"{int(s // 60)} min {s % 60:.0f} s"} for phase, s in seconds.items()]


def _warnings(run: Path) -> list[str]:
    """Sites that were left out, in the words of the run's own log."""
    return [f"Left out: {site}: {event['cause']}" for site, event in left_out(run).items()]


def _student_warnings(run: Path, shipped: str, cases: dict[str, dict[str, list[CaseMetrics]]]) -> list[str]:
    """Students without figures, and a shipped one that had better not be."""
    lines = [
        f"Not evaluated at the sites yet, so without figures here: {label}. `preceptor simulate` on this run does it."
        for label in distilled(run)
        if label not in cases
    ]
    both = cases.get(shipped, {}).keys() & cases.get("supervised", {}).keys()
    ours, alone = (
        mean_over_sites([cases.get(label, {})[site] for site in both], "dice") for label in (shipped, "supervised")
    )
    if ours < alone:
        against = f"mean test Dice {ours:.3f} against {alone:.3f}"
        lines.append(f"{shipped} does worse than the same student trained alone ({against}): see its learning curves.")
    return lines


def _facts(run: Path, study: Study) -> list[tuple[str, str]]:
    versions = whole_json(run / "versions.json") if (run / "versions.json").exists() else {}
    student = run / "distill" / study.distill.scheme / "student.json"
    shipped = whole_json(student) if student.exists() else {}
    facts = [("run directory", str(run))]
    if shipped:
        facts += [("student", f"{shipped['model']}, {shipped['parameters']:,} parameters")]
    facts += [("student's weights, SHA-256 of names and values", shipped.get("weights_hash", "not trained yet"))]
    settings = shipped.get("settings") or study.distill.model_dump(mode="json")
    facts += [("scheme", study.distill.scheme), ("settings", json.dumps(settings))]
    return facts + [
        (name, json.dumps(value) if isinstance(value, dict) else str(value)) for name, value in versions.items()
    ]
