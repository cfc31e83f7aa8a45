"""ProtoKD: how near each place is to each class's prototype (Wang et al. 2023)."""

from __future__ import annotations

from torch import Tensor

from distill.losses.cross_entropy import cross_entropy
from distill.losses.kl import teacher_first_kl
from distill.losses.structure import prototype_distance
from distill.schemes.base import Batch
from distill.schemes.taught import Lesson, Taught, Told, labelled_mean
from models.contents import Content
from models.knowledge import prototype_maps
from study.dice import dice_of


class ProtoKd(Taught):
    """How near each place is to each class's prototype (Wang et al. 2023)."""

    @property
    def contents(self) -> tuple[Content, ...]:
        return ("logits", "prototypes")

    @property
    def taps(self) -> tuple[str, ...]:
        return ("decoder",)

    def terms(self, lesson: Lesson) -> dict[str, Tensor]:
        """KL to the softened teacher, and cosine maps against its prototypes' for the classes that a slice shows."""
        plan = self.plan.protokd
        scale = 1.0 if plan.form == "usual" else 1 / plan.temperature**2 / self.classes
        kl = teacher_first_kl(lesson.logits, lesson.target(plan.temperature), temperature=plan.temperature)
        own, there = prototype_maps(lesson.features["decoder"], lesson.batch.masks, self.classes)

        def distance(told: Told) -> Tensor:
            return prototype_distance(own, told["prototypes/decoder"], there & told["present/decoder"])

        maps = lesson.distance("prototypes/decoder", distance, where=lesson.batch.labelled)
        return {
            "kl": plan.kd * scale * lesson.mean(kl),
            "prototypes": plan.prototypes * maps,
        }

    def segmentation(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy and Dice. Departs: their cross-entropy has class weights, which they do not print."""
        return {
            "ce": labelled_mean(cross_entropy, logits, batch),
            "dice": labelled_mean(dice_of, logits, batch),
        }
