"""How much each teacher is heard on each slice: the weights w_j of AMTKD, section 3.3, and other laws for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distill.losses.dice import dice_loss

Law = Callable[[Tensor, Tensor], Tensor]
"""Dice losses (N, T) and which answers are there (N, T) bool -> weights (N, T), each row adding up to 1."""


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


LAWS: dict[str, Law] = {
    "agreement": agreement,
    "as-printed": as_printed,
    "agreement-softmax": agreement_softmax,
}


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
    losses = probs.new_zeros(answered.shape)
    losses[labelled] = dice_loss(probs[labelled], mask[labelled][:, None])
    losses[~labelled] = dissent(probs[~labelled], answered[~labelled])
    return losses


def dissent(probs: Tensor, answered: Tensor, *, smooth: float = 1.0) -> Tensor:
    """1 - soft Dice of each teacher with the uniform mixture of those who answered, all classes, (N, T) in [0, 1].

    Shapes: probs (N, T, C, H, W). The background counts and the mixture stays soft: against the mixture's most likely
    class, a teacher that alone finds a small organ is silenced by two that miss it, and on empty slices the weight goes
    to whoever is surest of nothing. Departs: our own, for slices that nobody has outlined.
    """
    together = mixture(probs, shares(torch.ones_like(answered, dtype=probs.dtype), answered))[:, None]
    overlap = (probs * together).sum((-2, -1))
    total = probs.square().sum((-2, -1)) + together.square().sum((-2, -1))
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean(-1)


def mixture(probs: Tensor, weights: Tensor) -> Tensor:
    """sum_j w_j p_j: (N, T, C, H, W) and (N, T) -> (N, C, H, W). Source: AMTKD, section 3.3.

    Departs: printed "w_j sum_j p_j", which has a j outside its sum.
    """
    mixed = weights[:, None].to(probs.dtype) @ probs.flatten(2)  # a tenth of einsum's time
    return mixed.view(probs.shape[0], *probs.shape[2:])
