"""A training small enough to be killed often: run as a program, it trains in the folder that each line of input names.

Every line is answered with a process id, which may be killed, and with how it ended. Forked, so that torch is
imported once.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from study.draws import generator
from study.training import Outcome, TrainPlan, cyclic_lr, fit

STEPS, EVERY = 43, 3
Batch = tuple[Tensor, Tensor]


class Learner:
    """A network with batch norm and dropout, and two loss terms."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.network = nn.Sequential(
            nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.3), nn.ReLU(), nn.Conv2d(5, 2, 3)
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.network(batch[0])
        return {"fit": nn.functional.cross_entropy(logits, batch[1]), "size": 0.01 * logits.square().mean()}

    def agreement(self) -> float:
        """Share of pixels that are right in a batch apart from training's."""
        images, masks = Batches(seed=99)[0]
        return float((self.network(images).argmax(1) == masks).float().mean())


class Batches:
    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __getitem__(self, step: int) -> Batch:
        images = torch.from_numpy(generator(self.seed, "batch", step).normal(size=(3, 1, 11, 13)).astype("float32"))
        return images, (images[:, 0, 2:-2, 2:-2] > 0).long()


def plan(steps: int = STEPS, *, seed: int = 0, patience: int | None = None) -> TrainPlan:
    lr = partial(cyclic_lr, lr_min=1e-6, lr_max=0.01, half_cycle=7)
    return TrainPlan(steps=steps, lr=lr, seed=seed, every=EVERY, patience=patience)


def train(folder: Path, *, until: int | None = None) -> Outcome:
    torch.set_num_threads(1)
    learner = Learner()
    return fit(learner, Batches(), plan(), folder, validate=learner.agreement, until=until)


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            train(Path(line.strip()))
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
