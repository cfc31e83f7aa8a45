"""MODEL_CARD.md: what goes with an exported student, all of it from the run's records and from what was measured."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import models
from distill.export import FILES, Export, tolerance_of
from distill.predict import COARSEST
from distill.records import evaluations, phantoms_of, rescanned_of
from distill.report_tables import cell, pooled
from imaging.atomic import write_text
from imaging.preprocess import Preprocess
from models.cost import cost
from study.cards import read_card
from study.exported import BETWEEN, INPUT
from study.networks import build
from study.student import Leaflet

NAME = "MODEL_CARD.md"


def write_model_card(done: Export) -> Path:
    """The card of an exported student, beside its files; returns its path."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True)
    path = done.folder / NAME
    write_text(path, environment.get_template("model_card.md.j2").render(**_content(done)))
    return path


def dice_cost(done: Export) -> str:
    """What int8 changes, in points of Dice."""
    before, after = (done.figures[form].mean_dice for form in ("PyTorch", "int8"))
    return f"{100 * (after - before):+.2f} points" if before is not None and after is not None else "no masks to tell"


def _content(done: Export) -> dict[str, Any]:
    """Everything the template names."""
    far, plan = done.figures["ONNX"].far, done.study.preprocess
    within = [difference for difference in far if difference <= tolerance_of(done.study)]
    return {
        "card": done.card,
        "phantoms": phantoms_of(done.study),
        "rescanned": rescanned_of(done.study),
        "coarsest": f"{COARSEST * done.card.pixel_mm:.3g}" if done.card.pixel_mm else "",
        "files": [_file(done, form) for form in FILES],
        "part": done.part,
        "scans": len(done.figures["ONNX"].seconds),
        "slices": len(far),
        "volumes": bool(plan.patch),
        "takes": BETWEEN if plan.patch else INPUT,
        "shape": (max(1, len(done.card.channels)), *plan.shape),
        "normalised": _normalised(plan),
        "worst": f"{max(within):.0e}",
        "beyond": len(far) - len(within),
        "farthest": f"{max(far):.0e}",
        "cost": dice_cost(done),
        "machine": f"{platform.system()} {platform.machine()}",
        "sites": _sites(done),
        "facts": _facts(done),
        "properties": list(Leaflet.model_fields),
    }


def _normalised(plan: Preprocess) -> str:
    """What becomes of intensities, as a clause."""
    if plan.normalise == "window":
        return "the window {} to {} becomes [-1, 1]".format(*plan.window_hu)
    own = "each channel by itself"
    if plan.normalise == "min-max":
        return f"lowest to highest value become [0, 1], {own}"
    low, high = plan.percentiles
    return f"clipped at percentiles {low} and {high}, of mean 0 and deviation 1 over all but the lowest value, {own}"


def _file(done: Export, form: str) -> dict[str, Any]:
    figures = done.figures[form]
    dice = "–" if figures.mean_dice is None else f"{figures.mean_dice:.4f}"
    seconds = f"{figures.median_seconds:.3f}"
    return {"form": form, "name": FILES[form], "bytes": done.bytes[form], "dice": dice, "seconds": seconds}


def _sites(done: Export) -> list[dict[str, Any]]:
    """A line a site that has evaluated these very weights, and the mean over sites."""
    found = {site: reply.test for site, reply in evaluations(done.run).get(done.card.label, {}).items()}
    rows = [{"name": site, "patients": len(cases), "cell": cell(cases)} for site, cases in found.items()]
    total = {"name": "all sites", "patients": sum(map(len, found.values())), "cell": pooled(list(found.values()))}
    return [*rows, total] if rows else []


def _teacher(done: Export, site: str) -> str:
    """The network that taught: by the teacher's own card, for it may have come ready."""
    theirs = read_card(done.run, site)
    return theirs.model if theirs else done.study.teacher_of(site).model


def _facts(done: Export) -> list[tuple[str, str]]:
    card, study = done.card, done.study
    shape, kind = study.preprocess.shape, "patch" if study.preprocess.patch else "slice"
    counted = cost(build(card.model, card.options, study.task, study.preprocess), shape)
    teachers = [f"{site} ({_teacher(done, site)})" for site in card.teachers]
    dice = (
        f"{card.val_dice:.3f}" if card.val_dice is not None else "nothing to validate on: the weights of the last step"
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnx", "onnxruntime", "preceptor"))
    return [
        ("study", f"{study.name}, {study.hash()}"),
        ("network", f"{models.spec(card.model).title}; {models.spec(card.model).paper}"),
        ("parameters", f"{counted.parameters:,}"),
        (f"FLOPs a {kind}", f"{counted.flops / 1e9:.3f} G at {_times(shape)}"),
        ("teachers", ", ".join(teachers) or "none"),
        ("scheme", card.scheme),
        ("seed", str(card.seed)),
        ("steps", f"{card.steps}, weights of step {card.best_step}"),
        ("validation Dice", dice),
        ("preprocessing", f"`{json.dumps(card.preprocess)}`, fingerprint {study.preprocess.fingerprint()}"),
        ("settings", f"`{json.dumps(card.settings.model_dump(mode='json'))}`"),
        ("weights, SHA-256 of names and values", card.weights_hash),
        ("exported with", packages),
    ]


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
