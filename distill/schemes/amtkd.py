"""AMTKD: adaptive weighted multi-teacher distillation, equations 1 to 7."""

from __future__ import annotations

import math

from torch import Tensor

import models
from distill.losses.attention import attention_printed, attention_transfer
from distill.losses.contrast import contrast_distance
from distill.losses.kl import KL
from distill.schemes.taught import Lesson, Taught, over_taps, region_term
from models.contents import Content
from models.knowledge import attention_map, scaled
from study.distill_tables import Attention


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
            terms["attention"] = plan.alpha * over_taps(lambda tap: attention_term(lesson, tap, form=plan.attention))
            terms["contrast"] = plan.alpha * over_taps(lambda tap: contrast_term(lesson, tap, self.classes))
        return terms


def attention_term(lesson: Lesson, tap: str, *, form: Attention) -> Tensor:
    """AT of the teachers at one tap. Source: AMTKD, Eq. 3.

    `scaled` divides it by the side of the student's grid, into [0, 2]. Departs: summed, a tap at half the slice's size
    weighs four times one at an eighth, and at the paper's alpha it drowns every other term. Departs, `as-printed`:
    sites send a map with its maximum at 1, so the student's is brought to that size; in its own it would drown theirs.
    """
    own, name = attention_map(lesson.features[tap]), f"attention/{tap}"
    if form == "as-printed":
        total = lesson.distance(name, lambda told: attention_printed(scaled(own), told[name]))
    else:
        total = lesson.distance(name, lambda told: attention_transfer(own, told[name]))
    return total / (math.sqrt(own[0].numel()) if form == "scaled" else 1.0)


def contrast_term(lesson: Lesson, tap: str, classes: int) -> Tensor:
    """Region contrast's distance to the teachers at one tap. Source: AMTKD, Eq. 4."""
    return region_term(lesson, tap, classes, contrast_distance)
