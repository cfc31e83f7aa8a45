"""How well a network does on the site's own patients: metrics leave, pictures stay."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.scans import Part, Scans
from client.site import SiteConfig
from client.status import Status
from imaging.atomic import replacing, write_text
from imaging.errors import InputError
from imaging.grid import to_native
from imaging.metrics import case_metrics, mean_dice
from imaging.slices import CachedCase
from study.draws import generator
from study.networks import build
from study.plan import Task
from study.prediction import logits_of
from study.wire import Arrays, AverageRequest, CaseMetrics, EvaluateReply, EvaluateRequest, digest, expect

log = logging.getLogger("client")


@dataclass(frozen=True)
class Evaluated:
    """A case's metrics, and some of its slices as the network saw them, to be looked at where they were made."""

    metrics: CaseMetrics
    dice: float
    overlay: dict[str, NDArray[Any]]
    """`image` (n, H, W) float16, `reference` and `prediction` (n, H, W) uint8."""


def evaluate(
    network: nn.Module,
    scans: Scans,
    part: Part,
    task: Task,
    *,
    progress: Callable[[int, int], None] = lambda done, cases: None,
) -> list[Evaluated]:
    """Every case of that part on its scan's own grid, one in memory at a time.

    In an order that tells nothing: shuffled by what only the site knows, and alike for every network, so that two can
    be compared case by case. Raises: InputError where there is no case.
    """
    cases = scans.parts[part]
    if not cases:
        raise InputError(
            f"the site has no outlined patient in the {part} split",
            fix=f"outline more patients there, or give {part} a share in `teacher.split`",
        )
    order = generator(int(scans.identity(), 16), "order").permutation(len(cases))
    found = []
    for done, index in enumerate(order):
        progress(done, len(cases))
        found.append(_case(network, scans, cases[index], task))
    return found


def _case(network: nn.Module, scans: Scans, case: CachedCase, task: Task) -> Evaluated:
    cache = scans.cache
    part = cache.part(case)
    logits = logits_of(network, part.images, cache.plan, case.grid.box())
    reference = cache.native_mask(case)
    classes = len(task.classes)
    native = to_native(logits, case.grid)
    metrics = case_metrics(native, reference, classes=classes, structures=task.structures, spacing_mm=case.spacing_mm)
    prediction = logits.argmax(1).astype(np.uint8)
    shown = _shown(prediction, part.masks, classes)
    overlay = {
        "image": part.images[shown, 0],
        "reference": part.masks[shown],
        "prediction": prediction[shown],
    }
    found = CaseMetrics(metrics=metrics)
    return Evaluated(found, found.mean("dice"), overlay)


def _shown(prediction: NDArray[np.uint8], reference: NDArray[np.uint8], classes: int) -> list[int]:
    """Two slices to look at: the one with most foreground, and the one whose Dice is worst."""
    dice = [mean_dice(p, r, classes=classes) for p, r in zip(prediction, reference, strict=True)]
    return sorted({int((reference > 0).sum((1, 2)).argmax()), int(np.argmin(dice))})


def keep_overlays(folder: Path, found: list[Evaluated]) -> None:
    """Pictures of the worst, the middle and the best case, in this order, as `folder`/00.npz and on; they stay here."""
    ranked = sorted(found, key=lambda evaluated: evaluated.dice)
    chosen = dict.fromkeys([0, len(ranked) // 2, len(ranked) - 1])
    with replacing(folder) as temporary:
        temporary.mkdir()
        for number, index in enumerate(chosen):
            np.savez_compressed(temporary / f"{number:02d}.npz", **ranked[index].overlay)  # type: ignore[arg-type]


def student_of(request: EvaluateRequest | AverageRequest, weights: Arrays) -> nn.Module:
    """The network that was sent; InputError unless every array has its place, shape and type, and is finite."""
    network = build(request.model, request.options, request.assignment.task, request.assignment.preprocess)
    own = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    if foreign := sorted(set(weights) - set(own)):
        raise InputError(
            f"the weights hold `{foreign[0]}`, which `{request.model}` does not have", fix="send the student again"
        )
    for name, array in own.items():
        expect(weights, name, array.dtype.type, array.shape)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return network.eval()


def evaluate_student(
    config: SiteConfig, request: EvaluateRequest, weights: Arrays, scans: Scans, status: Status
) -> EvaluateReply:
    """Metrics of that student on the site's patients; those of weights met before come from the workspace.

    Raises: InputError where the site has no test patient, its policy allows no more students, or the weights are not
    the network's.
    """
    weights_hash = digest(weights)
    name = f"{request.label}-{weights_hash[:16]}.json"
    kept = config.workspace / "evaluations" / f"{request.assignment.preprocess.fingerprint()}-{scans.identity()}" / name
    if kept.exists():
        return EvaluateReply.model_validate_json(kept.read_bytes())
    config.policy.admit_evaluation(len(list((config.workspace / "evaluations").glob("*/*.json"))))
    network, found = student_of(request, weights), dict[Part, list[Evaluated]]()
    for part in ("val", "test"):
        progress = lambda done, cases, part=part: status.set(doing=f"evaluating ({part})", step=done, steps=cases)  # noqa: E731
        has = part == "test" or scans.parts[part]
        found[part] = evaluate(network, scans, part, request.assignment.task, progress=progress) if has else []
    keep_overlays(config.workspace / "overlays" / request.label, found["test"])
    dice = float(np.mean([evaluated.dice for evaluated in found["test"]]))
    log.info("%s on %d test cases: Dice %.3f", request.label, len(found["test"]), dice)
    val, test = ([evaluated.metrics for evaluated in found[part]] for part in ("val", "test"))
    reply = EvaluateReply(
        site=config.name, label=request.label, weights_hash=weights_hash, val=val, test=test,
        cases=sha256(f"cases {scans.identity()}".encode()).hexdigest()[:16],
    )  # fmt: skip
    write_text(kept, reply.model_dump_json())
    return reply
