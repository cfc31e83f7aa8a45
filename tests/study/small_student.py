"""A student's folder as a job leaves it, untrained."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

import models
from imaging.preprocess import Preprocess
from study.distill_tables import Distill
from study.student import WEIGHTS, StudentCard, write_card
from study.training import weights_hash


def write_student(folder: Path, classes: list[str], preprocess: Preprocess, /, **changes: object) -> Path:
    """ESPNet with an opinion on every scan; `changes` are of its card."""
    torch.manual_seed(0)
    network = models.create("espnet", 1, len(classes)).eval()
    weights = {name: one.detach().contiguous() for name, one in network.state_dict().items()}
    card = StudentCard(
        label="amtkd", scheme="amtkd", study="demo", seed=0, model="espnet", options={}, classes=classes,
        modality="MR", preprocess=preprocess.model_dump(mode="json"), parameters=9, steps=4, best_step=4, val_dice=None,
        history=[], seconds=1.0, weights_hash=weights_hash(weights), teachers=[], settings=Distill(),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / WEIGHTS)
    write_card(folder, card.model_copy(update=changes))
    return folder
