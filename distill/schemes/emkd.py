"""EMKD: prediction maps, importance maps and region affinity (Qin et al. 2021)."""

from __future__ import annotations

from torch import Tensor

import models
from distill.losses.attention import importance_distance
from distill.losses.contrast import region_affinity
from distill.losses.cross_entropy import focal
from distill.losses.kl import TEMPERATURE, teacher_first_kl
from distill.schemes.base import Batch
from distill.schemes.taught import Lesson, Taught, labelled_mean, over_taps, region_term
from models.contents import Content
from models.knowledge import attention_map
from study.dice import dice_of


class Emkd(Taught):
    """Prediction maps, importance maps and region affinity (Qin et al. 2021).

    Departs: their code taps the first convolution and the encoder's end, ours the ends of encoder and decoder, where
    AMTKD's teachers are tapped.
    """

    @property
    def contents(self) -> tuple[Content, ...]:
        return ("logits", "attention-4", "contrast")

    @property
    def taps(self) -> tuple[str, ...]:
        return models.TAPS

    def terms(self, lesson: Lesson) -> dict[str, Tensor]:
        """Their PMD, IMD and RAD: KL at lambda 4, attention with p = 4, squares of region contrast's differences."""
        plan = self.plan.emkd
        kl = teacher_first_kl(lesson.logits, lesson.target(TEMPERATURE))
        return {
            "prediction": plan.prediction * lesson.mean(kl),
            "importance": plan.importance * over_taps(lambda tap: self._importance(lesson, tap)),
            "region": plan.region * over_taps(lambda tap: region_term(lesson, tap, self.classes, region_affinity)),
        }

    def _importance(self, lesson: Lesson, tap: str) -> Tensor:
        own, name = attention_map(lesson.features[tap], p=4), f"attention-4/{tap}"
        return lesson.distance(name, lambda told: importance_distance(own, told[name]))

    def segmentation(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Half focal, half Dice. Departs: their Dice pools the batch, ours is one a slice."""
        return {
            "focal": 0.5 * labelled_mean(focal, logits, batch),
            "dice": 0.5 * labelled_mean(dice_of, logits, batch),
        }
