"""A scan as a network sees it: axial slices, or patches of their stack, of one scale of intensities; and the way back.

Both ends of a query must prepare alike; `Preprocess.fingerprint` is what they compare. Images are float16 from here
on, in the cache, on the wire and for every network, so that teacher and student see the same values to the last bit.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from imaging.errors import InputError
from imaging.grid import Axis, Grid, grid_of, to_native
from imaging.volume import Volume, reorient

__all__ = ["NO_MASK", "Axis", "Grid", "Prepared", "Preprocess", "Sampled", "prepare", "sample", "to_native"]

PREPROCESS_VERSION = 1
"""Part of the fingerprint; goes up when this file prepares a scan differently."""
NO_MASK = 255
"""Mask value of a slice nobody has outlined."""

Pixels = Annotated[int, Field(ge=8, le=4096)]
Voxels = Annotated[int, Field(ge=8, le=512)]
Scaling = tuple[float, float, float, float]
"""Both ends to clip at, centre and scale."""
Millimetres = Annotated[float, Field(gt=0)]


class Preprocess(BaseModel):
    """`[preprocess]` of study.toml: how a scan becomes what a network sees, at every site and centrally."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    size: tuple[Pixels, Pixels] = (384, 384)
    """Rows and columns of a slice, cropped or padded about the scan's centre (AMTKD, section 4.4.1: 384 × 384)."""
    spacing_mm: tuple[Millimetres, ...] | None = Field(None, min_length=2, max_length=3)
    """Millimetres between rows and between columns, resampled in the plane; with a number before them also between
    slices; the scan's own when absent."""
    patch: tuple[Voxels, Voxels, Voxels] | None = None
    """Slices, rows and columns of the patches that networks of volumes see, such as [32, 32, 32]; networks of slices
    see one whole slice each when absent."""
    overlap: float = Field(0.25, ge=0, le=0.9)
    """Share of its side by which a patch overlaps the next where a whole scan is read (DSD, section 3.1: 25 %)."""
    thin: Literal["refuse", "pad"] = "refuse"
    """What becomes of a scan with fewer slices than a patch: put aside, or padded at both ends."""
    normalise: Literal["percentile-zscore", "min-max", "window"] = "percentile-zscore"
    """MR: clip at `percentiles`, then mean 0 and deviation 1 a scan and channel; or its range to [0, 1]. CT: clip to
    `window_hu`, then scale to [-1, 1]."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """MR: intensities are clipped here; taken, as mean and deviation, over the field of view without empty padding."""
    window_hu: tuple[float, float] = (-160.0, 240.0)
    """CT: the window's lower and upper end in Hounsfield units; as it stands, soft tissue of the abdomen."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError("`percentiles` holds a lower and a higher share of 100, such as [0.5, 99.5]")
        if not self.window_hu[0] < self.window_hu[1]:
            raise ValueError("`window_hu` holds a lower and a higher number of Hounsfield units, such as [-160, 240]")
        if self.patch and (self.patch[1] > self.size[0] or self.patch[2] > self.size[1]):
            raise ValueError(f"`patch` {list(self.patch)} is larger than a slice of `size` {list(self.size)}")
        if not self.patch and self.spacing_mm and len(self.spacing_mm) == 3:
            raise ValueError("`spacing_mm` of three numbers is for patches; name their size by `patch`")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what a network sees: (H, W) of a slice, or (D, H, W) of a patch."""
        return self.patch or self.size

    @property
    def pictures(self) -> str:
        """What several of these are called."""
        return "patches" if self.patch else "slices"

    def fingerprint(self) -> str:
        """Twelve hex digits that change with any setting, and with this file's version."""
        unused = set() if self.patch else {"patch", "overlap", "thin"}
        note = {"version": PREPROCESS_VERSION, **self.model_dump(mode="json", exclude=unused)}
        return hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Sampled:
    """A scan's own intensities at the network's voxels, (N, c, H, W) float32, NaN beyond the scan; and the way back."""

    intensities: NDArray[np.float32]
    grid: Grid
    scalings: tuple[Scaling, ...]
    """Of each channel."""

    def normalised(self) -> NDArray[np.float16]:
        """Clipped and scaled, (N, c, H, W); beyond the scan lies the lower end."""
        images, covered = np.empty(self.intensities.shape, np.float16), self.grid.covered()
        for channel, (low, high, centre, scale) in enumerate(self.scalings):
            scaled = (np.clip(self.intensities[:, channel], low, high) - centre) / scale
            images[:, channel] = np.where(covered, scaled, (low - centre) / scale)
        return images


@dataclass(frozen=True)
class Prepared:
    """`images` (N, c, H, W) float16, `masks` (N, H, W) uint8 (`NO_MASK` throughout without one), and the way back."""

    images: NDArray[np.float16]
    masks: NDArray[np.uint8]
    grid: Grid


