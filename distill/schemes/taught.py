"""What all schemes with teachers share: how each teacher is heard, and what the distances to each amount to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

import models
from distill.losses.kl import soften
from distill.schemes.base import Batch, Needs, Scheme, TeacherBatch, mean_where, teachers_of
from distill.schemes.learned import Learned
from distill.schemes.supervised import segmentation
from distill.weights import LAWS, mixture
from models.contents import Content
from models.knowledge import region_contrast
from study.distill_tables import Law
from study.prediction import channels_of
from study.training import evaluating

Told = Mapping[str, Tensor]


@dataclass(frozen=True)
class Lesson:
    """A batch, what the student made of it, and how much each teacher is heard on each of its slices."""

    batch: Batch
    teachers: TeacherBatch
    logits: Tensor
    """The student's, (N, C, H, W) float32."""
    features: dict[str, Tensor]
    """The student's, at the taps that the scheme named."""
    weights: Tensor
    """(N, T)."""

    @cached_property
    def heard(self) -> Tensor:
        """Slices that some teacher answered, (N,) bool."""
        return self.weights.sum(1) > 0

    def target(self, temperature: float) -> Tensor:
        """The teachers' mixture, probabilities (N, C, H, W) softened at that temperature."""
        return mixture(soften(self.teachers.logits, temperature, dim=2), self.weights)

    def mean(self, values: Tensor) -> Tensor:
        """Mean of a value a slice (N,) over the slices that are heard of."""
        return mean_where(values, self.heard)

    def distance(self, told: str, distance: Callable[[Told], Tensor], *, where: Tensor | None = None) -> Tensor:
        """Mean over slices of sum_j w_j distance_j, over the teachers who gave the array `told`; 0 where none did.

        `distance` makes a value a slice (N,) of what one teacher told; `where` (N,) bool narrows the slices.
        """
        each = [distance(one) if told in one else self.logits.new_zeros(len(self.logits)) for one in self.teachers.told]
        return self.over(told, each, where=where)

    def over(self, told: str, each: Sequence[Tensor], *, where: Tensor | None = None) -> Tensor:
        """The same of distances that are there already: T times a value a slice (N,)."""
        weights = self.weights * self.teachers.gives(told)
        weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        counts = weights.sum(1) > 0 if where is None else (weights.sum(1) > 0) & where
        return mean_where((weights * torch.stack(list(each), dim=1)).sum(1), counts)


class Taught(Scheme):
    """A scheme with teachers: the loss on masks, and terms of its own that say what is learned from them."""

    own_law: ClassVar[Law | None] = None
    """How its authors weigh several teachers; None for a scheme for one."""

    @property
    def contents(self) -> tuple[Content, ...]:
        """What it learns from, under its plan."""
        return ("logits",)

    @property
    def taps(self) -> tuple[str, ...]:
        """Where it looks into the student, under its plan."""
        return ()

    def adapt(self, sample: Batch) -> None:
        """What weighs the teachers, where that is learned; a scheme with more to make calls this first."""
        if self.law == "learned":
            width = channels_of(self.student, sample.images, "encoder")
            self.learned = Learned(teachers_of(sample).logits.shape[1], width)

    @property
    def law(self) -> Law | None:
        """How the teachers are weighed; None where one is heard."""
        return self.plan.weights.law or self.own_law

    @property
    def needs(self) -> Needs:
        teachers: Literal["all", "one"] = "all" if self.law else "one"
        return Needs(teachers=teachers, contents=self.contents, record=self.law == "record")

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        teachers = teachers_of(batch)
        watched = dict.fromkeys([*self.taps, *(["encoder"] if self.law == "learned" else [])])
        with models.tap(self.student, tuple(watched)) as features:
            logits = self.student(batch.images).float()
        features = {name: maps.float() for name, maps in features.items()}
        own = self.plan.segmentation == "own"
        with torch.autocast(logits.device.type, enabled=False):  # mixed precision is for the student alone
            lesson = Lesson(batch, teachers, logits, features, self.weigh(batch, features))
            masks = self.segmentation(logits, batch) if own else segmentation(logits, batch, self.plan.amtkd)
            terms = masks | self.terms(lesson)
            if self.law == "learned":
                terms["decay"] = self.plan.amtml_kd.decay * self.learned.decay()
            return terms

    @abstractmethod
    def terms(self, lesson: Lesson) -> dict[str, Tensor]:
        """What is learned from teachers: weighted terms by name, scalars."""

    def segmentation(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The authors' own loss on masks."""
        return segmentation(logits, batch, self.plan.amtkd)

    @torch.no_grad()
    def weights(self, batch: Batch) -> Tensor:
        """w_j by the law, (N, T); a teacher who did not answer weighs nothing."""
        if self.law is None:
            return super().weights(batch)
        if self.law == "learned":
            with evaluating(self.student), models.tap(self.student, ("encoder",)) as features:
                self.student(batch.images)
            return self.weigh(batch, features)
        return LAWS[self.law](teachers_of(batch), batch.masks, batch.labelled, self.plan.weights)

    def weigh(self, batch: Batch, features: dict[str, Tensor]) -> Tensor:
        """The weights where the student's features are at hand: learned ones with their gradient."""
        if self.law == "learned":
            weights: Tensor = self.learned(features["encoder"], teachers_of(batch).answered)
            return weights
        return self.weights(batch)


def over_taps(term: Callable[[str], Tensor]) -> Tensor:
    """Sum of a term over the taps: the ends of encoder and decoder."""
    return torch.stack([term(tap) for tap in models.TAPS]).sum()


def region_term(lesson: Lesson, tap: str, classes: int, distance: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """A distance (student's, teacher's, which pairs count) of region contrasts at one tap, on outlined slices.

    The student's regions are those of its augmented mask, a teacher's those of the slice it was sent.
    """
    own, measured = region_contrast(lesson.features[tap], lesson.batch.masks, classes)

    def told_apart(told: Told) -> Tensor:
        return distance(own, told[f"contrast/{tap}"], measured & told[f"valid/{tap}"])

    return lesson.distance(f"contrast/{tap}", told_apart, where=lesson.batch.labelled)


def labelled_mean(values: Callable[[Tensor, Tensor], Tensor], logits: Tensor, batch: Batch) -> Tensor:
    """Mean over the labelled slices of a loss of (logits, mask), 0 where none is."""
    has = batch.labelled
    return values(logits[has], batch.masks[has]).sum() / has.sum().clamp_min(1)
