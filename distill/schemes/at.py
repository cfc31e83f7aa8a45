"""AT: where the teacher looks (Zagoruyko and Komodakis 2017)."""

from __future__ import annotations

from torch import Tensor

import models
from distill.losses.attention import attention_norm, attention_square
from distill.losses.cross_entropy import cross_entropy
from distill.schemes.base import Batch
from distill.schemes.taught import Lesson, Taught, labelled_mean, over_taps
from models.contents import Content
from models.knowledge import attention_map


class At(Taught):
    """Where the teacher looks: attention maps with p = 2 (Zagoruyko and Komodakis 2017)."""

    @property
    def contents(self) -> tuple[Content, ...]:
        return ("logits", "attention-2")

    @property
    def taps(self) -> tuple[str, ...]:
        return models.TAPS

    def terms(self, lesson: Lesson) -> dict[str, Tensor]:
        """Weight times the sum over taps of the distance of maps F = sum_c |f_c|², each of unit norm (section 3.1)."""
        return {"attention": self.plan.at.weight * over_taps(lambda tap: self._at(lesson, tap))}

    def _at(self, lesson: Lesson, tap: str) -> Tensor:
        own, name = attention_map(lesson.features[tap], p=2), f"attention-2/{tap}"
        distance = attention_norm if self.plan.at.form == "as-printed" else attention_square
        return lesson.distance(name, lambda told: distance(own, told[name]))

    def segmentation(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"ce": labelled_mean(cross_entropy, logits, batch)}
