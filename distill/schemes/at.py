"""AT: where the teacher looks (Zagoruyko and Komodakis 2017)."""

from __future__ import annotations

from torch import Tensor

import models
from distill.losses.attention import attention_square
from distill.losses.cross_entropy import cross_entropy
from distill.schemes.base import Batch
from distill.schemes.taught import Lesson, Taught, labelled_mean
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
        each = [self._at(lesson, tap) for tap in self.taps]
        return {"attention": self.plan.at.weight * sum(each[1:], each[0])}

    def _at(self, lesson: Lesson, tap: str) -> Tensor:
        own, name = attention_map(lesson.features[tap], p=2), f"attention-2/{tap}"
        return lesson.distance(name, lambda told: attention_square(own, told[name]))

    def segmentation(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"ce": labelled_mean(cross_entropy, logits, batch)}
