"""Which pictures the sites are asked about: the student's slices, and `[answers] views` seeded variations of each.

A picture's number is its slice's plus the number of all slices for each view before it; view 0 is the slice itself.
What a view shows depends on the study's seed and `[augment]`, the slice and the view alone, so that the picture that a
teacher was asked about is made again, bit for bit, when the student learns from the answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imaging.augment_plan import Augment
from imaging.slices import SliceCache
from study.draws import derived

Ids = NDArray[np.int64]


def numbered(slices: SliceCache, ids: Ids, view: int | Ids) -> Ids:
    """Numbers of the pictures of these slices in a view, or in a view for each."""
    return ids + view * len(slices.images)


def pictures(
    slices: SliceCache, numbers: Ids, *, seed: int, augment: Augment
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Those pictures (N, 1, H, W) and their masks (N, H, W)."""
    views, ids = np.divmod(numbers, len(slices.images))
    images, masks = slices.images[ids][:, None], slices.masks[ids]
    for n in np.flatnonzero(views):
        images[n], masks[n] = _varied(images[n], masks[n], augment, derived(seed, "view", int(ids[n]), int(views[n])))
    return images, masks


def _varied(
    image: NDArray[np.float16], mask: NDArray[np.uint8], augment: Augment, seed: int
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """One picture (1, H, W) and its mask (H, W), varied."""
    import torch  # noqa: PLC0415 (the coordinator does without it where no views are asked for)

    from imaging.augment import draw  # noqa: PLC0415

    warp = draw(augment, seed, size=mask.shape, n=1)
    moved = warp.shade(warp.move(torch.from_numpy(image)[None]))
    return moved[0].numpy().astype(np.float16), warp.move_masks(torch.from_numpy(mask)[None])[0].numpy()
