"""What travels between coordinator and site, message by message.

Every message is a frozen class; both ends check shape, dtype, finiteness and ids. Flower sees bytes only:
`client/app.py` hands them to the site's service as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from imaging.augment_plan import Augment
from imaging.errors import InputError
from imaging.preprocess import NO_MASK, Preprocess
from models.contents import DEFAULT
from study.distill_tables import Amtkd
from study.envelope import Arrays, AwayError, Failure, Header, LacksError, digest, expect, pack, unpack
from study.plan import Encoding, Name, Options, Task, Teacher
from study.views import variations

__all__ = [
    "NO_MASK", "Arrays", "Assignment", "AverageReply", "AverageRequest", "AwayError", "Card", "CaseMetrics", "Epoch",
    "EvaluateReply", "EvaluateRequest", "Failure", "Header", "LacksError", "Metric", "Shard", "ShardHeader",
    "TeachRequest", "digest", "expect", "pack", "unpack",
]  # fmt: skip

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Parts = Annotated[dict[Literal["train", "val", "test"], Count], Field(min_length=3)]
"""A count for each part of a site's patients."""
Metric = Literal["dice", "iou", "voe", "hd95", "assd"]
SHARES: tuple[Metric, ...] = ("dice", "iou", "voe")
"""Metrics that are at most 1; the others are millimetres."""


class Assignment(Header):
    """What a site must know of the study to train, answer and evaluate; no other site's plans."""

    study: Name
    """The study's name."""
    study_hash: str
    seed: int
    task: Task
    preprocess: Preprocess
    augment: Augment = Augment()
    teacher: Teacher
    encoding: Encoding = Encoding()
    """How its answers travel."""


class TeachRequest(Header):
    """Be trained up to this epoch (not: train so many more): a message that comes twice does nothing twice."""

    assignment: Assignment
    until_epoch: int = Field(ge=0)


class Epoch(Header):
    """One epoch of a teacher: mean training loss, validation Dice over foreground classes and cases, seconds."""

    epoch: Count
    loss: float
    dice: Share
    seconds: float


class Card(Header):
    """A teacher's card: what may be known of it outside, and the reply to TeachRequest. Never its weights."""

    site: Name
    model: str
    """Of `preceptor models`, or `onnx`: then `options` say what the file gives, logits or probabilities."""
    options: Options
    parameters: Count
    weights_hash: str
    """SHA-256 of the best epoch's weights: two answers under one hash come from one teacher."""
    fingerprint: str
    epochs: Count
    """Epochs trained so far; 0 for a teacher that came ready, as `best_epoch`, and no `history`."""
    finished: bool
    """True when the last epoch is reached or early stopping ended it, and for a teacher that came ready."""
    dice: Share
    """Validation Dice of the best epoch, which smoothed Dice chose. Of a teacher that came ready: on the site's
    patients that are not for testing, or on the study lead's where `preceptor answer` asked it."""
    best_epoch: Count
    patients: Parts
    slices: Parts
    set_aside: Count
    """Cases that could not be used; which and why stands in the site's own log only."""
    history: list[Epoch]


def _none_kept(key: str) -> Arrays | None:
    return None


@dataclass(frozen=True)
class Shard:
    """Some of the student's slices or patches, or a variation of each, to be answered.

    `slice_ids` (N,) int64 count up and number the pictures as `study.views` does; `images` (N, c, *shape) float16,
    preprocessed, and `masks` (N, *shape) uint8, `NO_MASK` throughout where there is none, are the slices, of shape
    (H, W), or the patches (D, H, W) themselves.
    """

    assignment: Assignment
    index: int
    slice_ids: NDArray[np.int64]
    images: NDArray[np.float16]
    masks: NDArray[np.uint8]
    wants: tuple[str, ...] = DEFAULT
    """Of `models.contents.CONTENTS`."""
    varied: bool = False
    """Whether asked is about the variations that the numbers stand for, not about the slices."""

    @property
    def slices(self) -> Arrays:
        """What a site may keep of it, under the digest that names it."""
        return {"images": self.images, "masks": self.masks}

    def pictures(self) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Images (N, c, *shape) and masks (N, *shape) that are to be answered."""
        if not self.varied:
            return self.images, self.masks
        asked = self.assignment
        return variations(self.images, self.masks, self.slice_ids, asked.seed, asked.augment)

    def pack(self, *, named: bool = False) -> bytes:
        """The shard as a message; only `named`, without its slices, for a site that has kept them."""
        header = ShardHeader(
            assignment=self.assignment,
            index=self.index,
            wants=list(self.wants),
            varied=self.varied,
            slices=digest(self.slices),
        )
        return pack(header, {"slice_ids": self.slice_ids} | ({} if named else self.slices))

    @classmethod
    def unpack(cls, body: bytes, kept: Callable[[str], Arrays | None] = _none_kept) -> Shard:
        """The shard, checked, its slices from `kept` by their digest where they are only named.

        Raises: LacksError where they are not kept; InputError says which array is missing, of the wrong shape or not
        finite.
        """
        header, arrays = unpack(body, ShardHeader)
        if set(arrays) == {"slice_ids"}:
            if (slices := kept(header.slices)) is None:
                raise LacksError(f"the slices of shard {header.index} are not kept here", fix="send them again")
            arrays |= slices
        n, shape = arrays["slice_ids"].size if "slice_ids" in arrays else 0, header.assignment.preprocess.shape
        expect(arrays, "slice_ids", np.int64, (n,))
        expect(arrays, "images", np.float16, (n, header.assignment.task.inputs, *shape))
        expect(arrays, "masks", np.uint8, (n, *shape))
        ids, images, masks = (arrays.pop(name) for name in ("slice_ids", "images", "masks"))
        if digest({"images": images, "masks": masks}) != header.slices:
            raise InputError(f"shard {header.index} holds other slices than it names", fix="send it again")
        if arrays:
            raise InputError(f"shard {header.index} holds array `{min(arrays)}`, which no shard has")
        if n == 0 or ids[0] < 0 or (np.diff(ids) <= 0).any():
            raise InputError(f"shard {header.index} needs slice ids that count up, got {ids.tolist()[:5]}")
        classes = len(header.assignment.task.classes)
        if ((masks >= classes) & (masks != NO_MASK)).any():
            raise InputError(f"shard {header.index} has mask values outside the study's {classes} classes")
        return cls(header.assignment, header.index, ids, images, masks, tuple(header.wants), header.varied)


class ShardHeader(Header):
    assignment: Assignment
    index: int = Field(ge=0)
    wants: list[str]
    varied: bool
    slices: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of images and masks, which a site may have kept."""


