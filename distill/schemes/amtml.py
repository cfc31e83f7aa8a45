"""AMTML-KD: teachers weighed by what is learned beside the student (Liu et al. 2020)."""

from __future__ import annotations

from torch import Tensor

from distill.losses.cross_entropy import cross_entropy
from distill.losses.kl import soften, teacher_first_kl
from distill.losses.relation import rkd_angle, rkd_distance
from distill.schemes.base import Batch
from distill.schemes.hints import Hinted
from distill.schemes.taught import Lesson, labelled_mean
from models.knowledge import averaged

LARGEST = 24
"""Side that probability maps are averaged down to before slices are compared."""


class AmtmlKd(Hinted):
    """Teachers weighed by what is learned beside the student (Liu et al. 2020)."""

    own_law = "learned"

    @property
    def hints_weight(self) -> float:
        return self.plan.amtml_kd.hints

    def terms(self, lesson: Lesson) -> dict[str, Tensor]:
        plan, heard = self.plan.amtml_kd, lesson.heard
        target = lesson.target(plan.temperature)
        kl = teacher_first_kl(lesson.logits, target, temperature=plan.temperature)
        terms = {"kl": 2 * plan.a * lesson.mean(kl)}
        if heard.any():
            student = _flat(soften(lesson.logits, plan.temperature)[heard])
            teacher = _flat(target[heard])
            terms["distance"] = plan.distance * rkd_distance(student, teacher)
            terms["angle"] = plan.angle * rkd_angle(student, teacher)
        if plan.hints:
            distances = self.hints.distances(lesson.features["decoder"], lesson.teachers)
            terms["hints"] = plan.hints * lesson.mean((distances * lesson.teachers.answered).sum(1))
        return terms

    def segmentation(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """(1 - a) cross-entropy."""
        return {"ce": (1 - self.plan.amtml_kd.a) * labelled_mean(cross_entropy, logits, batch)}


def _flat(probs: Tensor) -> Tensor:
    """Probability maps (N, C, H, W), averaged down, as vectors (N, d)."""
    return averaged(probs, [min(LARGEST, side) for side in probs.shape[2:]]).flatten(1)
