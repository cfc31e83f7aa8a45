"""What every registered network has in common: a body, what is read inside it, and which images it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from imaging.errors import InputError
from models.entry import Enlarging, Stage
from models.sizes import IMAGES, check_size, shown


class Network(nn.Module):
    """A registered network, (N, in_channels, *size) -> (N, classes, *size), each side a multiple of `multiple`.

    A size is (H, W) where `dims` is 2 and (D, H, W) where it is 3; it is `built_for` where the network takes only one.
    `taps`, `stages`, `bottom` and `beside` are paths from `body`, as `models.tap` reads them; see `models.entry.Build`.

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
        one_cell: bool = True,
        built_for: tuple[int, ...] | None = None,
        ends: Enlarging | None = None,
        dims: Literal[2, 3] = 2,
        stages: Mapping[str, Stage] | None = None,
        shares_heads: bool = False,
        bottom: Stage | None = None,
        beside: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.body = body
        self.name, self.in_channels, self.dims = name, in_channels, dims
        self.multiple, self.one_cell, self.built_for = multiple, one_cell, built_for
        self.taps, self.ends = dict(taps), ends
        self.stages, self.shares_heads, self.bottom = dict(stages or {}), shares_heads, bottom
        self.beside = beside

    def forward(self, images: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():  # an exported graph keeps its sizes free
            self._check(images)
        logits: Tensor = self.body(images)
        return logits

    def _check(self, images: Tensor) -> None:
        if images.ndim != self.dims + 2 or images.shape[1] != self.in_channels:
            raise InputError(
                f"`{self.name}` was given images of shape {tuple(images.shape)}",
                fix=f"it takes (N, {self.in_channels}, {'H, W' if self.dims == 2 else 'D, H, W'})",
            )
        size = tuple(images.shape[2:])
        check_size(size, self.multiple, one_cell=self.one_cell, what=f"`{self.name}` was given")
        if self.built_for not in (None, size):
            raise InputError(
                f"`{self.name}` was given {IMAGES[self.dims]} of {shown(size)}",
                fix=f"this one was built for {shown(self.built_for or ())}; show it those, or build it for that size",
            )
