"""What the phases of a run have left in its folder, read back: cards, evaluations, and who is a phantom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from imaging.errors import InputError
from study.plan import FolderSource, PhantomSource, Study
from study.student import read_card
from study.wire import Card, CaseMetrics, EvaluateReply, Header

H = TypeVar("H", bound=Header)


def evaluations(run: Path) -> dict[str, dict[str, EvaluateReply]]:
    """Scheme → site → what that site replied of its patients; not of a student that was trained anew since."""
    found: dict[str, dict[str, EvaluateReply]] = {}
    for path in sorted((run / "evaluation").glob("*/*.json")):
        reply, label = record(path, EvaluateReply), path.parent.name
        student = read_card(run / "distill" / label)
        if student is not None and student.weights_hash == reply.weights_hash:
            found.setdefault(label, {})[reply.site] = reply
    return found


def distilled(run: Path) -> list[str]:
    """The labels of all finished students."""
    return sorted(path.parent.name for path in run.glob("distill/[!.]*/student.json"))


def cards_of(run: Path) -> list[Card]:
    """Every teacher's card."""
    return [record(path, Card) for path in sorted((run / "teachers").glob("*.json"))]


def crossed(run: Path) -> dict[str, dict[str, list[CaseMetrics]]]:
    """Network -> site -> cases of `cross.json`."""
    path = run / "cross.json"
    table: dict[str, dict[str, list[CaseMetrics]]] = {}
    for row in whole_json(path) if path.exists() else []:
        table.setdefault(row["network"], {})[row["site"]] = [CaseMetrics.model_validate(case) for case in row["cases"]]
    return table


def phantoms_of(study: Study) -> str:
    """Which scans are synthetic; empty when none is."""
    return _made(study, PhantomSource, "Phantoms")


def rescanned_of(study: Study) -> str:
    """On which real scans another scanner is simulated; empty when on none."""
    return _made(study, FolderSource, "Real scans, another scanner simulated on them")


def _made(study: Study, kind: type[PhantomSource] | type[FolderSource], heading: str) -> str:
    sites = [site.name for site in study.sites if isinstance(site.source, kind) and site.source.made]
    lead = any(isinstance(source, kind) and source.made for source in study.student.sources)
    who = ([f"the scans of {', '.join(sites)}"] if sites else []) + (["the student's scans"] if lead else [])
    return f"{heading}: {' and '.join(who)}." if who else ""


def record(path: Path, kind: type[H]) -> H:
    """A message that a phase of the federation put away."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fix = "remove it and run `preceptor simulate` on this run again"
        raise InputError(f"is no whole {kind.__name__}", where=path, fix=fix) from error


def whole_json(path: Path) -> Any:
    """A JSON file's content; InputError where it is not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"is not whole JSON ({error})", where=path, fix="remove it and run the phase that writes it again"
        ) from error
