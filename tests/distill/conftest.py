"""Small students, batches and teachers' answers; every size an unequal prime."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from distill.schemes.base import Batch, TeacherBatch

N, T, H, W = 5, 3, 23, 29


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


class TinyStudent(nn.Module):
    """Three layers with the taps' names, `encoder` at half and `decoder` at full resolution."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(1, 7, 3, stride=2, padding=1)
        self.decoder = nn.Conv2d(7, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Conv2d(5, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.encoder(images).relu()
        features = nn.functional.interpolate(features, images.shape[2:])
        logits: Tensor = self.head(self.norm(self.decoder(features).relu()))
        return logits


@pytest.fixture
def student() -> Callable[[int], nn.Module]:
    return TinyStudent


@pytest.fixture
def batch() -> Callable[..., Batch]:
    """A batch of `classes`, its last `unlabelled` slices without a mask."""

    def make(classes: int, *, unlabelled: int = 2, teachers: int = T) -> Batch:
        pairs = classes * (classes - 1) // 2
        masks = torch.randint(classes, (N, H, W))
        masks[N - unlabelled :] = 255
        grids = [(3, 5), (5, 7), (11, 13)][:teachers]
        answers = TeacherBatch(
            logits=torch.randn(N, teachers, classes, H, W),
            answered=torch.ones(N, teachers, dtype=torch.bool),
            attention={tap: [torch.rand(N, *grid) for grid in grids] for tap in ("encoder", "decoder")},
            contrast={tap: torch.rand(N, teachers, pairs) for tap in ("encoder", "decoder")},
            valid={tap: torch.ones(N, teachers, pairs, dtype=torch.bool) for tap in ("encoder", "decoder")},
        )
        return Batch(torch.randn(N, 1, H, W), masks, torch.arange(N) < N - unlabelled, answers)

    return make
