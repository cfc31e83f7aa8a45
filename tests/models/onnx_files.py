"""Real ONNX files, exported from tiny networks."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """Two convolutions, with whatever comes `before` and `after` them."""

    def __init__(self, classes: int = 3, *, after: nn.Module | None = None, channels: int = 1, stride: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.first = nn.Conv2d(channels, 5, 3, padding=1, stride=stride)
            self.last = nn.Conv2d(5, classes, 1)
        self.after = after or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.after(self.last(self.first(images).relu()))
        return logits


class ArgMax(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits.argmax(1)


class Last(nn.Module):
    """Classes in the last place, as TensorFlow has them."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.movedim(1, 3)


class Nan(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return (logits - 1e6).sqrt()


class Twice(nn.Module):
    """A second output, as of a model with deep supervision."""

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits, logits * 2


def export(
    network: nn.Module,
    path: Path,
    *,
    shape: tuple[int, int, int, int] = (2, 1, 16, 24),
    free: tuple[int, ...] = (0, 2, 3),
) -> Path:
    """The network as an ONNX file for images of that shape, the axes in `free` of any length."""
    sample = torch.zeros(shape)
    outputs = ["out", "aux"][: 2 if isinstance(network(sample), tuple) else 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the old exporter takes 0.1 s, the new one 5
        torch.onnx.export(
            network.eval(),
            (sample,),
            path,
            dynamo=False,
            input_names=["image"],
            output_names=outputs,
            dynamic_axes={name: {axis: f"axis{axis}" for axis in free} for name in ["image", *outputs] if free},
        )
    return path
