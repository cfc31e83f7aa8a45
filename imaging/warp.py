"""The deterministic half of augmentation: moves that were drawn once a picture, applied alike to whatever lies on it.

A picture is a slice, or a patch of a volume, whose slices all move alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Hole = tuple[int, int, int, int, int]
"""A rectangle without signal: slice, first row, first column, row and column after the last."""


@dataclass(frozen=True, eq=False)
class Warp:
    """What was drawn for N slices of (H, W): a flip, then an affine move, then a bend; and changes of intensity.

    For patches (D, H, W) it is what was drawn for all slices of each, and whether their order turns round. Slices that
    only flip are moved by whole pixels, exactly. Of the others, M, a result's pixel at u, in coordinates
    that run from -1 to 1 between the slice's outer edges, is the slice at `theta` (u + bend(u)), reflected at those
    edges. Nothing here depends on a grid: an attention map (h, w) moves as its slice does, whatever its resolution.
    """

    flips: Tensor
    """(N, 2) bool, upside down and left to right; all false for the M others, whose `theta` holds their flips."""
    moved: Tensor
    """(M,) int64: the slices that do more than flip."""
    theta: Tensor
    """(M, 2, 3) float32, from a result's coordinates (x, y, 1) to the slice's (x, y)."""
    bent: Tensor
    """(B,) int64: the places in `moved` that have a bend."""
    bend: Tensor
    """(B, 2, H, W) float32: how far each of a result's pixels is bent along x and y."""
    gain: Tensor
    """(N,) float32: contrast, multiplies the normalised intensities."""
    offset: Tensor
    """(N,) float32: brightness, is added to them."""
    holes: tuple[Hole, ...]
    """Where the signal is lost."""
    upended: Tensor | None = None
    """(N,) bool: patches whose last slice becomes the first; None for slices."""
    _fields: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    def field(self, h: int, w: int) -> Tensor:
        """Where the `moved` slices are sampled for a result of (h, w): (M, h, w, 2), x before y. Made once a grid."""
        if (h, w) not in self._fields:
            field = F.affine_grid(self.theta, [len(self.theta), 1, h, w], align_corners=False)
            bends = self.bend
            if len(self.bent) and bends.shape[2:] != (h, w):
                bends = F.interpolate(bends, (h, w), mode="bilinear", align_corners=False)
            for place, bend in zip(self.bent.tolist(), bends, strict=True):
                field[place] += (self.theta[place, :, :2] @ bend.flatten(1)).T.view(h, w, 2)
            self._fields[h, w] = field
        return self._fields[h, w]

    @property
    def dims(self) -> int:
        """Axes of a picture."""
        return 2 if self.upended is None else 3

    def move(self, x: Tensor, *, mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
        """Images, logits or maps (N, C, h, w), or (N, C, d, h, w) of patches, moved; float32.

        Channels moved in one call share most of its cost.
        """
        if self.upended is None:
            return self._in_plane(x, mode)
        upright = [one.flip(1) if up else one for one, up in zip(x, self.upended.tolist(), strict=True)]
        x = torch.stack(upright)
        return self._in_plane(x.flatten(1, 2), mode).view(x.shape)

    def _in_plane(self, x: Tensor, mode: Literal["bilinear", "nearest"]) -> Tensor:
        out = torch.empty(x.shape)
        places = {int(i): place for place, i in enumerate(self.moved)}
        for i, (flip, source) in enumerate(zip(self.flips.tolist(), x, strict=True)):
            if i in places:  # one slice at a time: a batch falls out of the processor's cache
                field = self.field(x.shape[2], x.shape[3])[places[i]]
                out[i] = F.grid_sample(
                    source[None].float(), field[None], mode=mode, padding_mode="reflection", align_corners=False
                )[0]
            else:
                out[i] = source.flip([axis + 1 for axis in (0, 1) if flip[axis]])
        return out

    def move_masks(self, masks: Tensor) -> Tensor:
        """Class labels (N, h, w) or (N, d, h, w) of any integer type, moved; each takes the nearest label."""
        return self.move(masks[:, None], mode="nearest")[:, 0].to(masks.dtype)

    def shade(self, images: Tensor) -> Tensor:
        """Images (N, c, H, W) or (N, c, D, H, W), already moved, of other contrast and brightness, with holes at 0.

        0 is the scan's mean intensity, or the middle of the CT window.
        """
        each = (-1, *[1] * (images.ndim - 1))
        out = images * self.gain.view(each) + self.offset.view(each)
        for n, top, left, bottom, right in self.holes:
            out[n, ..., top:bottom, left:right] = 0
        return out
