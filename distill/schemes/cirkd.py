"""CIRKD: how the pixels of all images are related to each other (Yang et al. 2022)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.losses.cross_entropy import cross_entropy
from distill.losses.kl import teacher_first_kl
from distill.losses.structure import cross_image_distance, relation_kl
from distill.schemes.base import Batch, TeacherBatch, teachers_of
from distill.schemes.memory import Memory
from distill.schemes.taught import Lesson, Taught, Told, labelled_mean
from models.contents import Content
from models.knowledge import region_means, region_shares
from study.prediction import channels_of

NAME = "features/decoder"
DRAWN = 16
"""Pixels of each class that one slice gives to the memory."""


class Cirkd(Taught):
    """How pixels of all images, and remembered ones, are related to each other (Yang et al. 2022, v1).

    Departs: the memory is drawn from the pixels of a class, not from as many pixels of any; it takes a batch after the
    loss has read it; it holds nothing until something was put in, where their code has noise.
    """

    volumes = False

    @property
    def contents(self) -> tuple[Content, ...]:
        return ("logits", "features")

    @property
    def taps(self) -> tuple[str, ...]:
        return ("decoder",)

    def adapt(self, sample: Batch) -> None:
        """A head and two memories a teacher, as wide as that teacher's features."""
        super().adapt(sample)
        plan, teachers = self.plan.cirkd, teachers_of(sample)
        channels = channels_of(self.student, sample.images, "decoder")
        widths = [one[NAME].shape[1] if NAME in one else 1 for one in teachers.told]
        self.heads = nn.ModuleList(_head(channels, width) for width in widths)
        self.pixels = nn.ModuleList(Memory(self.classes, plan.pixels, width) for width in widths)
        self.regions = nn.ModuleList(Memory(self.classes, plan.regions, width) for width in widths)

    def terms(self, lesson: Lesson) -> dict[str, Tensor]:
        plan, teachers = self.plan.cirkd, lesson.teachers
        kl = teacher_first_kl(lesson.logits, lesson.target(1.0), temperature=1.0)
        terms = {"kl": plan.kd * lesson.mean(kl)}
        found = [self._relations(lesson, j, told) for j, told in enumerate(teachers.told)]
        batch, pixel, region = (lesson.over(NAME, each) for each in zip(*found, strict=True))
        terms |= {"batch": plan.batch * batch, "pixel": plan.pixel * pixel, "region": plan.region * region}
        if self.training:
            self._remember(teachers, lesson.batch)
        return terms

    def _relations(self, lesson: Lesson, j: int, told: Told) -> list[Tensor]:
        """Distances a slice, each (N,): within the batch, to remembered pixels, to remembered regions."""
        plan, features = self.plan.cirkd, lesson.features["decoder"]
        if NAME not in told:
            return [features.new_zeros(len(features))] * 3
        theirs = told[NAME].float()
        sides = (min(plan.grid, features.shape[2], theirs.shape[2]), min(plan.grid, features.shape[3], theirs.shape[3]))
        ours, theirs = F.adaptive_avg_pool2d(features, sides), F.adaptive_avg_pool2d(theirs, sides)
        within = cross_image_distance(ours, theirs, lesson.teachers.answered[:, j], temperature=plan.temperature)
        translated = self.heads[j](ours)
        remembered = [
            _to_memory(translated, theirs, _memory(one, j), plan.temperature) for one in (self.pixels, self.regions)
        ]
        return [within, *remembered]

    @torch.no_grad()
    def _remember(self, teachers: TeacherBatch, batch: Batch) -> None:
        for j, told in enumerate(teachers.told):
            has = batch.labelled & teachers.answered[:, j]
            if NAME not in told or not has.any():
                continue
            features, masks = told[NAME][has].float(), batch.masks[has]
            means, area, _ = region_means(features, masks, self.classes)
            purest = region_shares(masks, self.classes, features)[0].argmax(1)
            pixels, regions = _memory(self.pixels, j), _memory(self.regions, j)
            for k in range(self.classes):
                regions.add(k, means[area[:, k] > 0, k])
                of_class = features.movedim(1, 3)[purest == k]
                drawn = torch.randperm(len(of_class), device=features.device)[: DRAWN * len(features)]
                pixels.add(k, of_class[drawn])

    def segmentation(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"ce": labelled_mean(cross_entropy, logits, batch)}


def _memory(memories: nn.ModuleList, j: int) -> Memory:
    return cast("Memory", memories[j])


def _head(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1))


def _to_memory(student: Tensor, teacher: Tensor, memory: Memory, temperature: float) -> Tensor:
    """Mean over pixels of the KL of relations to what is remembered, (N,); 0 while nothing is."""
    known = memory.known()
    if len(known) < 2:
        return student.new_zeros(len(student))
    ours, theirs = (F.normalize(one.flatten(2), dim=1).transpose(1, 2) @ known.T for one in (student, teacher))
    return relation_kl(ours, theirs, temperature=temperature).mean(1)
