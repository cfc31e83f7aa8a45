"""A site's teacher: the best weights of its training, and its answers to a shard; the weights never leave."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

import models
from client.site import SiteConfig
from imaging.errors import InputError
from models.knowledge import told
from models.onnx_network import OnnxNetwork
from study.answers import Answers, AnswersHeader
from study.checkpoint import begun
from study.encoding import encoded
from study.training import evaluating, load_best, weights_hash
from study.wire import Assignment, Shard

BATCH = 16
"""Slices at once, always: a batch of another size may differ in its last bits."""


def folder_of(config: SiteConfig, assignment: Assignment) -> Path:
    """Where that teacher's checkpoint lies: a folder for each way to train, so a study's other settings may change."""
    settings = assignment.model_dump(mode="json", exclude={"study", "study_hash", "encoding"})
    del settings["teacher"]["round_epochs"]
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return config.workspace / "teacher" / key


def students_of(config: SiteConfig, assignment: Assignment) -> Path:
    """Where students are trained on the scans that this teacher learns from."""
    return config.workspace / "students" / folder_of(config, assignment).name


def build(assignment: Assignment, *, fresh: bool) -> nn.Module:
    """The teacher's network; without downloading pretrained weights unless it is `fresh`."""
    options = {key: value for key, value in assignment.teacher.options.items() if fresh or key != "pretrained"}
    return models.create(assignment.teacher.model, 1, len(assignment.task.classes), **options)


@dataclass(frozen=True)
class Teacher:
    """A network at rest with the best weights so far, and their hash."""

    site: str
    assignment: Assignment
    network: nn.Module
    weights_hash: str

    def answer(self, shard: Shard) -> Answers:
        """What this teacher says of a shard's slices; the same again, bit for bit, whenever asked.

        Attention maps have their maximum at 1 in every slice, since only their direction counts.
        Raises: InputError when the shard was prepared otherwise than the teacher's own slices.
        """
        self._check(shard)
        images, masks = shard.pictures()
        parts = [slice(start, start + BATCH) for start in range(0, len(images), BATCH)]
        pieces = [self._piece(images[part], masks[part], shard) for part in parts]
        arrays = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        fingerprint = shard.assignment.preprocess.fingerprint()
        header = AnswersHeader(
            site=self.site, index=shard.index, weights_hash=self.weights_hash, fingerprint=fingerprint
        )
        return Answers(header, shard.slice_ids, arrays)

    def _check(self, shard: Shard) -> None:
        ours, theirs = self.assignment.preprocess.fingerprint(), shard.assignment.preprocess.fingerprint()
        if ours != theirs:
            raise InputError(
                f"a shard was prepared as {theirs}, this site's teacher learned from slices prepared as {ours}",
                fix="train the teachers again, or restore the study's `[preprocess]`",
            )
        if not len(shard.slice_ids):
            raise InputError(f"shard {shard.index} holds no slice", fix="ask about at least one")

    def _piece(
        self, pictures: NDArray[np.float16], outlines: NDArray[np.uint8], shard: Shard
    ) -> dict[str, NDArray[Any]]:
        """Arrays of at most `BATCH` pictures of a shard under the names of `models.contents`, as they travel."""
        device = next(self.network.parameters()).device
        images = torch.from_numpy(pictures.astype(np.float32)).to(device)
        masks = torch.from_numpy(outlines).to(device)
        classes, encoding = len(self.assignment.task.classes), shard.assignment.encoding
        with evaluating(self.network):
            found = told(self.network, images, masks, classes=classes, wants=shard.wants, grid=encoding.grid)
        return encoded({name: tensor.cpu().numpy() for name, tensor in found.items()}, encoding)


def load_teacher(config: SiteConfig, assignment: Assignment) -> Teacher:
    """The teacher trained for that assignment, with its best weights so far, or the one that `config` names.

    Raises: InputError when none has been trained, or its checkpoint is damaged.
    """
    if config.teacher is not None:
        return teacher_at(config.teacher, config.name, assignment)
    folder = folder_of(config, assignment)
    if not begun(folder):
        raise InputError(
            "no teacher has been trained here for this study, or its workspace was emptied since",
            where=folder,
            fix="train the teachers first; if the run takes this one for finished, delete its teachers/SITE.json there",
        )
    return teacher_at(folder, config.name, assignment)


def teacher_at(path: Path, site: str, assignment: Assignment) -> Teacher:
    """The teacher that lies there ready: an ONNX file, a folder with a checkpoint, or plain weights (`.safetensors`).

    The latter two are weights of the network that the study names for that site.
    Raises: InputError when it cannot be read, or its network or classes are not the study's.
    """
    classes, network_of = len(assignment.task.classes), assignment.teacher.model
    if path.suffix == ".onnx":
        foreign = OnnxNetwork(path, classes=classes, size=assignment.preprocess.size)
        return Teacher(site, assignment, foreign.eval(), foreign.weights_hash)
    weights = load_best(path) if path.is_dir() else _plain_weights(path)
    network = build(assignment, fresh=False)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        what = f"holds the weights of another network than `{network_of}` of {classes} classes"
        fix = f"name the network that was trained by `model` and `options` of site {site} in the study"
        raise InputError(what, where=path, fix=fix) from error
    return Teacher(site, assignment, network.eval(), weights_hash(weights))


def _plain_weights(path: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        fix = "name an ONNX file, a teacher's folder with checkpoint.pt, or weights as .safetensors"
        raise InputError(f"is no teacher that can be read ({error})", where=path, fix=fix) from error
    return weights
