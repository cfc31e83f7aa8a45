"""What a network says of prepared slices, and how well that fits: for teachers, students, sites and the study lead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

import models
from imaging.errors import InputError
from imaging.metrics import mean_dice
from imaging.slices import CachedCase, SliceCache
from study.reader import BATCH, Reader
from study.student import WEIGHTS, StudentCard, read_card
from study.training import evaluating, weights_hash


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


def load_student(folder: Path) -> tuple[StudentCard, nn.Module]:
    """The student in a folder such as run/distill/consensus, at rest, and its card.

    Raises: InputError unless the training has finished, and the weights are whole and those of the card.
    """
    card, path = read_card(folder), folder / WEIGHTS
    if card is None:
        fix = "run `preceptor distill` first, or name a folder with student.json and student.safetensors"
        raise InputError("holds no finished student", where=folder, fix=fix)
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        fix = "copy the student's folder again, or distil it again"
        raise InputError("the student's weights cannot be read", where=path, fix=fix) from error
    if weights_hash(weights) != card.weights_hash:
        raise InputError("these are not the weights of its card", where=path, fix="copy both files again")
    options = {name: value for name, value in card.options.items() if name != "pretrained"}  # its weights are here
    network = models.create(card.model, 1, len(card.classes), **options)
    network.load_state_dict(weights)
    return card, network.eval()


def reader_of(card: StudentCard, network: nn.Module) -> Reader:
    """The student on PyTorch, ready to read scans."""
    return Reader(card, lambda sampled: logits_of(network, sampled.normalised()))
