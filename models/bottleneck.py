"""DSD's bottleneck modules: class logits of the whole image from a feature map inside a network, in training only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from models.entry import Stage


class Bottleneck(nn.Module):
    """A feature map at 1/stride of the image to logits of the whole image, (N, c, *grid) -> (N, K, V), V as `split`.

    A 1×1×1 convolution to K channels and one transposed convolution of kernel and stride 2, with biases and nothing
    between or after, that is applied log2(stride) times with the same weights; at stride 1 its kernel is 1. In 2-D the
    same of two axes. Source: DSD, section 2.3, and its authors' code. Parameters: c·K + K + 2^dims·K² + K.
    Raises: ValueError for a stride that is no power of 2.
    """

    def __init__(self, channels: int, classes: int, *, stride: int, dims: int = 3) -> None:
        super().__init__()
        if stride < 1 or stride & (stride - 1):
            raise ValueError(f"a stage's stride is a power of 2, not {stride}")
        self.stride, self.times = stride, max(1, stride.bit_length() - 1)
        side = min(stride, 2)
        narrow, enlarge = (nn.Conv2d, nn.ConvTranspose2d) if dims == 2 else (nn.Conv3d, nn.ConvTranspose3d)
        self.narrow: nn.Module = narrow(channels, classes, 1)
        self.enlarge: nn.Module = enlarge(classes, classes, side, stride=side)

    def forward(self, features: Tensor) -> Tensor:
        kernel, bias = _weights(self.enlarge)
        logits = self._narrowed(features)
        for _ in range(self.times - 1):
            logits = enlarged(logits, kernel, bias)
        parts = _enlarged(logits, kernel, bias)
        return parts if self.stride > 1 else split(parts.view(logits.shape))

    def pooled(self, features: Tensor) -> Tensor:
        """Mean over the voxels of what `forward` gives, (N, K), without making it.

        The mean of a 1×1×1 convolution is that of its input through it; no two places of the transposed one overlap, so
        that its mean is that of its input through the mean of its kernel.
        """
        kernel, bias = _weights(self.narrow)
        mean = features.flatten(2).mean(2) @ kernel.flatten(1).T + bias
        kernel, bias = _weights(self.enlarge)
        for _ in range(self.times):
            mean = mean @ kernel.flatten(2).mean(2) + bias
        return mean

    def _narrowed(self, features: Tensor) -> Tensor:
        """(N, c, *grid) -> (N, K, *grid)."""
        kernel, bias = _weights(self.narrow)
        logits = _affine(features.flatten(2), kernel.flatten(1), bias)
        return logits.view(*logits.shape[:2], *features.shape[2:])


class Bottlenecks(nn.Module):
    """A bottleneck module a stage, {stage: (N, c, *grid)} -> {stage: (N, K, V)}, V voxels in the order of `split`.

    `channels` are those of each stage's features. Where `shared`, stages with channels and stride in common have one
    module together, as DSD's authors have it for DynUNet and SwinUNETR.
    """

    def __init__(
        self, stages: Mapping[str, Stage], channels: Mapping[str, int], classes: int, *, dims: int, shared: bool
    ) -> None:
        super().__init__()
        first: dict[tuple[int, int] | str, str] = {}
        self._of = {
            name: first.setdefault((channels[name], stage.stride) if shared else name, name)
            for name, stage in stages.items()
        }
        owners = {
            name: Bottleneck(channels[name], classes, stride=stages[name].stride, dims=dims) for name in first.values()
        }
        self.heads = nn.ModuleDict(owners)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.heads[head](features[name]) for name, head in self._of.items()}

    def pooled(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean of each stage's logits over the voxels, {stage: (N, K)}."""
        heads = {name: self.heads[head] for name, head in self._of.items()}
        return {name: head.pooled(features[name]) for name, head in heads.items() if isinstance(head, Bottleneck)}


def split(image: Tensor) -> Tensor:
    """Voxels in the order that the heads give them, (N, K, *size) -> (N, K, V), every side even.

    First all that are the first of their 2×2×2 block, then all that are the second, and so on. A loss is a sum over
    voxels, to which the order is nothing; sorting eight heads' logits into the image's cost more than all else of them
    (measured: 4.6 instead of 1.5 ms a head, of 3 classes at 2×48³, with gradients).
    """
    blocks = [length for side in image.shape[2:] for length in (side // 2, 2)]
    places = range(3, 2 + len(blocks), 2)
    return image.reshape(*image.shape[:2], *blocks).permute(0, 1, *places, *(place - 1 for place in places)).flatten(2)


def enlarged(image: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """A transposed convolution whose stride is its kernel's side, so that no two places of it overlap.

    Shapes: image (N, i, *grid); kernel (i, o, *sides), as torch's; bias (o,); returns (N, o, *(grid · sides)).
    """
    sides, grid = kernel.shape[2:], image.shape[2:]
    parts = _enlarged(image, kernel, bias).view(len(image), -1, *sides, *grid)
    order = chain.from_iterable((axis + len(sides), axis) for axis in range(2, 2 + len(sides)))
    whole = [places * side for places, side in zip(grid, sides, strict=True)]
    return parts.permute(0, 1, *order).reshape(len(image), -1, *whole)


def _enlarged(image: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """The same in the order of `split`, (N, o, V): one matrix product.

    For few channels it is 10 to 17 times as fast on a CPU as torch's own transposed convolution.
    """
    rows = kernel.flatten(2).permute(1, 2, 0).flatten(0, 1)
    biases = bias[:, None].expand(-1, math.prod(kernel.shape[2:])).flatten()
    return _affine(image.flatten(2), rows, biases).reshape(len(image), len(bias), -1)


def _affine(columns: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Weight (o, i) times columns (N, i, V) plus bias (o,), (N, o, V)."""
    return torch.baddbmm(bias[:, None], weight.expand(len(columns), -1, -1), columns)


def _weights(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution that has both."""
    return layer.get_parameter("weight"), layer.get_parameter("bias")
