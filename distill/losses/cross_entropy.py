"""Cross-entropy of every slice by itself, plain, focal, and with a teacher's probabilities for a mask."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean over pixels of -log p(class of the mask), (N,). Shapes: logits (N, C, H, W), mask (N, H, W) of classes."""
    return F.cross_entropy(logits, mask.long(), reduction="none").flatten(1).mean(1)


def focal(logits: Tensor, mask: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Mean over pixels of -(1 - p)^gamma log p, (N,): pixels that are right already hardly count.

    Shapes as above. Source: Lin et al. 2017, without class weights, as EMKD's code has it.
    """
    loss = F.cross_entropy(logits, mask.long(), reduction="none")
    return ((1 - (-loss).exp()) ** gamma * loss).flatten(1).mean(1)


def soft_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over pixels of -sum_c q_c log p_c, (N,): student (N, C, H, W) logits, teacher (N, C, H, W) probabilities.

    Source: SKD (Liu et al. 2019), pixel-wise. Departs: their code sums over the batch and divides by the pixels of one
    slice, so that the weight grows with the batch; ours is a mean.
    """
    return -(teacher * student.log_softmax(1)).sum(1).flatten(1).mean(1)
