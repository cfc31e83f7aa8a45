"""Which pictures the sites are asked about: the student's slices, and `[answers] views` seeded variations of each.

A picture's number is its slice's plus the number of all slices for each view before it; view 0 is the slice itself.
What a picture shows depends on the study's seed and `[augment]`, its slice and its number alone. So a site makes it
from the slice that it was sent, and the central trainer makes the same again when the student learns from the answer.
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
    """Those pictures (N, c, *shape) and their masks (N, *shape)."""
    views, ids = np.divmod(numbers, len(slices.images))
    images, masks = slices.images[ids], slices.masks[ids]
    varied = views > 0
    if varied.any():
        images[varied], masks[varied] = variations(images[varied], masks[varied], numbers[varied], seed, augment)
    return images, masks


def variations(
    images: NDArray[np.float16], masks: NDArray[np.uint8], numbers: Ids, seed: int, augment: Augment
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """What these slices (N, c, H, W) or patches, and their masks, look like as the pictures of those numbers."""
    import torch  # noqa: PLC0415 (the coordinator, which never varies anything, does without it)

    from imaging.augment import draw  # noqa: PLC0415

    images, masks = images.copy(), masks.copy()
    for n, number in enumerate(numbers.tolist()):
        warp = draw(augment, derived(seed, "view", number), size=masks.shape[1:], n=1)
        moved = warp.shade(warp.move(torch.from_numpy(images[n : n + 1])))
        images[n] = moved[0].numpy().astype(np.float16)
        masks[n] = warp.move_masks(torch.from_numpy(masks[n : n + 1]))[0].numpy()
    return images, masks
