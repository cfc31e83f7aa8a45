"""What every training scheme is, what it may ask for, and the batch that it is handed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from study.plan import Distill


@dataclass(frozen=True)
class Needs:
    """What a scheme cannot do without."""

    teachers: Literal["none", "one", "all"] = "all"
    contents: tuple[str, ...] = ("logits",)
    """Of `study.answers.CONTENTS`: what every teacher must have been allowed to say."""
    unlabelled: bool = True
    """Whether a slice without a mask teaches anything; if not, batches are drawn from slices with one."""


class Portable:
    """A frozen dataclass of tensors that goes to a device as a whole."""

    def to(self, device: torch.device, **options: Any) -> Self:
        """The same with every tensor on `device`."""
        return type(self)(**{f.name: _to(getattr(self, f.name), device, options) for f in fields(self)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class TeacherBatch(Portable):
    """What T teachers say of N slices. Everything a teacher did not answer is zero.

    `logits` (N, T, C, H, W); `attention` {tap: T maps (N, h, w)}, every teacher on its own grid; `contrast` {tap:
    (N, T, P)} and `valid` {tap: (N, T, P) bool}, P = C (C - 1) / 2 class pairs; `answered` (N, T) bool.
    """

    logits: Tensor
    answered: Tensor
    attention: dict[str, list[Tensor]] = field(default_factory=dict)
    contrast: dict[str, Tensor] = field(default_factory=dict)
    valid: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch(Portable):
    """N of the student's slices, augmented, and what the teachers say of them, moved alike.

    `images` (N, 1, H, W) float32; `masks` (N, H, W) uint8, 255 throughout where a slice has none; `labelled` (N,) bool.
    """

    images: Tensor
    masks: Tensor
    labelled: Tensor
    teachers: TeacherBatch | None = None


class Scheme(nn.Module, ABC):
    """A way to train a student. It owns all that exists only in training; `student` leaves with nothing of it inside.

    A new scheme is one file beside this one and one line in `distill.schemes.SCHEMES`; the first line of its docstring
    is what `preceptor schemes` prints.
    """

    def __init__(self, student: nn.Module, plan: Distill, classes: int) -> None:
        super().__init__()
        self.student, self.plan, self.classes = student, plan, classes

    @property
    def network(self) -> nn.Module:
        """Everything with weights or state, for the training loop."""
        return self

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What this scheme cannot do without, under its plan."""

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted loss terms by name, scalars; the training descends their sum."""

    def weights(self, teachers: TeacherBatch, masks: Tensor, labelled: Tensor) -> Tensor:
        """How much each teacher is heard on each slice, (N, T): here alike, w_j = 1/T for all that answered."""
        return teachers.answered / teachers.answered.sum(1, keepdim=True).clamp_min(1)


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` (N,) over the slices that `where` (N,) bool names; 0 where it names none."""
    return values.where(where, 0.0).sum() / where.sum().clamp_min(1)


def _to(value: Any, device: torch.device, options: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {name: _to(item, device, options) for name, item in value.items()}
    if isinstance(value, list):
        return [_to(item, device, options) for item in value]
    return value if value is None else value.to(device, **options)
