"""The student at a hospital: trained on the site's own masks, from the weights that were sent."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from client.evaluate import student_of
from client.scans import Scans
from client.site import SiteConfig
from client.status import Status
from client.teacher import students_of
from client.training import Batch, TrainSlices
from imaging.atomic import write_text
from imaging.errors import InputError
from study.averaging_table import LOCAL
from study.baselines import lr_at, request
from study.draws import derived
from study.plan import Study
from study.segmentation import segmentation
from study.training import Progress, TrainPlan, fit, load_best
from study.wire import Arrays, Assignment, AverageReply, AverageRequest, digest

log = logging.getLogger("client")
CHECKPOINT_STEPS = 200
"""Steps that a killed service loses at most."""


class OnMasks:
    """A student under AMTKD's loss on masks (Eq. 5) and, where `mu` > 0, FedProx's pull to the weights it began with.

    The pull is mu / 2 times the squared distance of all learned weights (Li et al. 2020, Eq. 2).
    """

    def __init__(self, network: nn.Module, asked: AverageRequest) -> None:
        self.network, self.asked = network, asked
        self._sent = [weight.detach().clone() for weight in network.parameters()]

    def loss(self, batch: Batch, /) -> dict[str, Tensor]:
        images, masks = batch
        terms = segmentation(self.network(images), masks, self.asked.loss)
        if self.asked.mu:
            away = [
                (now - sent).square().sum() for now, sent in zip(self.network.parameters(), self._sent, strict=True)
            ]
            terms["proximal"] = self.asked.mu / 2 * sum(away[1:], start=away[0])
        return terms


@dataclass(frozen=True)
class From:
    """The same batches, counted from step `first`."""

    batches: TrainSlices
    first: int

    def __getitem__(self, step: int, /) -> Batch:
        return self.batches[self.first + step]


@dataclass(frozen=True)
class Apprentice:
    """The training that one message asks for, in a folder that only this very training has."""

    config: SiteConfig
    asked: AverageRequest
    sent: Arrays
    scans: Scans

    @cached_property
    def key(self) -> str:
        """Of all that the trained weights depend on, but how far they are trained."""
        settings = self.asked.model_dump_json(exclude={"until": True, "assignment": {"study", "study_hash"}})
        text = f"{settings}-{digest(self.sent)}-{self.scans.identity()}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def folder(self) -> Path:
        return students_folder(self.config, self.asked.assignment, self.asked.label) / self.key

    def train(self, status: Status) -> tuple[AverageReply, Arrays]:
        """Train to step `until` from where the folder's checkpoint stands; a message that comes again trains nothing.

        Adam begins anew with the weights that were sent; learning rate and batches go on from step `first`.
        Raises: InputError where there are too few slices, the weights are not the network's, or a loss is not finite.
        """
        kept = self.folder / f"{self.asked.until}.json"
        if not kept.exists():
            self.config.policy.admit_folder(self.folder.parent, self.config.workspace)
            self._forget_others()
            write_text(kept, self._trained(status).model_dump_json())
        weights = {name: tensor.numpy() for name, tensor in load_best(self.folder).items()}
        return AverageReply.model_validate_json(kept.read_bytes()), weights

    def _trained(self, status: Status) -> AverageReply:
        asked, slices, began = self.asked, self.scans.slices("train"), time.monotonic()
        if len(slices) < 2:
            what = f"the site has {len(slices)} outlined slices for training, a student needs two"
            raise InputError(what, fix="outline more patients there, or leave the site out")
        network, sums = student_of(asked, self.sent), defaultdict[str, float](float)
        seed = derived(asked.assignment.seed, "apprentice", self.config.name)
        batches = TrainSlices(self.scans.cache, slices, asked.batch, seed, asked.assignment.augment)

        def progress(done: Progress) -> None:
            for name, value in {**done.terms, "steps": 1.0}.items():
                sums[name] += value
            status.set(doing="training the student", step=asked.first + done.step, steps=asked.steps)

        fit(
            OnMasks(network, asked),
            From(batches, asked.first),
            plan(asked, seed, identity=self.key),
            self.folder,
            validate=None,
            until=asked.until - asked.first,
            progress=progress,
        )
        steps = sums.pop("steps", 1.0)
        terms = {name: total / steps for name, total in sums.items()}
        log.info("%s: trained to step %d of %d, loss %.3f", asked.label, asked.until, asked.steps, sum(terms.values()))
        return AverageReply(
            site=self.config.name,
            label=asked.label,
            sent=digest(self.sent),
            until=asked.until,
            slices=len(slices),
            terms=terms,
            seconds=time.monotonic() - began,
        )

    def _forget_others(self) -> None:
        """Trainings from other weights: rounds that are over."""
        for folder in self.folder.parent.glob("*"):
            if folder != self.folder:
                shutil.rmtree(folder)


def plan(asked: AverageRequest, seed: int, *, identity: str) -> TrainPlan:
    """The student's settings, from step `first` on."""
    return TrainPlan(
        steps=asked.steps - asked.first,
        lr=lambda step: lr_at(asked, asked.first + step),
        seed=derived(seed, asked.first),
        every=CHECKPOINT_STEPS,
        identity=identity,
    )


def students_folder(config: SiteConfig, assignment: Assignment, label: str) -> Path:
    """Where that student of a study is trained at this site."""
    return students_of(config, assignment) / label


def load_local(config: SiteConfig, study: Study) -> nn.Module:
    """The student that was trained at this site alone; InputError where it has not been trained to its end."""
    asked = request(study, config.name, LOCAL, 0, study.averaging_steps)
    above = students_folder(config, asked.assignment, LOCAL)
    found = list(above.glob(f"*/{asked.steps}.json"))
    if not found:
        raise InputError(
            "no student has been trained here alone", where=above, fix="set `local = true` in `[averaging]`"
        )
    return student_of(asked, {name: tensor.numpy() for name, tensor in load_best(found[0].parent).items()})
