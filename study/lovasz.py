"""Lovász-Softmax: a convex stand-in for 1 - IoU, of every slice or patch by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from study.dice import one_hot


def lovasz_softmax(probs: Tensor, mask: Tensor) -> Tensor:
    """Lovász extension of 1 - IoU, mean over the classes present in the slice, background included; in [0, 1].

    Shapes: probs (N, C, P), softmax at temperature 1 of P pixels or voxels; mask (N, P) int in 0..C-1; returns (N,).
    Source: Berman et al. 2018, Eq. 11 and Algorithm 1; AMTKD, Eq. 5. Departs: its code pools the batch by default; ours
    is one a slice.
    """
    target = one_hot(mask, probs.shape[1])
    present = target.any(2)
    target = target[present].to(probs.dtype)  # (M, P): only the M pairs of slice and present class are sorted
    errors = (target - probs[present]).abs()
    errors, order = errors.sort(dim=1, descending=True)
    losses = (errors * jaccard_steps(target.gather(1, order))).sum(1)
    per_class = torch.zeros(present.shape, dtype=losses.dtype, device=losses.device).masked_scatter(present, losses)
    return per_class.sum(1) / present.sum(1)


def jaccard_steps(hits: Tensor) -> Tensor:
    """How much 1 - IoU grows with each pixel got wrong in turn, g_i = J_i - J_(i-1).

    `hits` (M, P) is 1 where the pixel is of the class, worst error first; returns (M, P). Source: Algorithm 1.
    """
    area = hits.sum(1, keepdim=True)
    misses = hits.cumsum(1)
    jaccard = 1 - (area - misses) / (area + (1 - hits).cumsum(1))
    return torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], dim=1)
