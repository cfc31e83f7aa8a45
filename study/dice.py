"""Dice loss of every slice or patch by itself."""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(mask: Tensor, classes: int) -> Tensor:
    """Which class each of P voxels is, (..., P) int -> (..., C, P) bool; a value outside 0..C-1 is of no class."""
    return mask[..., None, :] == torch.arange(classes, dtype=mask.dtype, device=mask.device)[:, None]


def dice_loss(probs: Tensor, mask: Tensor, *, smooth: float = 1.0) -> Tensor:
    """1 - Dice, mean over the foreground classes, in [0, 1]: 0 where prediction and mask are the same.

    Shapes: probs (N, C, P), softmax at temperature 1 of P pixels or voxels; mask (N, P) int; returns (N,); more
    dimensions in front are broadcast. Source: AMTKD, Eq. 5.
    A class absent from a slice costs S / (S + smooth), S its predicted probability summed: false positives count.
    Departs: the code it follows pools the whole batch into one ratio; ours is a ratio a slice, because the teachers'
    weights need one a slice.
    """
    target = one_hot(mask, probs.shape[-2])[..., 1:, :].to(probs.dtype)
    probs = probs[..., 1:, :]
    overlap = (probs * target).sum(-1)
    total = probs.sum(-1) + target.sum(-1)
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean(-1)


def soft_dice_loss(probs: Tensor, target: Tensor, *, smooth: float = 1.0) -> Tensor:
    """1 - Dice with a target of probabilities, mean over the foreground classes, in [0, 1]: 0 where both are the same.

    Shapes: probs and target (N, C, P); returns (N,). With a target of ones and zeros it is `dice_loss`. Source: Wang
    et al. 2023, Dice semimetric losses: 2 min(p, q) = p + q - |p - q| in the place of 2 p q, whose loss with a soft
    target is lowest at another prediction than the target.
    """
    probs, target = probs[:, 1:], target[:, 1:]
    total = (probs + target).sum(-1)
    apart = (probs - target).abs().sum(-1)
    return (apart / (total + smooth)).mean(-1)


def dice_of(logits: Tensor, mask: Tensor) -> Tensor:
    """`dice_loss` of logits (N, C, *S) and a mask (N, *S), slices or patches; returns (N,)."""
    return dice_loss(logits.softmax(1).flatten(2), mask.flatten(1))
