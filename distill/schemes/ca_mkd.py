"""CA-MKD: teachers weighed by how sure they are of what is right (Zhang et al. 2022)."""

from __future__ import annotations

from torch import Tensor

from distill.losses.cross_entropy import cross_entropy
from distill.losses.kl import TEMPERATURE, teacher_first_kl
from distill.schemes.base import Batch
from distill.schemes.hints import Hinted, Hints
from distill.schemes.taught import Lesson, labelled_mean


class CaMkd(Hinted):
    """Teachers weighed by how sure they are of what is right (Zhang et al. 2022).

    Departs: their hints are weighed by each teacher's classifier applied to the student's features; a teacher's weights
    do not leave its site, so ours are weighed as the logits are.
    """

    own_law = "confidence"

    @property
    def hints_weight(self) -> float:
        return self.plan.ca_mkd.hints

    def terms(self, lesson: Lesson) -> dict[str, Tensor]:
        """sum_j w_j KL_j, like the KL to the mixture in all but a constant, and the hints, weighed alike."""
        plan = self.plan.ca_mkd
        again = lesson.weights.shape[1] if plan.form == "code" else 1
        kl = teacher_first_kl(lesson.logits, lesson.target(TEMPERATURE))
        terms = {"kl": plan.kd / again * lesson.mean(kl)}
        if plan.hints:
            distances = self.hints.distances(lesson.features["decoder"], lesson.teachers)
            terms["hints"] = plan.hints / again * lesson.over(Hints.NAME, distances.unbind(1))
        return terms

    def segmentation(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"ce": labelled_mean(cross_entropy, logits, batch)}
