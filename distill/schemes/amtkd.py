"""AMTKD: adaptive weighted multi-teacher distillation, equations 1 to 7."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import models
from distill.losses.attention import attention_transfer
from distill.losses.contrast import contrast_distance
from distill.losses.kl import KL, soften
from distill.schemes.base import Batch, Needs, Scheme, TeacherBatch, mean_where
from distill.schemes.supervised import segmentation
from distill.weights import LAWS, mixture, teacher_losses
from models.knowledge import attention_map, region_contrast


class Amtkd(Scheme):
    """All teachers, each slice listening most to those that do best on it (AMTKD, Eq. 1 to 7)."""

    @property
    def needs(self) -> Needs:
        """Logits alone where `alpha` is 0."""
        return Needs(contents=("logits", "attention", "contrast") if self.plan.amtkd.alpha else ("logits",))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """KD = Seg + alpha Mid + beta KL (Eq. 6), Mid and the mixture of teachers weighted a slice (Eq. 7).

        KL and attention are means over the slices that some teacher answered, contrast over those also outlined.
        """
        if batch.teachers is None:
            raise ValueError("this scheme needs teachers, the batch has none")
        plan, teachers = self.plan.amtkd, batch.teachers
        with models.tap(self.student, models.TAPS if plan.alpha else ()) as features:
            logits = self.student(batch.images).float()
        weights = self.weights(teachers, batch.masks, batch.labelled)
        heard = weights.sum(1) > 0
        target = mixture(soften(teachers.logits, plan.temperature, dim=2), weights)
        kl = KL[plan.kl](logits, target, temperature=plan.temperature)
        terms = segmentation(logits, batch, plan) | {"kl": plan.beta * mean_where(kl, heard)}
        if plan.alpha:
            attention = (weights * attention_distances(features, teachers, scaled=plan.attention == "scaled")).sum(1)
            contrast = (weights * contrast_distances(features, teachers, batch.masks, self.classes)).sum(1)
            terms["attention"] = plan.alpha * mean_where(attention, heard)
            terms["contrast"] = plan.alpha * mean_where(contrast, heard & batch.labelled)
        return terms

    @torch.no_grad()
    def weights(self, teachers: TeacherBatch, masks: Tensor, labelled: Tensor) -> Tensor:
        """w_j of section 3.3, (N, T), by the plan's law from each teacher's Dice loss on each slice."""
        losses = teacher_losses(teachers.logits.softmax(2), masks, labelled, teachers.answered)
        return LAWS[self.plan.amtkd.law](losses, teachers.answered)


def attention_distances(features: dict[str, Tensor], teachers: TeacherBatch, *, scaled: bool) -> Tensor:
    """AT of every teacher, summed over taps, (N, T). Source: AMTKD, Eq. 3.

    `scaled` divides it by the side of the student's grid, into [0, 2] a tap. Departs: as printed a tap at half the
    slice's size weighs four times one at an eighth, and at the paper's alpha it drowns every other term.
    """
    total = torch.zeros(teachers.answered.shape, device=teachers.answered.device)
    for tap in models.TAPS:
        own = attention_map(features[tap].float())
        distances = torch.stack([attention_transfer(own, theirs) for theirs in teachers.attention[tap]], dim=1)
        total = total + distances / (math.sqrt(own[0].numel()) if scaled else 1.0)
    return total


def contrast_distances(features: dict[str, Tensor], teachers: TeacherBatch, masks: Tensor, classes: int) -> Tensor:
    """Region contrast's distance to every teacher, summed over taps, (N, T). Source: AMTKD, Eq. 4.

    The student's regions are those of its augmented mask, a teacher's those of the slice it was sent.
    """
    n, t = teachers.answered.shape
    total = torch.zeros(n, t, device=masks.device)
    for tap in models.TAPS:
        own, measured = region_contrast(features[tap].float(), masks, classes)
        valid = measured[:, None] & teachers.valid[tap]
        student = own[:, None].expand_as(valid)
        total = total + contrast_distance(
            student.flatten(0, 1), teachers.contrast[tap].flatten(0, 1), valid.flatten(0, 1)
        ).view(n, t)
    return total
