"""KD: the teacher's softened probabilities (Hinton et al. 2015)."""

from __future__ import annotations

from torch import Tensor

from distill.losses.cross_entropy import cross_entropy
from distill.losses.kl import teacher_first_kl
from distill.schemes.base import Batch
from distill.schemes.taught import Lesson, Taught, labelled_mean


class Kd(Taught):
    """The teacher's softened probabilities alone (Hinton et al. 2015)."""

    def terms(self, lesson: Lesson) -> dict[str, Tensor]:
        """Weight times lambda² KL(p^t || p^s), both softened at lambda (section 2)."""
        plan = self.plan.kd
        kl = teacher_first_kl(lesson.logits, lesson.target(plan.temperature), temperature=plan.temperature)
        return {"kl": plan.weight * lesson.mean(kl)}

    def segmentation(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """(1 - weight) cross-entropy."""
        return {"ce": max(0.0, 1 - self.plan.kd.weight) * labelled_mean(cross_entropy, logits, batch)}
