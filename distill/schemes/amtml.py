"""AMTML-KD: teachers weighed by what is learned beside the student (Liu et al. 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from distill.losses.cross_entropy import cross_entropy
from distill.losses.kl import soften, teacher_first_kl
from distill.losses.relation import rkd_angle, rkd_distance
from distill.schemes.base import Batch, teachers_of
from distill.schemes.hints import Hints
from distill.schemes.taught import Lesson, Taught, labelled_mean
from distill.weights import shares
from models.contents import Content
from study.prediction import channels_of
from study.training import evaluating

LARGEST = 24
"""Side that probability maps are averaged down to before slices are compared."""


class AmtmlKd(Taught):
    """Teachers weighed by what is learned beside the student (Liu et al. 2020).

    b is the student's encoder feature, its maximum over places; w = softmax_j(W . (b * theta_j)), theta and W learned.
    Departs: their code trains the weighing together with the student first, and the student alone after; ours trains
    both throughout.
    """

    own_law = "uniform"  # all teachers; what they weigh is learned

    @property
    def contents(self) -> tuple[Content, ...]:
        return ("logits", "features") if self.plan.amtml_kd.hints else ("logits",)

    @property
    def taps(self) -> tuple[str, ...]:
        return models.TAPS if self.plan.amtml_kd.hints else ("encoder",)

    def adapt(self, sample: Batch) -> None:
        teachers = teachers_of(sample)
        width = channels_of(self.student, sample.images, "encoder")
        self.theta = nn.Parameter(torch.randn(teachers.logits.shape[1], width))
        self.projection = nn.Parameter(torch.randn(width))
        if self.plan.amtml_kd.hints:
            self.hints = Hints(channels_of(self.student, sample.images, "decoder"), teachers)

    def weights(self, batch: Batch) -> Tensor:
        with evaluating(self.student), models.tap(self.student, ("encoder",)) as features:
            self.student(batch.images)
            return self.weigh(batch, features).detach()

    def weigh(self, batch: Batch, features: dict[str, Tensor]) -> Tensor:
        answered = teachers_of(batch).answered
        scores = learned_scores(features["encoder"].float().amax((2, 3)), self.theta, self.projection)
        scores = scores.where(answered, torch.finfo(scores.dtype).min)
        return shares(scores.softmax(1), answered)

    def terms(self, lesson: Lesson) -> dict[str, Tensor]:
        plan, heard = self.plan.amtml_kd, lesson.heard
        target = lesson.target(plan.temperature)
        kl = teacher_first_kl(lesson.logits, target, temperature=plan.temperature)
        terms = {"kl": 2 * plan.a * lesson.mean(kl)}
        student = _flat(soften(lesson.logits, plan.temperature)[heard])
        teacher = _flat(target[heard])
        terms["distance"] = plan.distance * rkd_distance(student, teacher)
        terms["angle"] = plan.angle * rkd_angle(student, teacher)
        terms["decay"] = plan.decay * (self.theta.square().sum() + self.projection.square().sum())
        if plan.hints:
            distances = self.hints.distances(lesson.features["decoder"], lesson.teachers)
            terms["hints"] = plan.hints * lesson.mean((distances * lesson.teachers.answered).sum(1))
        return terms

    def segmentation(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """(1 - a) cross-entropy."""
        return {"ce": (1 - self.plan.amtml_kd.a) * labelled_mean(cross_entropy, logits, batch)}


def learned_scores(b: Tensor, theta: Tensor, projection: Tensor) -> Tensor:
    """W . (b * theta_j), (N, T): b (N, d), theta (T, d), W (d). Source: AMTML-KD, section 3.1."""
    return (b * projection) @ theta.T


def _flat(probs: Tensor) -> Tensor:
    """Probability maps (N, C, H, W), averaged down, as vectors (N, d)."""
    sides = (min(LARGEST, probs.shape[2]), min(LARGEST, probs.shape[3]))
    return F.adaptive_avg_pool2d(probs, sides).flatten(1)
