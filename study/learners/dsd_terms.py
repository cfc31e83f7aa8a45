"""The losses of DSD as functions of logits, with what several of them share computed once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from models.bottleneck import split
from study.dsd_table import Dsd

ENCODER, DECODER = ("E1", "E2", "E3", "E4"), ("D4", "D3", "D2", "D1")
"""Stages in the order of the pass: the last of a side teaches the others (DSD, section 2.3)."""
SMOOTH = 1e-5
"""Of numerator and denominator of Dice, as MONAI's losses have it."""
TINY = 1e-38
"""The least that float32 divides by."""


@dataclass(frozen=True)
class Target:
    """Masks (N, *size) as nine losses read them: which class each voxel is, (N, K, V) float32 of 0 and 1."""

    one_hot: Tensor
    counts: Tensor
    """Voxels of each class, (N, K)."""

    @classmethod
    def of(cls, masks: Tensor, classes: int) -> Self:
        numbers = torch.arange(classes, dtype=masks.dtype, device=masks.device)[:, None]
        one_hot = (masks.flatten(1)[:, None] == numbers).float()
        return cls(one_hot, one_hot.sum(2))


def dce(logits: Tensor, target: Target, *, squared: bool = False) -> Tensor:
    """Dice loss, mean over classes, background too, and images, plus cross-entropy, mean over voxels and images.

    Shapes: logits (N, K, *size); returns a scalar, in float32 also of logits in less. Source: DSD, Eq. 1, as the
    authors' code reads it: MONAI's DiceCELoss(to_onehot_y=True, softmax=True). `squared` is Eq. 1 as printed: squared
    probabilities in the denominators, no smoothing.
    """
    logs = whole(logits).flatten(2).log_softmax(1)
    probs = logs.exp()
    overlap = (probs * target.one_hot).sum(2)
    total = (probs.square() if squared else probs).sum(2) + target.counts
    smooth = 0.0 if squared else SMOOTH
    # a class that is absent, and so unlikely that its squares vanish, has 0 / 0 there
    dice = 1 - (2 * overlap + smooth) / (total + smooth).clamp_min(TINY)
    return dice.mean() - (logs * target.one_hot).sum() / (len(logs) * logs.shape[2])


def softened(logits: Tensor, temperature: float) -> Tensor:
    """Log of softmax(z / tau), (N, K, V), in float32 also of logits (N, K, *size) in less. Source: DSD, Eq. 2."""
    return (whole(logits).flatten(2) / temperature).log_softmax(1)


def divergence(students: Sequence[Tensor], teacher: Tensor) -> Tensor:
    """Sum over students of KL(teacher || student), each summed over classes, mean over voxels and images.

    Shapes: logs of probabilities (N, K, V); returns a scalar, at least 0. Source: DSD, Eq. 4, its expanded sum: its
    symbol has the arguments the other way round. The students are added up first, a KL of all at the cost of one.
    """
    apart = len(students) * teacher - sum(students[1:], students[0])
    return (teacher.exp() * apart).sum() / (len(teacher) * teacher.shape[2])


def mean_teacher(logs: Sequence[Tensor], of: Literal["probabilities", "logits"] = "probabilities") -> Tensor:
    """Log of the mean of several softened probabilities, or the log softmax of the mean of their logits, (N, K, V).

    Source: DSD, Table 6. Departs: the paper says mean of outputs, and not whether before or after the softmax.
    """
    stacked = torch.stack(list(logs))
    if of == "probabilities":
        return stacked.logsumexp(0) - math.log(len(logs))
    return stacked.mean(0).log_softmax(1)  # a voxel's constant, by which logs and logits differ, falls out


def side_term(outputs: Sequence[Tensor], table: Dsd) -> Tensor:
    """One side's stages learning from their teacher: sum of its KLs, tau² in where the table says so, unweighted.

    Shapes: outputs, logits (N, K, V) of each stage in the order of ENCODER or DECODER. Source: DSD, Eq. 4.
    """
    logs = [softened(logits, table.temperature) for logits in outputs]
    if table.variant == "mean-teacher":
        teacher, students = mean_teacher(logs, table.mean_of), logs
    elif table.variant == "reversed-teacher":
        teacher, students = logs[0], logs[1:]
    else:
        teacher, students = logs[-1], logs[:-1]
    teacher = teacher.detach() if table.detach_teacher else teacher
    scale = table.temperature**2 if table.tau_squared else 1.0
    return scale * divergence(students, teacher)


def terms_of(logits: Tensor, outputs: Mapping[str, Tensor], masks: Tensor, table: Dsd) -> dict[str, Tensor]:
    """Weighted terms of Eq. 5 and 6 by name: `y`, and `ds`, `kl_enc`, `kl_dec` where they weigh anything.

    Shapes: logits (N, K, *size), the network's own; outputs {stage: logits (N, K, V)} of the heads, voxels in the order
    of `split`; masks (N, *size).
    """
    weights, classes = table.weights, logits.shape[1]
    terms = {"y": dce(logits, Target.of(masks, classes), squared=table.squared_pred)}
    if "ds" in weights:
        target = Target.of(split(masks[:, None])[:, 0], classes)
        each = [dce(outputs[name], target, squared=table.squared_pred) for name in DECODER]
        terms["ds"] = weights["ds"] * torch.stack(each).sum()
    for term, side in (("kl_enc", ENCODER), ("kl_dec", DECODER)):
        if term in weights:
            terms[term] = weights[term] * side_term([outputs[name] for name in side], table)
    return terms


def whole(logits: Tensor) -> Tensor:
    """In float32 or more."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
