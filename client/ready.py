"""Teachers that came ready: their cards, and their validation in place of a training."""

from __future__ import annotations

from collections.abc import Sequence

from client.scans import Scans
from client.site import SiteConfig
from client.status import Status
from client.teacher import Teacher, folder_of, load_teacher
from imaging.atomic import write_text
from imaging.slices import CachedCase, SliceCache
from models.contents import ONNX
from models.onnx_network import OnnxNetwork
from study.plan import Options
from study.prediction import case_dice
from study.wire import Assignment, Card, Parts


def card_at_home(config: SiteConfig, assignment: Assignment, scans: Scans, status: Status) -> Card:
    """The card of the teacher that `config` names; its Dice is over the site's patients that are not for testing.

    Measured once: the same file and scans have the same card ever after.
    Raises: InputError when the file is not what the study needs.
    """
    teacher = load_teacher(config, assignment)
    kept = folder_of(config, assignment) / f"card-{teacher.weights_hash[:16]}-{scans.identity()}.json"
    if kept.exists():
        return Card.model_validate_json(kept.read_bytes())
    status.set(doing="validating")
    dice = dice_on(teacher, scans.cache, [*scans.parts["train"], *scans.parts["val"]])
    card = card_of(teacher, dice, patients=scans.patients(), slices=scans.counts(), set_aside=scans.set_aside)
    write_text(kept, card.model_dump_json(indent=1))
    status.set(dice=dice)
    return card


def dice_on(teacher: Teacher, slices: SliceCache, cases: Sequence[CachedCase]) -> float:
    """Mean Dice over cases and foreground classes, on the study's grid; 0 where there is no case."""
    return case_dice(teacher.network, slices, cases, len(teacher.assignment.task.classes)) if cases else 0.0


def card_of(
    teacher: Teacher, dice: float, *, patients: Parts | None = None, slices: Parts | None = None, set_aside: int = 0
) -> Card:
    """What may be known of a teacher that came ready; without counts it was not at a site."""
    model, options, parameters = _network(teacher)
    nobody: Parts = {"train": 0, "val": 0, "test": 0}
    return Card(
        site=teacher.site,
        model=model,
        options=options,
        parameters=parameters,
        weights_hash=teacher.weights_hash,
        fingerprint=teacher.assignment.preprocess.fingerprint(),
        epochs=0,
        finished=True,
        dice=dice,
        best_epoch=0,
        patients=patients or nobody,
        slices=slices or nobody,
        set_aside=set_aside,
        history=[],
    )


def _network(teacher: Teacher) -> tuple[str, Options, int]:
    """Name, options and number of weights."""
    network, plan = teacher.network, teacher.assignment.teacher
    if isinstance(network, OnnxNetwork):
        return ONNX, {"gives": network.gives}, network.weight_count
    return plan.model, plan.options, sum(weight.numel() for weight in network.parameters())
