"""What a teacher tells of slices, and the student learns: logits, attention, affinities, contrasts of regions.

Shapes are told for slices; a patch has its depth before (H, W), its features theirs before (h, w).

The one copy of both: a site computes its answers with it and the central trainer the student's side, so that the two
ends cannot drift apart. Half precision is raised to float32, also under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.contents import NODES, Grid, arrays_of, half
from models.registry import TAPS
from models.taps import opaque, tap, unwrapped

NO_MASK = 255
"""Mask value of a slice that nobody has outlined."""
CORRECTIONS = 3
"""Each costs an enlargement and an average."""
SMALLEST_NORM = 1e-8
"""A region feature shorter than this has no direction to compare."""


def told(
    network: nn.Module, images: Tensor, masks: Tensor, *, classes: int, wants: Collection[str], grid: Grid = "full"
) -> dict[str, Tensor]:
    """The contents that `wants` names, as `network` tells them of a batch of slices, under the arrays' names.

    Shapes: images (N, 1, H, W) float32, masks (N, H, W) of class numbers or `NO_MASK`; the arrays (N, …) as
    `models.contents` has them, in float32 where they are numbers, on the network's device; logits on the `grid` that
    travels. The network is in evaluation mode already. One without taps tells logits alone.
    """
    if opaque(network):
        wants = {"logits"}.intersection(wants)
    ends = getattr(unwrapped(network), "ends", None) if grid != "full" else None
    names = (*(TAPS if set(wants) - {"logits"} else ()), *([ends.of] if ends else ()))
    with tap(network, names) as features:
        logits = network(images)
    size = tuple(images.shape[2:])
    if ends and features[ends.of].shape[2:] == ends.grid(size):
        logits = features[ends.of]
    elif grid == "half":
        logits = shrunk(logits, half(size))
    found = {"logits": logits.float()} if "logits" in wants else {}
    for name in (array for content in wants if content != "logits" for array in arrays_of(content)):
        group, _, place = name.partition("/")
        if group in SAYS:
            found[name] = SAYS[group](features[place])
        elif group == "contrast":
            found[name], found[f"valid/{place}"] = region_contrast(features[place], masks, classes)
        elif group == "prototypes":
            maps, found[f"present/{place}"] = prototype_maps(features[place], masks, classes)
            found[name] = maps
    return found


def attention_map(features: Tensor, *, p: int = 1) -> Tensor:
    """Where a network looks: the sum over channels of |f|^p, at least 0.

    Shapes: features (N, c, h, w), returns (N, h, w). Source: AMTKD Eq. 3 (p = 1); Zagoruyko & Komodakis 2017 prefer
    p = 2, EMKD takes 4.
    """
    magnitude = _precise(features).abs()
    return (magnitude if p == 1 else magnitude.pow(p)).sum(dim=1)


def enlarged(logits: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Logits or maps (N, C, h, w) on another grid, such as the slice's own (H, W), as the networks enlarge them."""
    mode = "bilinear" if logits.ndim == 4 else "trilinear"
    return F.interpolate(logits, list(size), mode=mode, align_corners=align_corners)


