"""Views of an image that differ in intensity alone, so that cell by cell they show the same tissue."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from study.mod_table import Mod


@dataclass(frozen=True)
class Shades:
    """What was drawn for n views: blur, then contrast, scale and shift. Source: MOD, section III-A and IV-B."""

    sigma: Tensor
    """Standard deviation of the blur, voxels, (n,); 0 is none."""
    gamma: Tensor
    """Exponent of the intensities between an image's lowest and highest, (n,); 1 leaves them."""
    scale: Tensor
    """Share by which intensities grow, (n,)."""
    shift: Tensor
    """What is added to them, (n,)."""

    def of(self, images: Tensor) -> Tensor:
        """Those views (n, c, *size) of n images of that shape; their labels stay as they are."""
        scale, shift = (_over(values, images) for values in (1 + self.scale, self.shift))
        return contrasted(blurred(images, self.sigma), self.gamma) * scale + shift


def draw(n: int, table: Mod) -> Shades:
    """What is done to n views, from torch's generator."""
    one, other, *rest = torch.rand(6, n)
    sigma = _between(table.blur, rest[0]) * (one < table.blur_share)
    gamma = torch.where(other < table.gamma_share, _between(table.gamma, rest[1]), torch.ones(n))
    scale, shift = ((2 * share - 1) * most for share, most in zip(rest[2:], (table.scale, table.shift), strict=True))
    return Shades(sigma, gamma, scale, shift)


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Images (n, c, *size) under a Gaussian of its own each, sigma (n,) voxels on every axis, 0 for none.

    A matrix product an axis, which takes a quarter of what convolutions of one channel do (measured at 48³). At the
    border the weights of what is inside add up to 1.
    """
    for _ in range(images.ndim - 2):  # blur the last axis, and put it before the others: in the end all are in place
        side, before = images.shape[-1], images.shape
        weights = _gaussian(side, sigma.to(images))
        images = (images.flatten(1, -2) @ weights).view(before).movedim(-1, 2)
    return images


def contrasted(images: Tensor, gamma: Tensor) -> Tensor:
    """Images (n, c, *size) whose intensities, 0 to 1 between each channel's lowest and highest, are raised to gamma."""
    space = tuple(range(2, images.ndim))
    low, high = images.amin(space, keepdim=True), images.amax(space, keepdim=True)
    span = (high - low).clamp_min(torch.finfo(images.dtype).tiny)
    return ((images - low) / span) ** _over(gamma, images) * span + low


def _gaussian(side: int, sigma: Tensor) -> Tensor:
    """(n, side, side): column j holds the weights of the voxels that make voxel j."""
    place = torch.arange(side, device=sigma.device, dtype=sigma.dtype)
    apart = (place - place[:, None]).square()
    weights = (-apart / (2 * sigma.clamp_min(1e-3).square())[:, None, None]).exp()
    return weights / weights.sum(1, keepdim=True)


def _between(bounds: tuple[float, float], share: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * share


def _over(values: Tensor, images: Tensor) -> Tensor:
    """A value an image, (n,), so that it multiplies images (n, c, *size)."""
    return values.to(images).view(-1, *(images.ndim - 1) * (1,))
