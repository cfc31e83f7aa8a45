"""`imaging.preprocess`'s normalisation as a torch module, for exported students: the same to the last bit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import ceil, prod

import torch
from torch import Tensor, nn

from imaging.preprocess import Preprocess


class Normalise(nn.Module, ABC):
    """Intensities (N, c, H, W) float32 of one whole scan, NaN beyond it -> what `Sampled.normalised` gives, as float32.

    Statistics are taken in float64, everything else in float32, and the result is rounded to float16, all as there.
    """

    def forward(self, intensities: Tensor) -> Tensor:
        channels = range(intensities.shape[1])
        return torch.cat([self.channel(intensities[:, index : index + 1]) for index in channels], dim=1)

    def channel(self, intensities: Tensor) -> Tensor:
        """One channel (N, 1, H, W) by its own statistics."""
        inside = ~intensities.isnan()
        low, high, centre, scale = self.scaling(intensities, inside)
        clipped = intensities.clamp(low.float(), high.float())
        scaled = (clipped - centre.float()) / scale.float()
        return torch.where(inside, scaled, ((low - centre) / scale).float()).half().float()

    @abstractmethod
    def scaling(self, intensities: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both ends to clip at, centre and scale, float64 scalars."""


class Window(Normalise):
    """CT: the window becomes [-1, 1]."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        ends = torch.tensor([low, high, (low + high) / 2, (high - low) / 2], dtype=torch.float64)
        self.ends: Tensor
        self.register_buffer("ends", ends)

    def scaling(self, intensities: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        low, high, centre, scale = self.ends.unbind()
        return low, high, centre, scale


class MinMax(Normalise):
    """MR: the scan's range becomes [0, 1]."""

    def scaling(self, intensities: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        infinity = torch.tensor(torch.inf)
        low = torch.where(inside, intensities, infinity).min().double()
        high = torch.where(inside, intensities, -infinity).max().double()
        return low, high, low, high - low


class PercentileZScore(Normalise):
    """MR: clipped at two percentiles, then mean 0 and deviation 1; of the scan without its lowest value."""

    def __init__(self, percentiles: tuple[float, float]) -> None:
        super().__init__()
        self.shares: Tensor
        self.register_buffer("shares", torch.tensor(percentiles, dtype=torch.float64) / 100)
        self.tails = percentiles[0] / 100, 1 - percentiles[1] / 100

    def scaling(self, intensities: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        infinity = torch.tensor(torch.inf)
        seen = inside & (intensities > torch.where(inside, intensities, infinity).min())
        count = seen.sum()
        place = (count - 1) * self.shares
        below, last = place.floor().long(), count - 1
        lowest = least(torch.where(seen, intensities, infinity), self.tails[0])
        highest = -least(torch.where(seen, -intensities, infinity), self.tails[1])
        low = between(lowest[below[0]], lowest[torch.minimum(below[0] + 1, last)], place[0] - below[0])
        high = between(highest[last - below[1]], highest[(last - below[1] - 1).clamp(min=0)], place[1] - below[1])
        kept = intensities.clamp(low.float(), high.float()).double()
        nothing = torch.zeros((), dtype=torch.float64)
        centre = torch.where(seen, kept, nothing).sum() / count
        scale = (torch.where(seen, (kept - centre).square(), nothing).sum() / count).sqrt()
        return low, high, centre, scale


def least(values: Tensor, share: float) -> Tensor:
    """At least that share of the values (N, 1, H, W), the lowest first; to sort all took forty times as long."""
    n, pixels = values.shape[0], prod(values.shape[1:])
    return values.flatten().topk(min(n * ceil(pixels * share) + 2, n * pixels), largest=False).values


def between(left: Tensor, right: Tensor, share: Tensor) -> Tensor:
    """What lies that share of the way from one neighbour to the next, float64 scalar.

    In the very steps of `numpy.percentile`: their difference in float32, the rest in float64.
    """
    step = (right - left).double()
    return torch.where(share < 0.5, left.double() + step * share, right.double() - step * (1 - share))


def normalise(plan: Preprocess) -> Normalise:
    """The module for that plan."""
    if plan.normalise == "window":
        return Window(*plan.window_hu)
    return MinMax() if plan.normalise == "min-max" else PercentileZScore(plan.percentiles)
