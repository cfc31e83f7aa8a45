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

from client.site import SiteConfig
from imaging.errors import InputError
from imaging.windows import AT_ONCE
from models.knowledge import told
from models.onnx_network import OnnxNetwork
from study import learners, networks
from study.answers import Answers, AnswersHeader
from study.checkpoint import begun
from study.encoding import encoded
from study.learners import Alone, Learner
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
    teacher = assignment.teacher
    return networks.build(teacher.model, teacher.options, assignment.task, assignment.preprocess, fresh=fresh)


def alone(network: nn.Module, assignment: Assignment, steps: int) -> Learner | None:
    """What teaches a site's network beside its masks, where the study names such a scheme; None where it does not."""
    scheme = assignment.teacher.scheme
    return None if scheme == "supervised" else _alone(scheme, network, assignment, steps)


def _alone(scheme: Alone, network: nn.Module, assignment: Assignment, steps: int = 1) -> Learner:
    task = assignment.task
    shown = learners.Shown(assignment.preprocess.shape, task.inputs, len(task.classes), task.unions)
    return learners.create(scheme, network, assignment.teacher, shown, steps=steps)


def best_weights(folder: Path, assignment: Assignment) -> dict[str, Tensor]:
    """The teacher's best weights so far, without what only its training needed; InputError where there are none."""
    weights = load_best(folder)
    if assignment.teacher.scheme == "supervised":
        return weights
    learner = _alone(assignment.teacher.scheme, build(assignment, fresh=False), assignment)
    try:
        learner.network.load_state_dict(weights)
    except RuntimeError as error:
        fix = "name the scheme and the network that it was trained by in the study"
        raise InputError("holds a teacher of another scheme or network", where=folder, fix=fix) from error
    return learner.shipped.state_dict()


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
        size = AT_ONCE if shard.assignment.preprocess.patch else BATCH
        parts = [slice(start, start + size) for start in range(0, len(images), size)]
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
        if assignment.preprocess.patch:
            what = "an ONNX file reads slices, and the study has patches of volumes"
            raise InputError(
                what, where=path, fix="name a checkpoint or weights (.safetensors) of a network of volumes"
            )
        foreign = OnnxNetwork(path, classes=classes, size=assignment.preprocess.size)
        return Teacher(site, assignment, foreign.eval(), foreign.weights_hash)
    weights = best_weights(path, assignment) if path.is_dir() else _plain_weights(path)
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
