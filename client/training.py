"""How a teacher is trained on the site's own slices; what leaves of it is its card."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from numpy.typing import NDArray
from torch import Tensor, nn

from client.scans import Scans
from client.site import SiteConfig
from client.status import Status
from client.teacher import alone, best_weights, build, folder_of
from imaging.augment import Augment, draw
from imaging.errors import InputError
from study import learners
from study.checkpoint import begun
from study.draws import derived, generator
from study.forecast import check_memory
from study.prediction import case_dice
from study.schedule import schedule
from study.training import Outcome, Progress, TrainPlan, fit, weights_hash
from study.wire import Assignment, Card, Epoch

Batch = tuple[Tensor, Tensor]
"""Images (N, c, *shape) float32 and masks (N, *shape) int64."""
log = logging.getLogger("client")


class Supervised:
    """A network under Dice and cross-entropy on outlined slices."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        # pooled over the batch, since a slice without foreground has no Dice of its own worth descending
        self._loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)

    def loss(self, batch: Batch, /) -> dict[str, Tensor]:
        images, masks = batch
        return {"dice_ce": self._loss(self.network(images), masks[:, None])}


class Outlined(Protocol):
    """Outlined slices or patches, which some are drawn of (`SliceCache.drawn`)."""

    def drawn(
        self, ids: NDArray[np.int64], random: np.random.Generator, *, foreground: float
    ) -> tuple[NDArray[np.float16], NDArray[np.uint8]]: ...


@dataclass(frozen=True)
class TrainSlices:
    """Batches of augmented slices or patches; each epoch has its own order, and leaves out what fills no batch."""

    cache: Outlined
    slices: NDArray[np.int64]
    batch: int
    seed: int
    augment: Augment = field(default_factory=Augment)

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return max(1, len(self.slices) // self.batch)

    def chosen(self, step: int) -> NDArray[np.int64]:
        """Numbers of that step's slices, or of patches that stand for their cases."""
        epoch, place = divmod(step, self.steps)
        order = generator(self.seed, "order", epoch).permutation(self.slices)
        return order[place * self.batch : (place + 1) * self.batch]

    def __getitem__(self, step: int, /) -> Batch:
        chosen = self.chosen(step)
        random, foreground = generator(self.seed, "crops", step), self.augment.foreground
        drawn, outlines = self.cache.drawn(chosen, random, foreground=foreground)
        images, masks = torch.from_numpy(drawn.astype(np.float32)), torch.from_numpy(outlines.astype(np.int64))
        warp = draw(self.augment, derived(self.seed, "augment", step), size=images.shape[2:], n=len(images))
        return warp.shade(warp.move(images)), warp.move_masks(masks)


class BySelf:
    """A network that learns from itself too (`study.learners`)."""

    def __init__(self, learner: learners.Learner) -> None:
        self.learner, self.network = learner, learner.network

    def loss(self, batch: Batch, /) -> dict[str, Tensor]:
        return self.learner.loss(*batch)

    def settle(self, step: int) -> None:
        """See `study.training.Settling`."""
        self.learner.settle(step)


@dataclass(frozen=True)
class Course:
    """The training of one site's teacher for one study: from whichever checkpoint there is, to a card."""

    config: SiteConfig
    assignment: Assignment
    scans: Scans

    @property
    def folder(self) -> Path:
        return folder_of(self.config, self.assignment)

    @property
    def batches(self) -> TrainSlices:
        seed = derived(self.assignment.seed, "teacher", self.config.name)
        asked = self.assignment
        return TrainSlices(self.scans.cache, self.scans.slices("train"), asked.teacher.batch, seed, asked.augment)

    def teach(self, until_epoch: int, status: Status) -> Card:
        """Train from the checkpoint up to `until_epoch`; nothing happens where it is there already.

        Raises: InputError when there are too few patients, or a loss is no longer finite.
        """
        self._check(until_epoch)
        batches, plan = self.batches, self.assignment.teacher
        steps, classes = plan.epochs * batches.steps, len(self.assignment.task.classes)
        torch.manual_seed(derived(batches.seed, "weights"))
        network = build(self.assignment, fresh=not begun(self.folder))
        check_memory(network, self.assignment.preprocess.shape, plan.batch)  # before a learner shows it a picture
        learner = alone(network, self.assignment, steps)
        if learner:
            check_memory(network, self.assignment.preprocess.shape, plan.batch, beside=learner)
        shipped = learner.shipped if learner else network
        outcome = fit(
            BySelf(learner) if learner else Supervised(network),
            batches,
            TrainPlan(
                steps=steps,
                lr=schedule(plan.schedule, peak=plan.lr, steps=steps),
                seed=batches.seed,
                every=batches.steps,
                patience=plan.patience,
                weight_decay=plan.weight_decay,
                identity=f"{self.folder.name}-{self.scans.identity()}",
            ),
            self.folder,
            validate=lambda: case_dice(shipped, self.scans.cache, self.scans.parts["val"], classes),
            until=min(until_epoch, plan.epochs) * batches.steps,
            progress=lambda progress: _tell(progress, batches.steps, plan.epochs, status),
        )
        return self._card(network, outcome)

    def _check(self, until_epoch: int) -> None:
        """InputError, before any training, unless there is something to train and to validate on."""
        patients, slices = self.scans.patients(), self.scans.counts()
        if until_epoch < 1:
            raise InputError(f"a teacher cannot be trained up to epoch {until_epoch}", fix="epochs count from 1")
        if slices["train"] < 2 or slices["val"] < 1:
            raise InputError(
                f"of the site's outlined patients {patients['train']} are for training and {patients['val']} for "
                "validation: a teacher needs one of each, and two slices to train on",
                fix="outline more patients there, give validation a share in `teacher.split`, or leave the site out",
            )

    def _card(self, network: nn.Module, outcome: Outcome) -> Card:
        plan, steps = self.assignment.teacher, self.batches.steps
        return Card(
            site=self.config.name,
            model=plan.model,
            options=plan.options,
            parameters=sum(weight.numel() for weight in network.parameters()),
            weights_hash=weights_hash(best_weights(self.folder, self.assignment)),
            fingerprint=self.assignment.preprocess.fingerprint(),
            epochs=outcome.step // steps,
            finished=outcome.finished,
            dice=outcome.best_dice or 0.0,
            best_epoch=outcome.best_step // steps,
            patients=self.scans.patients(),
            slices=self.scans.counts(),
            set_aside=self.scans.set_aside,
            history=[
                Epoch(epoch=done.step // steps, loss=done.loss, dice=done.dice or 0.0, seconds=done.seconds)
                for done in outcome.history
            ],
        )


def _tell(progress: Progress, steps: int, epochs: int, status: Status) -> None:
    """One step done: to the status; and to the log where it ends an epoch."""
    done = progress.step // steps
    status.set(doing="training", step=progress.step, steps=progress.steps, epoch=done, epochs=epochs)
    if (validation := progress.validation) is not None and validation.dice is not None:
        status.set(dice=progress.best_dice)
        words = "epoch %d of %d: loss %.3f, validation Dice %.3f, %.1f s"
        log.info(words, done, epochs, validation.loss, validation.dice, validation.seconds)
