"""A site's teacher of volumes, trained by what teaches itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from client.scans import open_scans
from client.status import Status
from client.teacher import build, load_teacher
from client.training import Course
from imaging.preprocess import Preprocess
from study.draws import derived
from study.plan import Teacher
from study.wire import Assignment, Shard
from tests.client.hospital import CLASSES, make_assignment, write_site

PATCH = (16, 16, 32)
MOD = {"stage": "E4", "heads": (16, 8, 8), "ship": "teacher", "ema": 0.5}


def asked(scheme: str) -> Assignment:
    teacher = Teacher.model_validate({
        "model": "dynunet", "options": {"width": 4}, "scheme": scheme, "mod": MOD,
        "epochs": 2, "batch": 6, "lr": 0.001, "weight_decay": 1e-5, "split": (0.6, 0.2, 0.2),
    })  # fmt: skip
    return make_assignment(preprocess=Preprocess(size=(32, 48), patch=PATCH, thin="pad"), teacher=teacher)


def course_at(folder: Path, data: Path, scheme: str) -> Course:
    config = write_site(folder, data)
    return Course(config, asked(scheme), open_scans(config, asked(scheme)))


@pytest.mark.parametrize("scheme", ["dsd", "mod"])
def test_a_teacher_that_teaches_itself_keeps_nothing_of_it_and_goes_on_as_if_never_stopped(
    scheme: str, scans: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    course = course_at(tmp_path / "one", scans, scheme)
    card = course.teach(2, Status("north"))
    halves = course_at(tmp_path / "two", scans, scheme)
    halves.teach(1, Status("north"))
    assert halves.teach(2, Status("north")).weights_hash == card.weights_hash
    teacher = load_teacher(course.config, course.assignment)
    assert teacher.weights_hash == card.weights_hash
    assert card.finished
    assert set(teacher.network.state_dict()) == set(build(course.assignment, fresh=True).state_dict())
    torch.manual_seed(derived(course.batches.seed, "weights"))
    initial = build(course.assignment, fresh=True).state_dict()
    moved = [not torch.equal(value, initial[name]) for name, value in teacher.network.state_dict().items()]
    assert all(moved), "what leaves, an average too, has followed the training"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.network.modules())
    images, masks = course.scans.cache.images[:][:5], course.scans.cache.masks[:][:5]
    shard = Shard(course.assignment, 0, np.arange(5), images, masks)
    answers = teacher.answer(shard)
    assert answers.arrays["logits"].shape == (5, len(CLASSES), *PATCH)
    assert answers.arrays["attention/encoder"].shape == (5, 1, 1, 2)
    assert Shard.unpack(shard.pack()).images.shape == (5, 1, *PATCH)
