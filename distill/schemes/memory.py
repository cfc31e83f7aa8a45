"""What was seen before, of each class, in a ring: the newest takes the place of the oldest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Memory(nn.Module):
    """`size` unit vectors of each of `classes` classes, kept in the checkpoint with everything else."""

    kept: Tensor
    added: Tensor

    def __init__(self, classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(classes, size, channels))
        self.register_buffer("added", torch.zeros(classes, dtype=torch.int64))

    def add(self, k: int, vectors: Tensor) -> None:
        """Remember these vectors (n, c) of class `k`."""
        size = self.kept.shape[1]
        vectors = vectors[-size:]
        places = (int(self.added[k]) + torch.arange(len(vectors), device=vectors.device)) % size
        self.kept[k, places] = F.normalize(vectors, dim=1)
        self.added[k] += len(vectors)

    def known(self) -> Tensor:
        """All that is remembered, (m, c), class after class."""
        counts = self.added.clamp_max(self.kept.shape[1]).tolist()
        return torch.cat([rows[:count] for rows, count in zip(self.kept, counts, strict=True)])
