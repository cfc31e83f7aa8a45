"""What every training scheme is, what it may ask for, and the batch that it is handed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from study.plan import Distill


@dataclass(frozen=True)
class Needs:
    """What a scheme cannot do without."""

    teachers: Literal["none", "one", "all"] = "all"
    contents: tuple[str, ...] = ("logits",)
    """Of `models.contents.CONTENTS`: what some teacher must have been allowed to say, and the logits every one."""
    unlabelled: bool = True
    """Whether a slice without a mask teaches anything; if not, batches are drawn from slices with one."""
    record: bool = False
    """Whether each teacher's record on the outlined slices is looked up before the first step."""


class Portable:
    """A frozen dataclass of tensors that goes to a device as a whole."""

    def to(self, device: torch.device, **options: Any) -> Self:
        """The same with every tensor on `device`."""
        return type(self)(**{f.name: _to(getattr(self, f.name), device, options) for f in fields(self)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class TeacherBatch(Portable):
    """What T teachers say of N slices or patches. Everything a teacher did not answer is zero.

    `logits` (N, T, C, H, W), of patches (N, T, C, D, H, W); `answered` (N, T) bool; `told` for each teacher what else
    it gave: arrays (N, …) under the names of `models.contents`, on that teacher's own grid; `sites` the teachers'
    names; `record` (T,) how they did on the outlined slices (`weights.track_record`), where a scheme asked for it and
    some slice is outlined.
    """

    logits: Tensor
    answered: Tensor
    told: list[dict[str, Tensor]] = field(default_factory=list)
    sites: tuple[str, ...] = ()
    record: Tensor | None = None

    def gives(self, name: str) -> Tensor:
        """Whether each teacher gave that array at all, (T,) bool."""
        return torch.tensor([name in one for one in self.told], device=self.answered.device)


@dataclass(frozen=True)
class Batch(Portable):
    """N of the student's slices, augmented, and what the teachers say of them, moved alike.

    `images` (N, c, H, W) float32; `masks` (N, H, W) uint8, 255 throughout where a slice has none; `labelled` (N,) bool.
    Of patches, each has a depth before its rows.
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

    volumes: ClassVar[bool] = True
    """Whether it takes patches of volumes as it takes slices."""
    unions: tuple[tuple[int, ...], ...] = ()
    """Regions that overlap, each as the classes that it consists of."""

    def __init__(self, student: nn.Module, plan: Distill, classes: int) -> None:
        super().__init__()
        self.student, self.plan, self.classes = student, plan, classes

    @property
    def network(self) -> nn.Module:
        """Everything with weights or state, for the training loop."""
        return self

    @property
    def shipped(self) -> nn.Module:
        """The network that is validated, and leaves."""
        return self.student

    @property
    def own_rates(self) -> Mapping[str, float]:
        """Learning rates of what does not follow the student's, by module name."""
        return {}

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What this scheme cannot do without, under its plan."""

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted loss terms by name, scalars; the training descends their sum."""

    def adapt(self, sample: Batch) -> None:
        """Make what exists only in training and depends on what is shown: called once, before the first step."""

    def weights(self, batch: Batch) -> Tensor:
        """How much each teacher is heard on each slice, (N, T): here alike, w_j = 1/T for all that answered."""
        answered = teachers_of(batch).answered
        return answered / answered.sum(1, keepdim=True).clamp_min(1)


def teachers_of(batch: Batch) -> TeacherBatch:
    """What the teachers say of a batch; ValueError where there are none."""
    if batch.teachers is None:
        raise ValueError("this scheme needs teachers, the batch has none")
    return batch.teachers


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` (N,) over the slices that `where` (N,) bool names; 0 where it names none."""
    return values.where(where, 0.0).sum() / where.sum().clamp_min(1)


def _to(value: Any, device: torch.device, options: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {name: _to(item, device, options) for name, item in value.items()}
    if isinstance(value, list):
        return [_to(item, device, options) for item in value]
    return value.to(device, **options) if isinstance(value, (Tensor, Portable)) else value
