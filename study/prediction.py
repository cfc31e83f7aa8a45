"""What a network says of prepared slices, and how well that fits: for teachers, students, sites and the study lead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import models
from imaging.metrics import mean_dice
from imaging.slices import CachedCase, SliceCache
from study.training import evaluating

BATCH = 16
"""Slices at once."""


def logits_of(network: nn.Module, images: NDArray[np.float16]) -> NDArray[np.float32]:
    """Logits (N, C, H, W) of prepared slices (N, H, W)."""
    device = next(network.parameters()).device
    with evaluating(network):
        batches = [torch.from_numpy(images[i : i + BATCH].astype(np.float32)) for i in range(0, len(images), BATCH)]
        return np.concatenate([network(batch[:, None].to(device)).float().cpu().numpy() for batch in batches])


def case_dice(network: nn.Module, slices: SliceCache, cases: Sequence[CachedCase], classes: int) -> float:
    """Dice, mean over foreground classes and then over cases, each case in 3-D on the network's grid; in [0, 1]."""
    values = []
    for case in cases:
        prediction = logits_of(network, slices.images[case.start : case.stop]).argmax(1)
        values.append(mean_dice(prediction, slices.masks[case.start : case.stop], classes=classes))
    return float(np.mean(values))


def channels_of(network: nn.Module, images: torch.Tensor, tap: str) -> int:
    """Number of channels of a network's features at a tap, for images (N, 1, H, W)."""
    with evaluating(network), models.tap(network, (tap,)) as features:
        network(images[:1])
    return features[tap].shape[1]
