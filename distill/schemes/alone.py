"""Schemes without teachers from elsewhere: the student learns from masks and from itself."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from distill.schemes.base import Batch, Needs, Scheme
from study import learners
from study.learners import Alone, Learner, Shown
from study.plan import Distill


class ByItself(Scheme):
    """What these have in common: a learner that is made when the first patch is known, and trained in its place."""

    needs = Needs(teachers="none", contents=(), unlabelled=False)
    kind: ClassVar[Alone]

    def __init__(self, student: nn.Module, plan: Distill, classes: int) -> None:
        super().__init__(student, plan, classes)
        self.learner: Learner | None = None

    @property
    def network(self) -> nn.Module:
        return self.made.network

    @property
    def shipped(self) -> nn.Module:
        return self.made.shipped

    @property
    def made(self) -> Learner:
        """The learner; ValueError before `adapt`."""
        if self.learner is None:
            raise ValueError("adapt() makes what this scheme trains")
        return self.learner

    def adapt(self, sample: Batch) -> None:
        channels, *size = sample.images.shape[1:]
        self.learner = self.learner_for(Shown(tuple(size), channels, self.classes, self.unions))

    def learner_for(self, shown: Shown) -> Learner:
        """What is trained, for slices or patches of that kind."""
        return learners.create(self.kind, self.student, self.plan, shown, steps=self.plan.steps)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return self.made.loss(batch.images[batch.labelled], batch.masks[batch.labelled].long())

    def settle(self, step: int) -> None:
        """See `study.training.Settling`."""
        self.made.settle(step)


class Dsd(ByItself):
    """Dual self-distillation: encoder and decoder stages of a U learn from one another (Banerjee et al. 2025)."""

    kind = "dsd"


class Missu(ByItself):
    """Encoder stages that learn from multi-scale blocks on themselves: DSD's competitor (Wang et al. 2023)."""

    kind = "missu"


class Mod(ByItself):
    """Online self-distillation and self-modelling on masked views (Pang et al. 2024)."""

    kind = "mod"


class Probe(ByItself):
    """Linear probing of a trained student: a new output layer alone learns (MOD, section IV-E, Table III)."""

    def learner_for(self, shown: Shown) -> Learner:
        return learners.Probe(
            self.student, classes=shown.classes, size=shown.size, in_channels=shown.channels, regions=shown.regions
        )
