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
from imaging.preprocess import Preprocess
from imaging.slices import CachedCase, SliceCache
from imaging.windows import Place
from study.networks import build
from study.reader import Reader, whole
from study.student import WEIGHTS, StudentCard, read_card
from study.tables import Task
from study.training import evaluating, weights_hash


def logits_of(
    network: nn.Module, images: NDArray[np.float16], plan: Preprocess, box: Place | None = None
) -> NDArray[np.float32]:
    """Logits (N, C, H, W) of a whole case's prepared slices (N, c, H, W).

    A network of volumes reads the patches that cover `box`, the part of the stack that lies on the scan (all of it
    when absent).
    """
    device = next(network.parameters()).device

    def read(batch: NDArray[np.float16]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = (
            network(torch.from_numpy(batch.astype(np.float32)).to(device)).float().cpu().numpy()
        )
        return logits

    with evaluating(network):
        return whole(read, images, plan, box)


def case_dice(network: nn.Module, slices: SliceCache, cases: Sequence[CachedCase], classes: int) -> float:
    """Dice, mean over foreground classes and then over cases, each case in 3-D on the network's grid; in [0, 1]."""
    values = []
    for case in cases:
        part = slices.part(case)
        prediction = logits_of(network, part.images, slices.plan, case.grid.box()).argmax(1)
        values.append(mean_dice(prediction, part.masks, classes=classes))
    return float(np.mean(values))


def channels_of(network: nn.Module, images: torch.Tensor, tap: str) -> int:
    """Number of channels of a network's features at a tap, for images (N, c, *shape)."""
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
    network = network_of(card)
    network.load_state_dict(weights)
    return card, network.eval()


def network_of(card: StudentCard) -> nn.Module:
    """The network that a card tells of, without its weights."""
    task = Task(modality=card.modality or "MR", classes=card.classes, channels=card.channels)
    return build(card.model, card.options, task, Preprocess.model_validate(card.preprocess))


def reader_of(card: StudentCard, network: nn.Module) -> Reader:
    """The student on PyTorch, ready to read scans."""
    plan = Preprocess.model_validate(card.preprocess)
    return Reader(card, lambda sampled: logits_of(network, sampled.normalised(), plan, sampled.grid.box()))