class EvaluateRequest(Header):
    """Evaluate these weights (arrays beside the header) on the site's own validation and test patients."""

    assignment: Assignment
    label: Name
    """What the report calls this student, such as `amtkd`."""
    model: str
    options: Options


class CaseMetrics(Header):
    """One patient's scan, unnamed: metric → class name → value; null where the metric is undefined for that case."""

    metrics: Annotated[dict[Metric, dict[str, Annotated[float, Field(ge=0)] | None]], Field(min_length=5)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if max((value or 0.0 for metric in SHARES for value in self.metrics[metric].values()), default=0.0) > 1:
            raise ValueError(f"{', '.join(SHARES)} are at most 1")
        return self

    def mean(self, metric: Metric) -> float:
        """Mean over the classes for which it is defined; NaN if there is none."""
        known = [value for value in self.metrics[metric].values() if value is not None]
        return sum(known) / len(known) if known else math.nan


class EvaluateReply(Header):
    """Metrics of a site's validation and test cases, in an order that tells nothing.

    Test figures are reported; validation figures are there so that choices (a law, a scheme) need not look at them.
    """

    site: Name
    label: Name
    weights_hash: str
    val: list[CaseMetrics]
    test: list[CaseMetrics]
    cases: str = ""
    """Changes with the site's patients and their masks: only replies that agree here can be paired case by case."""

    def check(self, classes: list[str]) -> None:
        """InputError unless there is a test case, and every metric of every case is of these foreground classes."""
        if not self.test:
            raise InputError("metrics of no test case", fix="the site's engineer finds more in the site's service.log")
        for case in (*self.val, *self.test):
            for metric, values in case.metrics.items():
                if set(values) != set(classes):
                    raise InputError(f"{metric} of {sorted(values)}, the study's classes are {sorted(classes)}")


class AverageRequest(Header):
    """Train the student with these weights (arrays beside the header) on the site's own training slices.

    The weights stand at step `first` of `steps`; train to step `until`. With the same weights and a later `until` the
    site goes on from where it stopped.
    """

    assignment: Assignment
    label: Name
    """What the report calls this student, such as `fedavg`."""
    model: str
    options: Options
    first: Count
    until: Count
    steps: Annotated[int, Field(ge=1)]
    keep: bool
    """True: the trained weights stay at the site, and only the reply's header leaves."""
    batch: Annotated[int, Field(ge=2)]
    lr: Annotated[float, Field(gt=0)]
    lr_min: Annotated[float, Field(ge=0)]
    lr_half_cycle: Annotated[int, Field(ge=1)]
    loss: Amtkd
    """Weights of the loss on masks (AMTKD, Eq. 5)."""
    mu: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the pull towards the weights that were sent (FedProx)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.first < self.until <= self.steps:
            raise ValueError(f"cannot be trained from step {self.first} to step {self.until} of {self.steps}")
        return self


class AverageReply(Header):
    """The student trained to step `until`; its weights are the arrays beside, unless they were to stay."""

    site: Name
    label: Name
    sent: str
    """Digest of the weights it was trained from."""
    until: Count
    slices: Annotated[int, Field(ge=1)]
    """Training slices: how much the site counts in an average."""
    terms: dict[str, float]
    """Mean of each loss term over these steps, or those since a kill; none where the weights were to stay."""
    seconds: Annotated[float, Field(ge=0)]
