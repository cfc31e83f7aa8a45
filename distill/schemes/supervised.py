"""The student alone: what every scheme is measured against."""

from __future__ import annotations

from torch import Tensor

from distill.losses.dice import dice_loss
from distill.losses.lovasz import lovasz_softmax
from distill.schemes.base import Batch, Needs, Scheme
from study.plan import Amtkd as Weights


class Supervised(Scheme):
    """No teacher: Dice and Lovász-Softmax on the slices that have a mask (AMTKD, Eq. 5)."""

    needs = Needs(teachers="none", contents=(), unlabelled=False)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return segmentation(self.student(batch.images).float(), batch, self.plan.amtkd)


def segmentation(logits: Tensor, batch: Batch, weights: Weights) -> dict[str, Tensor]:
    """Seg = alpha1 Dice + alpha2 Lovász as two terms, each a mean over the labelled slices; 0 where none is.

    `logits` (N, C, H, W). Source: AMTKD, Eq. 5.
    """
    has = batch.labelled
    probs, masks = logits[has].softmax(1), batch.masks[has]
    count = has.sum().clamp_min(1)
    return {
        "dice": weights.dice * dice_loss(probs, masks).sum() / count,
        "lovasz": weights.lovasz * lovasz_softmax(probs, masks).sum() / count,
    }
