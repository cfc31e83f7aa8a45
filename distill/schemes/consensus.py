"""Ours: the student learns what the teachers make of a slice together, pixel by pixel and organ by organ."""

from __future__ import annotations

from torch import Tensor

from distill.losses.kl import teacher_first_kl
from distill.schemes.taught import Lesson, Taught
from study.dice import soft_dice_loss


class Consensus(Taught):
    """All teachers as one: KL and Dice with their mixture, on slices with and without a mask (ours)."""

    own_law = "record"

    def terms(self, lesson: Lesson) -> dict[str, Tensor]:
        """Both with the mixture as it stands, at temperature 1: a segmentation is wanted, not dark knowledge.

        The KL is a mean over pixels, most of them background; Dice weighs every organ alike, however small.
        """
        plan, target = self.plan.consensus, lesson.target(1.0)
        kl = teacher_first_kl(lesson.logits, target, temperature=1.0)
        overlap = soft_dice_loss(lesson.logits.softmax(1).flatten(2), target.flatten(2))
        return {"kl": plan.kl * lesson.mean(kl), "overlap": plan.overlap * lesson.mean(overlap)}
