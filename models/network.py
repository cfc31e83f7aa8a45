"""What every registered network has in common: a body, its taps, and which images it takes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from imaging.errors import InputError
from models.registry import Enlarging


class Network(nn.Module):
    """A registered network, (N, in_channels, H, W) -> (N, classes, H, W), with H and W multiples of `multiple`.

    Raises: InputError for an image of other channels or size, naming those that fit.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        name: str,
        in_channels: int,
        taps: Mapping[str, str],
        multiple: int = 1,
        ends: Enlarging | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.name, self.in_channels, self.multiple = name, in_channels, multiple
        self.taps, self.ends = dict(taps), ends

    def forward(self, images: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():  # an exported graph keeps its sizes free
            self._check(images)
        logits: Tensor = self.body(images)
        return logits

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise InputError(
                f"`{self.name}` was given images of shape {tuple(images.shape)}",
                fix=f"it takes (N, {self.in_channels}, H, W)",
            )
        height, width = images.shape[2:]
        down = [size // self.multiple * self.multiple for size in (height, width)]
        if [height, width] != down or min(down) == 0:
            up = [-(-max(size, 1) // self.multiple) * self.multiple for size in (height, width)]
            fits = [f"{h} × {w}" for h, w in (down, up) if min(h, w) > 0]
            raise InputError(
                f"`{self.name}` was given slices of {height} × {width}",
                fix=f"height and width are multiples of {self.multiple}, such as {' or '.join(fits)}",
            )
