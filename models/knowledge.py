"""What a teacher tells of slices, and the student learns: logits, attention maps and region contrast.

The one copy of both: a site computes its answers with it and the central trainer the student's side, so that the two
ends cannot drift apart. Half precision is raised to float32, also under autocast.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.registry import TAPS
from models.taps import tap

NO_MASK = 255
"""Mask value of a slice that nobody has outlined."""
SMALLEST_NORM = 1e-8
"""A region feature shorter than this has no direction to compare."""


def told(
    network: nn.Module, images: Tensor, masks: Tensor, *, classes: int, wants: Collection[str]
) -> dict[str, Tensor]:
    """What `network` tells of a batch of slices, on the network's device, under the flat names of answers.

    Always `logits` (N, C, H, W) float16; where `wants` names them, for each tap `attention/TAP` (N, h, w) float16 with
    its maximum at 1 in every slice, and `contrast/TAP` (N, P) float32 with `valid/TAP` (N, P) bool. Shapes: images
    (N, 1, H, W) float32, masks (N, H, W) of class numbers or `NO_MASK`. The network is in evaluation mode already.
    """
    with ExitStack() as stack:
        features = stack.enter_context(tap(network, TAPS)) if set(wants) - {"logits"} else {}
        found = {"logits": halved(network(images))}
    for name, maps in features.items():
        if "attention" in wants:
            found[f"attention/{name}"] = scaled(attention_map(maps)).half()
        if "contrast" in wants:
            found[f"contrast/{name}"], found[f"valid/{name}"] = region_contrast(maps, masks, classes)
    return found


def attention_map(features: Tensor, *, p: int = 1) -> Tensor:
    """Where a network looks: the sum over channels of |f|^p, at least 0.

    Shapes: features (N, c, h, w), returns (N, h, w). Source: AMTKD Eq. 3 (p = 1); Zagoruyko & Komodakis 2017 prefer
    p = 2, EMKD takes 4.
    """
    magnitude = _precise(features).abs()
    return (magnitude if p == 1 else magnitude.pow(p)).sum(dim=1)


def halved(logits: Tensor) -> Tensor:
    """Logits as float16, those beyond its range at its ends: an answer never holds infinity."""
    highest = torch.finfo(torch.float16).max
    return logits.float().clamp(-highest, highest).half()


def scaled(maps: Tensor) -> Tensor:
    """Maps (N, h, w), at least 0, with their maximum at 1, so that float16 holds them; a map of zeros stays.

    Only the direction of an attention map counts, so nothing is lost.
    """
    return maps / maps.amax((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def region_contrast(features: Tensor, mask: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Cosine between the mean features of every two classes' regions, in [-1, 1], and where it is valid.

    Shapes: features (N, c, h, w); mask (N, H, W) of class numbers; returns contrast (N, P) and valid (N, P) bool, the
    P = C (C - 1) / 2 pairs in the order (0, 1), (0, 2), …, (1, 2), …. A pair is invalid, and its contrast 0, where a
    class is absent or has a feature of norm 0, and in a slice that holds NO_MASK anywhere. Source: AMTKD Eq. 4, "rc"
    after EMKD (Qin et al. 2021).
    Departs: EMKD takes the top-left pixel of each cell for the mask on the feature grid; we take areas, so that no
    class that is present is lost, each network on its own grid.
    """
    features = _precise(features)
    with torch.autocast(features.device.type, enabled=False):
        share, outlined = region_shares(mask, classes, features)
        sums = torch.einsum("nkhw,nchw->nkc", share, features)
        area = share.sum(dim=(2, 3))
        regions = sums / area.clamp_min(torch.finfo(area.dtype).tiny)[..., None]
    norm = torch.linalg.vector_norm(regions, dim=2)
    there = (area > 0) & (norm > SMALLEST_NORM) & outlined[:, None]
    unit = regions / norm.clamp_min(SMALLEST_NORM)[..., None]
    a, b = torch.combinations(torch.arange(classes, device=mask.device)).T
    valid = there[:, a] & there[:, b]
    contrast = (unit[:, a] * unit[:, b]).sum(dim=2)
    return torch.where(valid, contrast, 0), valid


def region_shares(mask: Tensor, classes: int, features: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each cell of the features' grid each class covers, and which slices are outlined at all.

    Shapes: mask (N, H, W), features (N, c, h, w); returns shares (N, C, h, w) in [0, 1], and (N,) bool.
    Raises: ValueError when the two hold different numbers of slices or the mask knows more classes.
    """
    if mask.ndim != 3 or len(mask) != len(features):
        raise ValueError(f"mask {tuple(mask.shape)} does not belong to features {tuple(features.shape)}")
    outlined = (mask != NO_MASK).all(dim=2).all(dim=1)
    known = torch.where(outlined[:, None, None], mask, 0)
    if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < classes:
        raise ValueError(f"mask values reach from {known.min()} to {known.max()}, outside 0 to {classes - 1}")
    one_hot = known[:, None] == torch.arange(classes, device=mask.device)[:, None, None]
    return F.adaptive_avg_pool2d(one_hot.to(features.dtype), (features.shape[2], features.shape[3])), outlined


def _precise(features: Tensor) -> Tensor:
    """The same values in float32 at least."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