def averaged(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """Maps (N, C, H, W) as means over the cells of a coarser grid (h, w)."""
    if maps.ndim == 4:
        return F.adaptive_avg_pool2d(maps, (grid[0], grid[1]))
    return F.adaptive_avg_pool3d(maps, (grid[0], grid[1], grid[2]))


def shrunk(logits: Tensor, grid: Sequence[int]) -> Tensor:
    """Logits (N, C, H, W) on a coarser grid (h, w), chosen such that `enlarged` they come near what they were.

    Averages alone, enlarged, are blurred: they cost a mixture of U-Nets 0.8 points of Dice (docs/answers.md), of which
    `CORRECTIONS` by what the enlargement misses leave 0.1, and more of them no less.
    """
    coarse = averaged(logits, grid)
    for _ in range(CORRECTIONS):
        coarse = coarse + averaged(logits - enlarged(coarse, logits.shape[2:]), grid)
    return coarse


def halved(values: Tensor) -> Tensor:
    """Logits or features as float16, those beyond its range at its ends: an answer never holds infinity."""
    highest = torch.finfo(torch.float16).max
    return values.float().clamp(-highest, highest).half()


def scaled(maps: Tensor) -> Tensor:
    """Maps (N, h, w), at least 0, with their maximum at 1, so that float16 holds them; a map of zeros stays.

    Only the direction of an attention map counts, so nothing is lost, but for a loss that would compare raw sizes.
    """
    most = maps.flatten(1).amax(1).clamp_min(torch.finfo(maps.dtype).tiny)
    return maps / most.view(-1, *[1] * (maps.ndim - 1))


def affinity(features: Tensor, *, nodes: int = NODES) -> Tensor:
    """How alike every two places of a feature map are: cosines between its nodes, (N, m, m), m = `nodes`², a patch ³.

    Shapes: features (N, c, h, w), max-pooled to `nodes` × `nodes`. Source: SKD (Liu et al. 2019), pair-wise.
    Departs: its code pools with half the map as kernel and rounds up, which gives 4 nodes on even grids and 9 on odd
    ones; ours are as many on every grid, so that teacher and student need not have the same.
    """
    with torch.autocast(features.device.type, enabled=False):
        pool = F.adaptive_max_pool2d if features.ndim == 4 else F.adaptive_max_pool3d
        units = F.normalize(pool(_precise(features), nodes).flatten(2), dim=1)
        return units.transpose(1, 2) @ units


def prototype_maps(features: Tensor, mask: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Cosine between each place and each class's mean feature, (N, C, h, w), and which classes are there, (N, C) bool.

    Shapes: features (N, c, h, w), mask (N, H, W) of class numbers or `NO_MASK`. 0 where the class is absent. Source:
    ProtoKD (Wang et al. 2023). Departs: a class counts in the slices that show it; its code wants it in all of a batch.
    """
    features = _precise(features)
    regions, area, outlined = region_means(features, mask, classes)
    there = (area > 0) & (torch.linalg.vector_norm(regions, dim=2) > SMALLEST_NORM) & outlined[:, None]
    with torch.autocast(features.device.type, enabled=False):
        cosines = F.normalize(regions, dim=2) @ F.normalize(features.flatten(2), dim=1)
    maps = cosines.where(there[..., None], 0.0)
    return maps.view(*maps.shape[:2], *features.shape[2:]), there


def region_contrast(features: Tensor, mask: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Cosine between the mean features of every two classes' regions, in [-1, 1], and where it is valid.

    Shapes: features (N, c, h, w); mask (N, H, W) of class numbers; returns contrast (N, P) and valid (N, P) bool, the
    P = C (C - 1) / 2 pairs in the order (0, 1), (0, 2), …, (1, 2), …. A pair is invalid, and its contrast 0, where a
    class is absent or has a feature of norm 0, and in a slice that holds NO_MASK anywhere. Source: AMTKD Eq. 4, "rc"
    after EMKD (Qin et al. 2021).
    Departs: EMKD takes the top-left pixel of each cell for the mask on the feature grid; we take areas, so that no
    class that is present is lost, each network on its own grid.
    """
    regions, area, outlined = region_means(_precise(features), mask, classes)
    norm = torch.linalg.vector_norm(regions, dim=2)
    there = (area > 0) & (norm > SMALLEST_NORM) & outlined[:, None]
    unit = regions / norm.clamp_min(SMALLEST_NORM)[..., None]
    a, b = torch.combinations(torch.arange(classes, device=mask.device)).T
    valid = there[:, a] & there[:, b]
    contrast = (unit[:, a] * unit[:, b]).sum(dim=2)
    return torch.where(valid, contrast, 0), valid


def region_means(features: Tensor, mask: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean feature of each class's region (N, C, c), the regions' areas in cells (N, C), outlined slices (N,) bool."""
    with torch.autocast(features.device.type, enabled=False):
        share, outlined = region_shares(mask, classes, features)
        sums = share.flatten(2) @ features.flatten(2).transpose(1, 2)
        area = share.flatten(2).sum(2)
        return sums / area.clamp_min(torch.finfo(area.dtype).tiny)[..., None], area, outlined


def region_shares(mask: Tensor, classes: int, features: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each cell of the features' grid each class covers, and which slices are outlined at all.

    Shapes: mask (N, H, W), features (N, c, h, w); returns shares (N, C, h, w) in [0, 1], and (N,) bool.
    Raises: ValueError when the two hold different numbers of slices or the mask knows more classes.
    """
    if mask.ndim != features.ndim - 1 or len(mask) != len(features):
        raise ValueError(f"mask {tuple(mask.shape)} does not belong to features {tuple(features.shape)}")
    outlined = (mask != NO_MASK).flatten(1).all(1)
    known = torch.where(outlined.view(-1, *[1] * (mask.ndim - 1)), mask, 0)
    if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < classes:
        raise ValueError(f"mask values reach from {known.min()} to {known.max()}, outside 0 to {classes - 1}")
    each = torch.arange(classes, device=mask.device).view(-1, *[1] * (mask.ndim - 1))
    return averaged((known[:, None] == each).to(features.dtype), features.shape[2:]), outlined


def _precise(features: Tensor) -> Tensor:
    """The same values in float32 at least."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


SAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "attention": lambda maps: scaled(attention_map(maps)),
    "attention-2": lambda maps: scaled(attention_map(maps, p=2)),
    "attention-4": lambda maps: scaled(attention_map(maps, p=4)),
    "affinity": affinity,
    "features": lambda maps: maps.float(),
}
"""How an array comes of a tap's features alone."""
