"""The one training loop, for teachers and students: one seed gives one network, bit for bit, killed or not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from study.checkpoint import State, Validation, keep_of, load_best, restore, save, weights_hash
from study.deterministic import deterministic, use_threads
from study.draws import derived
from study.prefetch import Batches, prefetched
from study.schedule import constant_lr, cyclic_lr
from study.together import finite, loss_of, place

__all__ = [
    "Batches", "Learner", "Outcome", "Progress", "TrainPlan", "Validation", "constant_lr", "cyclic_lr", "evaluating",
    "fit", "load_best", "use_threads", "weights_hash",
]  # fmt: skip

B_contra = TypeVar("B_contra", contravariant=True)
B = TypeVar("B")


class Learner(Protocol[B_contra]):
    """What is trained: a network with everything that has state, heads that only training needs included."""

    @property
    def network(self) -> nn.Module: ...

    def loss(self, batch: B_contra, /) -> dict[str, Tensor]:
        """Weighted terms by name, scalars; their sum is descended."""


@runtime_checkable
class Settling(Protocol):
    """A learner with something to do after each step, such as a moving average of its network."""

    def settle(self, step: int) -> None:
        """Called after each optimiser step; `step` are done."""


@dataclass(frozen=True)
class TrainPlan:
    """How long and how fast; `steps`, `seed`, `every` and `identity` are what a checkpoint must agree with."""

    steps: int
    lr: Callable[[int], float]
    """Learning rate of a step, counted from 0."""
    seed: int
    every: int
    """Steps between two validations, each with a checkpoint; the last step has both, whatever it is."""
    patience: int | None = None
    """Validations without a higher Dice before training ends; None trains to `steps`."""
    clip_norm: float | None = None
    """Largest L2 norm of all gradients together; None leaves them as they are."""
    weight_decay: float = 0.0
    """Decoupled from the gradient (AdamW, Loshchilov and Hutter 2019), where it is above 0."""
    own_rates: Mapping[str, float] = field(default_factory=dict)
    """Learning rates of parts of the network, by module name, that keep theirs throughout instead of following `lr`."""
    identity: str = ""
    """Hash of what else must not change between two parts of one training: data, network, loss."""


@dataclass(frozen=True)
class Progress:
    """One step done: its terms and, where it was validated, how that went."""

    step: int
    """Steps done, this one included."""
    steps: int
    terms: dict[str, float]
    validation: Validation | None
    best_dice: float | None = None
    """Validation Dice of the weights that would be kept if it ended here."""


@dataclass(frozen=True)
class Outcome:
    """Where training stands; `load_best(folder)` holds the weights of `best_step`."""

    step: int
    finished: bool
    """True at the last step, or when patience ended it."""
    best_step: int
    best_dice: float | None
    """Validation Dice at `best_step`, which smoothed Dice chose; None before the first validation.

    None where there is nothing to validate on too: best is the last then.
    """
    history: tuple[Validation, ...]


def fit(
    learner: Learner[B],
    batches: Batches[B],
    plan: TrainPlan,
    folder: Path,
    *,
    validate: Callable[[], float] | None,
    until: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    fabric: Fabric | None = None,
) -> Outcome:
    """Train to `plan.steps` from where `folder`'s checkpoint stands, or only to step `until`; call again to go on.

    Where `fabric` has several processes, each has `batches` of its own, gradients are their mean, and the first one
    alone validates, writes and tells progress.

    `validate` gives a Dice in [0, 1] (None: nothing to validate on, the last weights are the best). Adam, betas (0.9,
    0.999). Every step reseeds torch from (seed, step), so weights, optimiser and step are all the state there is.
    Raises: InputError naming term and step when a loss is not finite; the last checkpoint stays.
    """
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    network, scaling = fabric.to_device(learner.network), fabric.strategy.precision
    adam = _adam(network, plan)
    state = restore(folder, network, adam, scaling, identity=_identity(plan))
    loss = loss_of(learner, fabric)
    optimiser = cast("torch.optim.Optimizer", fabric.setup_optimizers(adam))
    stop = plan.steps if until is None else min(until, plan.steps)
    steps = range(state.step, state.step if _ended(state, plan) else stop)
    network.train()
    with deterministic(fabric.device), prefetched(batches, steps) as due:
        for step, batch in zip(steps, due, strict=True):
            started = time.monotonic()
            torch.manual_seed(derived(plan.seed, "step", step, *place(fabric)))
            with fabric.autocast():
                terms = loss(fabric.to_device(batch))
            values = finite(terms, step, folder, fabric)
            fabric.backward(torch.stack(list(terms.values())).sum())
            _descend(network, optimiser, fabric, lr=plan.lr(step), clip_norm=plan.clip_norm)
            state.count(values, seconds=time.monotonic() - started)
            if isinstance(learner, Settling):
                learner.settle(state.step)
            validation = _validated(state, plan, network, validate, fabric)
            if fabric.is_global_zero and progress is not None:  # first: what is told twice after a kill is mended
                progress(Progress(state.step, plan.steps, values, validation, state.best_dice))
            if fabric.is_global_zero and (validation or state.step == stop):
                save(state, folder, network, adam, scaling, identity=_identity(plan))
            if _ended(state, plan):
                break
    fabric.barrier()  # the last checkpoint is there for all
    return Outcome(state.step, _ended(state, plan), state.best_step, state.best_dice, tuple(state.history))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Without gradients and with dropout and batch norm at rest; back to what it was on exit."""
    was = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was)


