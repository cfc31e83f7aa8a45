"""Validation Dice of a student on the study lead's own patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from imaging.metrics import mean_dice
from imaging.slices import CachedCase, SliceCache


def case_dice(student: nn.Module, slices: SliceCache, cases: Sequence[CachedCase], classes: int) -> float:
    """Dice, mean over foreground classes and then over cases, each case in 3-D on the network's grid; in [0, 1].

    `student` is in evaluation mode and on its device already.
    """
    found = [
        mean_dice(predict(student, slices.images[case.start : case.stop]), masks, classes=classes)
        for case in cases
        for masks in [np.asarray(slices.masks[case.start : case.stop])]
    ]
    return float(np.mean(found))


def predict(student: nn.Module, images: NDArray[np.float16], *, chunk: int = 16) -> NDArray[np.uint8]:
    """The most likely class of every pixel, (N, H, W) float16 -> (N, H, W) uint8."""
    device = next(student.parameters()).device
    labels = []
    for start in range(0, len(images), chunk):
        part = torch.from_numpy(images[start : start + chunk].astype(np.float32))
        labels.append(student(part.to(device)[:, None]).argmax(1).to("cpu", torch.uint8))
    prediction: NDArray[np.uint8] = torch.cat(labels).numpy()
    return prediction
