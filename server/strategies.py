"""Flower's own strategies over plain arrays: what becomes of the sites' weights, round after round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx
from numpy.typing import NDArray

from study.envelope import Arrays
from study.plan import Averaging

COUNT = "num-examples"
"""Flower's name for how much a site counts."""
MOMENTS = {"m": "m_t", "v": "v_t"}
"""What a strategy remembers between rounds, by FedAdam's attributes; the others remember nothing."""
Sites = Sequence[tuple[Arrays, int]]
"""Each site's weights, and its number of training slices."""


def flower(label: str, plan: Averaging) -> FedAvg:
    """Flower's strategy of that name, with the study's settings."""
    if label == "fedadam":
        return FedAdam(eta=plan.server_lr)
    return FedProx(proximal_mu=plan.mu) if label == "fedprox" else FedAvg()


class Average:
    """One strategy on its way: the common `weights`, and what it remembers of the rounds before.

    Only what is `learned` follows the strategy. Batch norm's statistics are the sites' weighted mean under each of
    them: an adaptive step may take a variance below 0.
    """

    def __init__(self, strategy: FedAvg, weights: Arrays, learned: Sequence[str]) -> None:
        self.strategy, self.weights, self.learned = strategy, weights, set(learned)

    def arrays(self) -> Arrays:
        """All its state, to be kept between rounds."""
        kept = {name: getattr(self.strategy, attribute, None) or {} for name, attribute in MOMENTS.items()}
        parts = {"weights": self.weights, **kept}
        return {f"{part}/{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    def restore(self, kept: Arrays) -> None:
        """Go on from what `arrays` gave."""
        self.weights = _under("weights", kept)
        for part, attribute in MOMENTS.items():
            if moments := _under(part, kept):
                setattr(self.strategy, attribute, moments)

    def close(self, number: int, sites: Sites) -> None:
        """Round `number`, counted from 1: the sites' weights become the common weights."""
        if isinstance(self.strategy, FedAdam):  # as its configure_train would, which chooses nodes too: ours are asked
            self.strategy.current_arrays = self._part(self.weights, learned=True)
        learned = aggregated(self.strategy, number, [(self._part(own, learned=True), count) for own, count in sites])
        rest = aggregated(FedAvg(), number, [(self._part(own, learned=False), count) for own, count in sites])
        self.weights = {name: _as(old, (learned | rest)[name]) for name, old in self.weights.items()}

    def _part(self, arrays: Arrays, *, learned: bool) -> Arrays:
        return {name: arrays[name] for name in self.weights if (name in self.learned) == learned}


def _under(part: str, kept: Arrays) -> Arrays:
    return {name.removeprefix(f"{part}/"): array for name, array in kept.items() if name.startswith(f"{part}/")}


def aggregated(strategy: FedAvg, number: int, sites: Sites) -> Arrays:
    """What Flower's `aggregate_train` makes of these arrays; {} where there is none."""
    replies = [_message(arrays, count) for arrays, count in sites if arrays]
    record, _ = strategy.aggregate_train(number, replies)
    return {name: array.numpy() for name, array in record.items()} if record else {}


def _message(arrays: Arrays, count: int) -> Message:
    """A site's reply, as Flower's strategies expect it."""
    record = ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})
    return Message(RecordDict({"arrays": record, "metrics": MetricRecord({COUNT: count})}), 1, "train")


def _as(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    """The new array in the old one's type; a mean of counts is a whole number again."""
    return np.asarray(np.rint(new) if np.issubdtype(old.dtype, np.integer) else new, old.dtype)