def _adam(network: nn.Module, plan: TrainPlan) -> torch.optim.Adam:
    """Adam, or AdamW where weights decay."""
    groups = _groups(network, plan.own_rates)
    if plan.weight_decay:
        return torch.optim.AdamW(groups, lr=plan.lr(0), betas=(0.9, 0.999), weight_decay=plan.weight_decay)
    return torch.optim.Adam(groups, lr=plan.lr(0), betas=(0.9, 0.999))


def _groups(network: nn.Module, own_rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """What is descended: all that learns under the plan's rate, and each part with a rate of its own."""
    apart = {name: [w for w in network.get_submodule(name).parameters() if w.requires_grad] for name in own_rates}
    taken = {id(w) for part in apart.values() for w in part}
    common = [w for w in network.parameters() if w.requires_grad and id(w) not in taken]
    own = [{"params": part, "lr": own_rates[name], "own_rate": True} for name, part in apart.items()]
    return [{"params": common}, *own]


def _descend(
    network: nn.Module, optimiser: torch.optim.Optimizer, fabric: Fabric, *, lr: float, clip_norm: float | None
) -> None:
    """One step down the gradients, which are used up."""
    for group in optimiser.param_groups:
        if "own_rate" not in group:
            group["lr"] = lr
    if clip_norm is not None:  # where one is infinite, 16-mixed leaves the step out by itself
        fabric.clip_gradients(network, optimiser, max_norm=clip_norm, error_if_nonfinite=False)
    optimiser.step()
    optimiser.zero_grad()


def _validated(
    state: State, plan: TrainPlan, network: nn.Module, validate: Callable[[], float] | None, fabric: Fabric
) -> Validation | None:
    """Validate where it is due, in the first process, and remember the weights if they are the best so far."""
    if state.step % plan.every and state.step != plan.steps:
        return None
    started = time.monotonic()
    dice = None
    if validate is not None and fabric.is_global_zero:
        with evaluating(network):
            dice = float(validate())
        if math.isnan(dice):
            raise ValueError("validate() gave NaN: leave undefined cases out of the mean")
    dice = fabric.broadcast(dice)
    keep = keep_of(math.ceil(plan.steps / plan.every))
    return state.judge(dice, network, keep=keep, seconds=time.monotonic() - started)


def _ended(state: State, plan: TrainPlan) -> bool:
    if state.step >= plan.steps:
        return True
    return plan.patience is not None and state.idle >= plan.patience


def _identity(plan: TrainPlan) -> dict[str, int | str]:
    return {"seed": plan.seed, "steps": plan.steps, "every": plan.every, "identity": plan.identity}
