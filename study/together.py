"""Several processes that train one network: each sees its part of every batch, and gradients are their mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imaging.errors import InputError

if TYPE_CHECKING:
    from study.training import Learner

B = TypeVar("B")


class _Forward(nn.Module, Generic[B]):
    """A learner's loss as a forward pass, whose gradients torch can average."""

    def __init__(self, learner: Learner[B]) -> None:
        super().__init__()
        self.network, self._learner = learner.network, learner

    def forward(self, batch: B) -> dict[str, Tensor]:
        return self._learner.loss(batch)


def loss_of(learner: Learner[B], fabric: Fabric) -> Callable[[B], dict[str, Tensor]]:
    """The learner's loss; where there are several processes they then hold the same weights and step alike."""
    if fabric.world_size == 1:
        return learner.loss
    return DistributedDataParallel(_Forward(learner), find_unused_parameters=True)  # a term may be absent in a step


def place(fabric: Fabric) -> tuple[int, ...]:
    """Added to the address of every draw, so that processes draw apart; the first draws as one alone would."""
    return (fabric.global_rank,) if fabric.global_rank else ()


def finite(terms: dict[str, Tensor], step: int, folder: Path, fabric: Fabric) -> dict[str, float]:
    """This process's terms as numbers, one transfer from the device for all.

    Raises: InputError, in every process, when a term of one is not finite.
    """
    stacked = torch.stack([term.detach().float() for term in terms.values()])
    values = dict(zip(terms, stacked.tolist(), strict=True))
    everywhere = _sum(stacked, fabric) if fabric.world_size > 1 else 0.0
    fix = "lower `lr` and run again"
    for name, value in values.items():
        if not math.isfinite(value):
            raise InputError(f"loss term `{name}` is {value} at step {step}", where=folder, fix=fix)
    if not math.isfinite(everywhere):
        raise InputError(f"a loss term of another process is {everywhere} at step {step}", where=folder, fix=fix)
    return values


def _sum(values: Tensor, fabric: Fabric) -> float:
    """Over all processes."""
    total = fabric.all_reduce(values.sum(), reduce_op="sum")
    return float(total) if isinstance(total, Tensor) else math.nan
