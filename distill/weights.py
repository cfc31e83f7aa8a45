"""How much each teacher is heard on each slice: the weights w_j of AMTKD, section 3.3, and other laws for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from distill.losses.cross_entropy import cross_entropy, soft_cross_entropy
from distill.schemes.base import TeacherBatch
from study.dice import dice_loss, one_hot
from study.distill_tables import Law, Weights

Weigh = Callable[[TeacherBatch, Tensor, Tensor, Weights], Tensor]
"""Teachers, masks (N, H, W), labelled (N,) bool and `[distill.weights]` -> weights (N, T), each row adding up to 1."""
Judge = Callable[[Tensor, Tensor], Tensor]
"""Losses (N, T) and which answers are there (N, T) bool -> weights (N, T)."""


def as_printed(losses: Tensor, answered: Tensor) -> Tensor:
    """w_j = L_j / sum_k L_k: as the paper prints it, the worse teacher gets more."""
    return shares(losses, answered)


def agreement(losses: Tensor, answered: Tensor) -> Tensor:
    """w_j = (1 - L_j) / sum_k (1 - L_k): each teacher's share of the Dice, so that the better one gets more.

    Departs: the weight after Eq. 7 divides the losses themselves.
    """
    return shares(1 - losses, answered)


def agreement_softmax(losses: Tensor, answered: Tensor, *, tau: float = 0.1) -> Tensor:
    """Softmax of -L / tau over teachers: sharper than `agreement`. Departs: not in the paper."""
    best = losses.where(answered, torch.inf).amin(1, keepdim=True)
    return shares(((best - losses) / tau).clamp_max(0).exp(), answered)


def best_of(losses: Tensor, answered: Tensor) -> Tensor:
    """All to the teacher with the lowest loss; to several alike where they share it."""
    best = losses.where(answered, torch.inf).amin(1, keepdim=True)
    return shares((losses <= best).to(losses.dtype), answered)


def confidence(losses: Tensor, answered: Tensor) -> Tensor:
    """w_j = (1 - softmax_j(CE_j)) / (T - 1), T the teachers who answered; one alone has 1. Source: CA-MKD, Eq. 3."""
    doubt = losses.where(answered, torch.finfo(losses.dtype).min).softmax(1)
    alone = answered.sum(1, keepdim=True) == 1
    return shares(torch.where(alone, answered.to(losses.dtype), 1 - doubt), answered)


def shares(scores: Tensor, answered: Tensor) -> Tensor:
    """Scores (N, T) divided by their sum a slice; a missing answer weighs 0, and the others the same where all are 0.

    A slice that nobody answered gets zeros throughout.
    """
    present = answered.to(scores.dtype)
    scores = scores * present
    tiny = torch.finfo(scores.dtype).tiny
    scores = torch.where(scores.sum(1, keepdim=True) > tiny, scores, present)
    return scores / scores.sum(1, keepdim=True).clamp_min(tiny)


@torch.no_grad()
def teacher_losses(probs: Tensor, mask: Tensor, labelled: Tensor, answered: Tensor) -> Tensor:
    """Every teacher's Dice loss on every slice, (N, T), without gradient.

    Shapes: probs (N, T, C, H, W) at temperature 1; mask (N, H, W) int; labelled (N,) bool; answered (N, T) bool.
    A slice without a mask is judged by how far each teacher is from the mixture of all. Departs: the paper has a mask
    for every slice.
    """
    probs, mask = probs.flatten(3), mask.flatten(1)
    if labelled.all():  # no copies of parts then
        return dice_loss(probs, mask[:, None])
    losses = probs.new_zeros(answered.shape)
    losses[labelled] = dice_loss(probs[labelled], mask[labelled][:, None])
    losses[~labelled] = dissent(probs[~labelled], answered[~labelled])
    return losses


@torch.no_grad()
def track_record(outlined: Iterable[tuple[TeacherBatch, Tensor]]) -> Tensor:
    """How much further off every teacher's outlines are than those of all, (T,): Dice losses, mean over slices.

    Judged are most likely classes: of a slice without organ, a trace of probability on each pixel would tell what a
    whole invented organ tells. A slice's losses count from the mean of the teachers who answered it, since slices
    differ more than teachers do; who answered none, or each alone, has 0.
    `outlined`: what the teachers say of some slices, part by part, and masks (N, H, W). Departs: our own, see `record`.
    """
    total = count = torch.zeros(())
    for teachers, mask in outlined:
        among = teachers.answered.sum(1, keepdim=True)
        judged = teachers.answered & (among > 1)
        outlines = one_hot(teachers.logits.argmax(2).flatten(2), teachers.logits.shape[2]).float()
        losses = dice_loss(outlines, mask.flatten(1)[:, None]).where(judged, 0.0)
        usual = losses.sum(1, keepdim=True) / among.clamp_min(1)
        total = total + (losses - usual).where(judged, 0.0).sum(0)
        count = count + judged.sum(0)
    return total / count.clamp_min(1)


@torch.no_grad()
def teacher_entropies(logits: Tensor, mask: Tensor, labelled: Tensor, answered: Tensor) -> Tensor:
    """Every teacher's cross-entropy, mean over a slice's pixels, (N, T); shapes as above, of logits.

    Departs: CA-MKD classifies whole images, and has a label for each; where a slice has no mask, the mixture of all
    stands in for it.
    """
    losses = logits.new_zeros(answered.shape)
    together = mixture(logits.softmax(2), _alike(answered))
    for j in range(logits.shape[1]):
        losses[labelled, j] = cross_entropy(logits[labelled, j], mask[labelled])
        losses[~labelled, j] = soft_cross_entropy(logits[~labelled, j], together[~labelled])
    return losses


def dissent(probs: Tensor, answered: Tensor, *, smooth: float = 1.0) -> Tensor:
    """1 - soft Dice of each teacher with the uniform mixture of those who answered, all classes, (N, T) in [0, 1].

    Shapes: probs (N, T, C, H, W). The background counts and the mixture stays soft: against the mixture's most likely
    class, a teacher that alone finds a small organ is silenced by two that miss it, and on empty slices the weight goes
    to whoever is surest of nothing. Departs: our own, for slices that nobody has outlined.
    """
    probs = probs.flatten(3)
    together = mixture(probs, _alike(answered))[:, None]
    overlap = (probs * together).sum(-1)
    total = probs.square().sum(-1) + together.square().sum(-1)
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean(-1)


def mixture(probs: Tensor, weights: Tensor) -> Tensor:
    """sum_j w_j p_j: (N, T, C, H, W) and (N, T) -> (N, C, H, W). Source: AMTKD, section 3.3.

    Departs: printed "w_j sum_j p_j", which has a j outside its sum.
    """
    mixed = weights[:, None].to(probs.dtype) @ probs.flatten(2)  # a tenth of einsum's time
    return mixed.view(probs.shape[0], *probs.shape[2:])


def _alike(answered: Tensor) -> Tensor:
    return shares(torch.ones_like(answered, dtype=torch.float32), answered)


def _dice_of(teachers: TeacherBatch, masks: Tensor, labelled: Tensor) -> Tensor:
    return teacher_losses(teachers.logits.softmax(2), masks, labelled, teachers.answered)


def _by_dice(judge: Judge) -> Weigh:
    return lambda teachers, masks, labelled, plan: judge(_dice_of(teachers, masks, labelled), teachers.answered)


def _softmax(teachers: TeacherBatch, masks: Tensor, labelled: Tensor, plan: Weights) -> Tensor:
    return agreement_softmax(_dice_of(teachers, masks, labelled), teachers.answered, tau=plan.tau)


def _record(teachers: TeacherBatch, masks: Tensor, labelled: Tensor, plan: Weights) -> Tensor:
    """`agreement-softmax` where a slice without a mask counts the teacher's dissent and its record together.

    Departs: our own. Dissent alone hears a bad teacher gladly, whose blurred answers are never far from the mixture.
    """
    losses = _dice_of(teachers, masks, labelled)
    if teachers.record is not None:
        losses = losses.where(labelled[:, None], losses + teachers.record)
    return agreement_softmax(losses, teachers.answered, tau=plan.tau)


def _confidence(teachers: TeacherBatch, masks: Tensor, labelled: Tensor, plan: Weights) -> Tensor:
    losses = teacher_entropies(teachers.logits.float(), masks, labelled, teachers.answered)
    return confidence(losses, teachers.answered)


def _uniform(teachers: TeacherBatch, masks: Tensor, labelled: Tensor, plan: Weights) -> Tensor:
    return _alike(teachers.answered)


def _fixed(teachers: TeacherBatch, masks: Tensor, labelled: Tensor, plan: Weights) -> Tensor:
    """As the study says; where none of the sites that it names has answered, all others alike."""
    scores = torch.tensor([plan.fixed.get(site, 0.0) for site in teachers.sites], device=teachers.answered.device)
    return shares(scores.expand(teachers.answered.shape), teachers.answered)


LAWS: dict[Law, Weigh] = {
    "uniform": _uniform,
    "fixed": _fixed,
    "agreement": _by_dice(agreement),
    "as-printed": _by_dice(as_printed),
    "agreement-softmax": _softmax,
    "record": _record,
    "confidence": _confidence,
    "best-of": _by_dice(best_of),
}
"""By the name that `[distill.weights] law` gives; `learned`, no function of answers, is in schemes/learned."""