def prepare(
    image: Volume, mask: Volume | None, plan: Preprocess, *, classes: int | None = None, channels: int = 1
) -> Prepared:
    """One scan, and its mask on the same voxels, as a stack of axial slices from feet to head.

    Padding takes the lower end of the clipped intensities in `images` and 0 in `masks`.
    Raises: InputError when the image has no three axes or other than `channels`, is not finite or holds one value only,
    or has fewer slices than a patch; when the mask has another shape, values that are no class (all below `classes`),
    or nothing outlined inside the slices.
    """
    if channels != image.channels:
        raise other_channels(image.channels, channels)
    sampled = sample(image, plan)
    images, grid = sampled.normalised(), sampled.grid
    if mask is None:
        return Prepared(images, np.full(grid.whole, NO_MASK, np.uint8), grid)
    _check_mask(mask, image, classes)
    masks = _labels(reorient(mask).array, grid)
    if not masks.any():
        raise InputError(
            "nothing is outlined where the network looks (the mask is empty, or off the scan's centre)",
            fix="outline the organ, remove the mask, or widen the study's `preprocess.size`",
        )
    return Prepared(images, masks, grid)


def sample(image: Volume, plan: Preprocess) -> Sampled:
    """One scan as axial slices from feet to head, before its intensities are normalised.

    Raises: InputError when the image has no three axes, has fewer slices than a patch, is not finite or holds one value
    only, here or in the slices.
    """
    _check_image(image)
    grid = _placed(image, plan)
    planes, covered = reorient(image).array, grid.covered()
    channels = np.moveaxis(planes, 3, 0) if planes.ndim == 4 else planes[None]
    stack = np.empty((grid.slices.size, len(channels), *plan.size), np.float32)
    scalings = []
    for index, channel in enumerate(channels):
        stack[:, index] = grid.to_slices(channel)
        scaling = SCALINGS[plan.normalise](stack[:, index][covered], plan)
        if scaling[-1] == 0:
            raise InputError("the image is flat where the network looks", fix="widen `preprocess.size`")
        stack[:, index][~covered] = np.nan
        scalings.append(scaling)
    return Sampled(stack, grid, tuple(scalings))


def _placed(image: Volume, plan: Preprocess) -> Grid:
    """Where the stack lies in the scan, at least as deep as a patch; InputError where it would have to be padded."""
    least = plan.patch[0] if plan.patch else 1
    own = grid_of(image, plan.size, plan.spacing_mm)
    if own.slices.size >= least:
        return own
    if plan.thin == "refuse":
        raise InputError(
            f"the scan has {own.slices.size} slices, and a patch has {least}",
            fix='choose a flatter `preprocess.patch`, or `thin = "pad"`',
        )
    return grid_of(image, plan.size, plan.spacing_mm, least=least)


def other_channels(has: int, wanted: int) -> InputError:
    """The error of a scan with other sequences than the study names."""
    return InputError(
        f"the scan has {has} channel{'s' * (has > 1)}, the study names {wanted}",
        fix="export the sequences that `task.channels` names into one file, in that order",
    )


def _check_image(image: Volume) -> None:
    if image.array.ndim not in (3, 4) or 0 in image.array.shape:
        raise InputError(
            f"the image is {' × '.join(map(str, image.array.shape))}, not slices × rows × columns",
            fix="export one three-dimensional scan a case",
        )
    if not np.isfinite(image.array).all():
        raise InputError("the image holds NaN or infinity", fix="export the scan again")
    if image.array.min() == image.array.max():
        raise InputError("the image holds one value only", fix="export the scan again")


def _check_mask(mask: Volume, image: Volume, classes: int | None) -> None:
    if reorient(mask).array.shape != reorient(image).array.shape[:3]:
        raise InputError(
            f"the mask has {mask.array.shape} voxels, its image {image.array.shape}",
            fix="export the mask on the image's grid",
        )
    values = np.unique(mask.array)
    highest = NO_MASK - 1 if classes is None else classes - 1
    foreign = values[(values < 0) | (values > highest) | (values != np.round(values))]
    if foreign.size:
        raise InputError(
            f"the mask holds {', '.join(f'{value:g}' for value in foreign[:5])}, classes are 0 to {highest}",
            fix="renumber the mask's labels to the order of `task.classes`",
        )


def _window(seen: NDArray[np.float32], plan: Preprocess) -> Scaling:
    """The window becomes [-1, 1]."""
    low, high = plan.window_hu
    return low, high, (low + high) / 2, (high - low) / 2


def _range(seen: NDArray[np.float32], plan: Preprocess) -> Scaling:
    """What the network sees becomes [0, 1]."""
    low, high = float(seen.min()), float(seen.max())
    return low, high, low, high - low


def _spread(seen: NDArray[np.float32], plan: Preprocess) -> Scaling:
    """Mean 0 and deviation 1 of what the network sees: how much air lies around it differs.

    All without the lowest value: scanners and de-identification fill with it what they leave out.
    """
    seen = seen[seen > seen.min()]
    if not seen.size:
        return 0.0, 0.0, 0.0, 0.0
    low, high = np.percentile(seen, plan.percentiles).tolist()
    kept = np.clip(seen, low, high)
    return low, high, float(kept.mean(dtype=np.float64)), float(kept.std(dtype=np.float64))


def _labels(planes: NDArray[Any], grid: Grid) -> NDArray[np.uint8]:
    """The class that covers most of each slice pixel, (D, H, W); a class at a time, to spare memory."""
    best = np.zeros(grid.whole, np.float32)
    labels = np.zeros(best.shape, np.uint8)
    for value in np.unique(planes):
        share = grid.to_slices(planes == value)
        labels[share > best] = value
        np.maximum(best, share, out=best)
    return labels


SCALINGS = {"window": _window, "min-max": _range, "percentile-zscore": _spread}
"""How the voxels that a network sees of one channel say where to clip them, their centre and scale."""
