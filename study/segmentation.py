"""The loss of a student on masks: alone, beside its teachers, or at a hospital."""

from __future__ import annotations

from torch import Tensor

from study.dice import dice_loss
from study.distill_tables import Amtkd
from study.lovasz import lovasz_softmax


def segmentation(logits: Tensor, masks: Tensor, weights: Amtkd) -> dict[str, Tensor]:
    """Seg = alpha1 Dice + alpha2 Lovász as two terms, each a mean over the slices; 0 where there is none.

    `logits` (N, C, *S), `masks` (N, *S), of slices or patches. Source: AMTKD, Eq. 5.
    """
    probs, count = logits.softmax(1).flatten(2), max(1, len(masks))
    masks = masks.flatten(1)
    return {
        "dice": weights.dice * dice_loss(probs, masks).sum() / count,
        "lovasz": weights.lovasz * lovasz_softmax(probs, masks).sum() / count,
    }
