"""Ways to train a network by itself, a file each: at a hospital its teacher, centrally a student on masks alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from torch import nn

from study.dsd_table import Dsd as DsdTable
from study.dsd_table import Missu as MissuTable
from study.learners.base import Learner
from study.learners.dsd import Dsd
from study.learners.missu import Missu
from study.learners.mod import Mod
from study.learners.probe import Probe
from study.mod_table import Mod as ModTable

__all__ = ["ALONE", "Alone", "Learner", "Probe", "Shown", "Tables", "create"]

Alone = Literal["dsd", "missu", "mod"]
ALONE: tuple[Alone, ...] = get_args(Alone)
"""Ids of schemes that need no teacher from elsewhere, and more than a loss on masks."""


class Tables(Protocol):
    """`[teacher]` or `[distill]` of a study."""

    @property
    def dsd(self) -> DsdTable: ...
    @property
    def missu(self) -> MissuTable: ...
    @property
    def mod(self) -> ModTable: ...


@dataclass(frozen=True)
class Shown:
    """What a network is shown in training: `size` of its slices or patches, their channels, and what lies on them."""

    size: tuple[int, ...]
    channels: int
    classes: int
    regions: tuple[tuple[int, ...], ...] = ()
    """Unions of classes, `task.regions` as numbers."""


def create(scheme: Alone, student: nn.Module, tables: Tables, shown: Shown, *, steps: int) -> Learner:
    """That scheme around a network, for a training of so many steps.

    Raises: InputError where the network has not what the scheme attaches to.
    """
    if scheme == "missu":
        return Missu(student, tables.missu, size=shown.size, in_channels=shown.channels)
    look: dict[str, Any] = {"classes": shown.classes, "size": shown.size, "in_channels": shown.channels}
    if scheme == "mod":
        return Mod(student, tables.mod, **look, steps=steps, regions=shown.regions)
    return Dsd(student, tables.dsd, **look)
