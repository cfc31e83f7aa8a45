"""All the state of a training in one file, whole or absent: `checkpoint.pt`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import Precision
from torch import Tensor, nn

from imaging.atomic import clear, replacing
from imaging.errors import InputError
from study.envelope import digest

FILE = "checkpoint.pt"
Weights = dict[str, Tensor]
Identity = dict[str, int | str]


@dataclass(frozen=True)
class Validation:
    """One validation: steps done, mean of every loss term since the last one, Dice, seconds since the last one."""

    step: int
    terms: dict[str, float]
    dice: float | None
    """None where there is nothing to validate on."""
    seconds: float

    @property
    def loss(self) -> float:
        """Mean training loss since the last validation."""
        return sum(self.terms.values())


@dataclass
class State:
    """Where a training stands, outside the network's and the optimiser's own state."""

    step: int = 0
    """Steps done."""
    best_step: int = 0
    best_dice: float | None = None
    best: Weights | None = None
    """None: the network's own weights are the best, for want of a validation."""
    history: list[Validation] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    """Of the loss terms since the last validation."""
    seconds: float = 0.0
    """Since the last validation."""

    @property
    def idle(self) -> int:
        """Validations since the highest Dice; the smoothed one goes on rising for long after."""
        dice = [validation.dice for validation in self.history if validation.dice is not None]
        return len(dice) - 1 - dice.index(max(dice)) if dice else 0

    def count(self, terms: dict[str, float], *, seconds: float) -> None:
        """One step more."""
        self.step += 1
        for name, value in terms.items():  # a step may lack a term: a batch that no teacher has answered
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.seconds += seconds

    def judge(self, dice: float | None, network: nn.Module, *, keep: float, seconds: float) -> Validation:
        """Enter a validation into the history; these weights are the best where Dice, smoothed, is higher than ever."""
        since = self.step - (self.history[-1].step if self.history else 0)
        terms = {name: total / since for name, total in self.sums.items()}
        validation = Validation(self.step, terms, dice, self.seconds + seconds)
        self.history.append(validation)
        self.sums, self.seconds = {}, 0.0
        *earlier, trend = smoothed([past.dice for past in self.history if past.dice is not None], keep=keep) or [0.0]
        if dice is None:
            self.best_step = self.step
        elif not earlier or trend > max(earlier):
            self.best_step, self.best_dice = self.step, dice
            self.best = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        return validation


def smoothed(dice: list[float], *, keep: float) -> list[float]:
    """Mean of each Dice and all before it, the one before counting `keep` times as much, and so on.

    No more is left of the first ones, which are near 0, than that: a moving average that begins at them goes on rising
    long after training has begun to lose.
    """
    sums = accumulate(dice, lambda past, new: keep * past + new)
    weights = accumulate(dice, lambda past, _: keep * past + 1, initial=0.0)
    return [total / weight for total, weight in zip(sums, islice(weights, 1, None), strict=True)]


def keep_of(validations: int) -> float:
    """How much of its past a smoothed Dice keeps in a training of so many validations, 0 to 0.9.

    The one lucky epoch of a validation on few patients is not taken for the best: nnU-Net (Isensee et al. 2021) picks
    its best checkpoint by Dice smoothed with 0.9. Departs: that looks back over some ten validations, of its thousand;
    a training of few would only ever keep its last weights, so ours looks back over a twelfth of them, ten at most.
    """
    return 1 - 1 / min(max(validations / 12, 1), 10)


def begun(folder: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    return (folder / FILE).exists()


def save(
    state: State,
    folder: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    scaling: Precision,
    *,
    identity: Identity,
) -> None:
    """Put all the state into `folder`, in place of what was there; `scaling` has some only under 16-mixed."""
    weights = network.state_dict()
    content = {
        "identity": identity,
        "state": vars(state) | {"best": None, "history": [asdict(item) for item in state.history]},
        "weights": weights,
        "optimiser": optimiser.state_dict(),
        "best": weights if state.best is None else state.best,
        "scaling": scaling.state_dict(),
    }
    with replacing(folder / FILE) as temporary:
        try:
            torch.save(content | {"seal": _seal(content)}, temporary)
        except RuntimeError as error:  # torch's word for a full disk
            raise InputError(
                "the checkpoint cannot be written", where=folder, fix="free some space and run again"
            ) from error


def restore(
    folder: Path, network: nn.Module, optimiser: torch.optim.Optimizer, scaling: Precision, *, identity: Identity
) -> State:
    """The state that `folder` holds, with network and optimiser set to it; a fresh one where it holds none.

    Raises: InputError when the checkpoint is damaged or belongs to another training.
    """
    clear(folder / FILE)  # a teacher's is near 1 GB
    if not (folder / FILE).exists():
        return State()
    content = _load(folder)
    for key, ours in identity.items():
        theirs = content["identity"].get(key)
        if theirs != ours:
            raise InputError(f"the checkpoint is of another training: its {key} differs", where=folder, fix=REMEDY)
    try:
        network.load_state_dict(content["weights"])
        optimiser.load_state_dict(content["optimiser"])
        scaling.load_state_dict(content["scaling"])
    except (RuntimeError, ValueError) as error:
        raise InputError("the checkpoint is of another network", where=folder, fix=REMEDY) from error
    fields = content["state"] | {"history": [Validation(**item) for item in content["state"]["history"]]}
    return State(**fields | {"best": content["best"] if fields["best_dice"] is not None else None})


def load_best(folder: Path) -> Weights:
    """The best weights so far, on the CPU; InputError where there are none or the file is damaged."""
    if not (folder / FILE).exists():
        raise InputError("holds no checkpoint", where=folder, fix="train first")
    best: Weights = _load(folder)["best"]
    return best


def weights_hash(weights: Weights) -> str:
    """SHA-256 over names, types, shapes and values: the same for the same weights wherever they lie."""
    return digest({name: tensor.detach().cpu().numpy() for name, tensor in weights.items()})


REMEDY = "remove the folder to train from the start"


def _load(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content.pop("seal") != _seal(content):
            raise ValueError("damaged")
        content.setdefault("scaling", {})  # before there was mixed precision
        if set(content) != {"identity", "state", "weights", "optimiser", "best", "scaling"}:
            raise ValueError("other contents")
    except Exception as error:  # torch raises whatever its readers raise: RuntimeError, EOFError, UnpicklingError, …
        raise InputError("is damaged or no checkpoint of ours", where=path, fix=REMEDY) from error
    return dict(content)


def _seal(content: dict[str, Any]) -> str:
    """SHA-256 of it all: torch.load takes flipped bits for weights."""
    tensors: Weights = {}

    def plain(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value
            return None
        if isinstance(value, dict):
            return {str(key): plain(member, f"{path}/{key}") for key, member in value.items()}
        if isinstance(value, list | tuple):
            return [plain(member, f"{path}/{index}") for index, member in enumerate(value)]
        return value

    rest = json.dumps(plain(content, ""), sort_keys=True)
    return hashlib.sha256(f"{weights_hash(tensors)}{rest}".encode()).hexdigest()
