"""Dice and focal loss of a segmentation: of exclusive classes, or of regions that are unions of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Regions = tuple[tuple[int, ...], ...]
"""Classes of each region: a whole tumour is (1, 2, 3), of exclusive classes 0 to 3."""


def overlap_loss(probs: Tensor, target: Tensor) -> Tensor:
    """1 - Dice with linear denominators, mean over N and channels, in [0, 1].

    Shapes: probs (N, R, *size) in [0, 1]; target (N, R, *size) of zeros and ones; a scalar. Source: MOD, Eq. 6, in the
    form of its published logs: nothing is added above, 1e-5 below, so what is absent costs 1 and has no gradient.
    """
    space = tuple(range(2, probs.ndim))
    shared = (probs * target).sum(space)
    return (1 - 2 * shared / (probs.sum(space) + target.sum(space) + 1e-5)).mean()


def sigmoid_dice(logits: Tensor, target: Tensor) -> Tensor:
    """`overlap_loss` of channels that are each a yes or no; shapes as there. Source: MOD, Eq. 6."""
    return overlap_loss(logits.sigmoid(), target)


def sigmoid_focal(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of (1 - p)² (-log p) over all voxels and channels, p the probability of what is so. Shapes as above.

    Source: MOD, Eq. 7, with gamma 2 (Lin et al. 2017). Departs: as printed it is infinite, and with its two names
    exchanged it rewards the wrong class; the published logs begin at .1733, which is this at logits of 0.
    """
    return _focal(F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none"))


def class_dice(logits: Tensor, masks: Tensor) -> Tensor:
    """`overlap_loss` of the foreground's exclusive classes by softmax.

    Shapes: logits (N, K, *size); masks (N, *size) of class numbers; a scalar.
    Departs: MOD's three channels by sigmoid overlap; exclusive classes do not.
    """
    return overlap_loss(logits.softmax(1)[:, 1:], regions_of(masks, tuple((k,) for k in range(1, logits.shape[1]))))


def class_focal(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean over voxels of (1 - p)² (-log p), p the softmax of the voxel's class; shapes and departure as above."""
    return _focal(F.cross_entropy(logits, masks, reduction="none"))


def regions_of(masks: Tensor, regions: Regions) -> Tensor:
    """Which voxels are of each region, (N, *size) of class numbers -> (N, R, *size) bool."""
    return torch.stack([torch.isin(masks, masks.new_tensor(region)) for region in regions], dim=1)


def region_logits(logits: Tensor, regions: Regions) -> Tensor:
    """Logits (N, R, *size) whose sigmoid is the softmax of (N, K, *size) summed over each region's classes.

    log-sum-exp over the classes inside less that over those outside, so nothing overflows.
    Departs: MOD has a channel of its own for each region; one network with exclusive classes here serves both.
    """
    outside = [[k for k in range(logits.shape[1]) if k not in region] for region in regions]
    pairs = zip(regions, outside, strict=True)
    return torch.stack([logits[:, list(a)].logsumexp(1) - logits[:, b].logsumexp(1) for a, b in pairs], dim=1)


def checked(regions: Regions, classes: int) -> Regions:
    """The regions; ValueError unless each holds some of the classes and not all."""
    for region in regions:
        if not 0 < len(set(region)) == len(region) < classes or not set(region) <= set(range(classes)):
            raise ValueError(f"region {region} is to hold some of the classes 0 to {classes - 1}, not all, each once")
    return regions


def segmentation(logits: Tensor, masks: Tensor, regions: Regions = ()) -> dict[str, Tensor]:
    """`dice` and `focal`, of regions where there are any, else of classes; shapes as above. Source: MOD, Eq. 8."""
    if not regions:
        return {"dice": class_dice(logits, masks), "focal": class_focal(logits, masks)}
    own, target = region_logits(logits, regions), regions_of(masks, regions)
    return {"dice": sigmoid_dice(own, target), "focal": sigmoid_focal(own, target)}


def _focal(cross_entropy: Tensor) -> Tensor:
    """Mean of (1 - p)² (-log p), by -log p."""
    return (torch.expm1(-cross_entropy).square() * cross_entropy).mean()
