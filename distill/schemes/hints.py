"""FitNet's hints: a student's features, translated into each teacher's channels (Romero et al. 2015)."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.schemes.base import Batch, TeacherBatch, teachers_of
from distill.schemes.taught import Taught
from models.contents import Content
from models.knowledge import enlarged
from study.prediction import channels_of


class Hints(nn.Module):
    """A 1×1 convolution a teacher, from the student's channels to that teacher's; it exists only in training."""

    NAME = "features/decoder"

    def __init__(self, channels: int, teachers: TeacherBatch) -> None:
        super().__init__()
        widths = [one[self.NAME].shape[1] if self.NAME in one else 0 for one in teachers.told]
        of_patches = any(one[self.NAME].ndim == 5 for one in teachers.told if self.NAME in one)
        kind = nn.Conv3d if of_patches else nn.Conv2d
        self.translate = nn.ModuleList(kind(channels, width, 1) if width else nn.Identity() for width in widths)

    def distances(self, features: Tensor, teachers: TeacherBatch) -> Tensor:
        """Mean squared difference of unit features a slice and teacher, (N, T); 0 for a teacher without features.

        Shapes: features (N, c, h, w), brought to each teacher's grid. Source: AMTML-KD's code, whose features have unit
        length before and not after the convolution.
        """
        units, found = F.normalize(features, dim=1), []
        for translate, told in zip(self.translate, teachers.told, strict=True):
            if self.NAME not in told:
                found.append(features.new_zeros(len(features)))
                continue
            theirs = told[self.NAME].float()
            ours = enlarged(translate(units), theirs.shape[2:])
            found.append((ours - F.normalize(theirs, dim=1)).square().flatten(1).mean(1))
        return torch.stack(found, dim=1)


class Hinted(Taught):
    """A scheme that learns from logits, and from hints where they weigh anything."""

    @property
    @abstractmethod
    def hints_weight(self) -> float:
        """0: no features are asked for."""

    @property
    def contents(self) -> tuple[Content, ...]:
        return ("logits", "features") if self.hints_weight else ("logits",)

    @property
    def taps(self) -> tuple[str, ...]:
        return ("decoder",) if self.hints_weight else ()

    def adapt(self, sample: Batch) -> None:
        super().adapt(sample)
        if self.hints_weight:
            self.hints = Hints(channels_of(self.student, sample.images, "decoder"), teachers_of(sample))
