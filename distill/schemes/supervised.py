"""The student alone: what every scheme is measured against."""

from __future__ import annotations

from torch import Tensor

from distill.schemes.base import Batch, Needs, Scheme
from study.plan import Amtkd as Weights
from study.segmentation import segmentation as on_masks


class Supervised(Scheme):
    """No teacher: Dice and Lovász-Softmax on the slices that have a mask (AMTKD, Eq. 5)."""

    needs = Needs(teachers="none", contents=(), unlabelled=False)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return segmentation(self.student(batch.images).float(), batch, self.plan.amtkd)


def segmentation(logits: Tensor, batch: Batch, weights: Weights) -> dict[str, Tensor]:
    """AMTKD's loss on masks (Eq. 5) of a batch's labelled slices. `logits` (N, C, H, W)."""
    return on_masks(logits[batch.labelled], batch.masks[batch.labelled], weights)
