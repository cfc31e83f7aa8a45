"""AMTKD: adaptive weighted multi-teacher distillation, equations 1 to 7."""

from __future__ import annotations

import math

from torch import Tensor

import models
from distill.losses.attention import attention_transfer
from distill.losses.contrast import contrast_distance
from distill.losses.kl import KL
from distill.schemes.taught import Lesson, Taught, Told
from models.contents import Content
from models.knowledge import attention_map, region_contrast


class Amtkd(Taught):
    """All teachers, each slice listening most to those that do best on it (AMTKD, Eq. 1 to 7)."""

    own_law = "agreement"

    @property
    def contents(self) -> tuple[Content, ...]:
        """Logits alone where `alpha` is 0."""
        return ("logits", "attention", "contrast") if self.plan.amtkd.alpha else ("logits",)

    @property
    def taps(self) -> tuple[str, ...]:
        return models.TAPS if self.plan.amtkd.alpha else ()

    def terms(self, lesson: Lesson) -> dict[str, Tensor]:
        """Alpha Mid + beta KL of Eq. 6, Mid and the mixture of teachers weighted a slice (Eq. 7).

        KL and attention are means over the slices that some teacher answered, contrast over those also outlined.
        """
        plan = self.plan.amtkd
        kl = KL[plan.kl](lesson.logits, lesson.target(plan.temperature), temperature=plan.temperature)
        terms = {"kl": plan.beta * lesson.mean(kl)}
        if plan.alpha:
            each = [attention_term(lesson, tap, scaled=plan.attention == "scaled") for tap in models.TAPS]
            terms["attention"] = plan.alpha * sum(each[1:], each[0])
            each = [contrast_term(lesson, tap, self.classes) for tap in models.TAPS]
            terms["contrast"] = plan.alpha * sum(each[1:], each[0])
        return terms


def attention_term(lesson: Lesson, tap: str, *, scaled: bool) -> Tensor:
    """AT of the teachers at one tap. Source: AMTKD, Eq. 3.

    `scaled` divides it by the side of the student's grid, into [0, 2]. Departs: as printed a tap at half the slice's
    size weighs four times one at an eighth, and at the paper's alpha it drowns every other term.
    """
    own, name = attention_map(lesson.features[tap]), f"attention/{tap}"
    total = lesson.distance(name, lambda told: attention_transfer(own, told[name]))
    return total / (math.sqrt(own[0].numel()) if scaled else 1.0)


def contrast_term(lesson: Lesson, tap: str, classes: int) -> Tensor:
    """Region contrast's distance to the teachers at one tap. Source: AMTKD, Eq. 4.

    The student's regions are those of its augmented mask, a teacher's those of the slice it was sent.
    """
    own, measured = region_contrast(lesson.features[tap], lesson.batch.masks, classes)

    def distance(told: Told) -> Tensor:
        return contrast_distance(own, told[f"contrast/{tap}"], measured & told[f"valid/{tap}"])

    return lesson.distance(f"contrast/{tap}", distance, where=lesson.batch.labelled)
