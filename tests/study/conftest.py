"""A small study, and a small training, for the tests of this room."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from study.answers import Answers, AnswersHeader
from study.cohorts import assignment as assignment_of
from study.draws import generator
from study.plan import Study
from study.wire import NO_MASK, Assignment, Card, Epoch, Shard

STUDY: dict[str, Any] = {
    "name": "small",
    "seed": 3,
    "task": {"modality": "MR", "classes": ["background", "left", "right"]},
    "preprocess": {"size": [16, 24]},
    "sites": [{"name": "north"}, {"name": "south"}],
    "teacher": {"model": "fcn", "options": {"encoder": "resnet18"}},
    "student": {"model": "espnet", "sources": [{"folder": "scans"}]},
    "federation": {"shard_slices": 5},
}


@pytest.fixture
def content() -> dict[str, Any]:
    """A study.toml's content, to be changed at will."""
    return copy.deepcopy(STUDY)


@pytest.fixture
def small() -> Iterator[ModuleType]:
    """small_training.py as a module, on one thread; by its path, since a test folder is no package."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    path = Path(__file__).with_name("small_training.py")
    spec = spec_from_file_location("small_training", path)
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]
    torch.set_num_threads(before)


@pytest.fixture
def assignment(content: dict[str, Any]) -> Assignment:
    return assignment_of(Study.model_validate(content), "north")


@pytest.fixture
def card(assignment: Assignment) -> Card:
    """Of site north's teacher."""
    return Card(
        site="north",
        model="fcn",
        options={"encoder": "resnet18"},
        parameters=7,
        weights_hash="ab" * 32,
        fingerprint=assignment.preprocess.fingerprint(),
        epochs=2,
        finished=True,
        dice=0.5,
        best_epoch=1,
        patients={"train": 5, "val": 1, "test": 2},
        slices={"train": 50, "val": 10, "test": 20},
        set_aside=1,
        history=[Epoch(epoch=1, loss=0.7, dice=0.5, seconds=3.0)],
    )


@pytest.fixture
def shard(assignment: Assignment) -> Shard:
    """Shard 1, three slices of 16 × 24 in three classes, the last one without a mask."""
    draw = generator(0, "shard")
    masks = draw.integers(3, size=(3, 16, 24)).astype(np.uint8)
    masks[2] = NO_MASK
    images = draw.normal(size=(3, 1, 16, 24)).astype(np.float16)
    return Shard(assignment, 1, np.array([5, 6, 9]), images, masks)


@pytest.fixture
def answers(shard: Shard) -> Answers:
    """Site north's answers to it, from two taps."""
    draw = generator(0, "answers")
    header = AnswersHeader(
        site="north", index=1, weights_hash="ab" * 32, fingerprint=shard.assignment.preprocess.fingerprint()
    )
    valid = {tap: np.array([[True, True, False], [True] * 3, [False] * 3]) for tap in ("encoder", "decoder")}
    arrays: dict[str, Any] = {"logits": draw.normal(size=(3, 3, 16, 24)).astype(np.float16)}
    for tap, grid in (("encoder", (2, 5)), ("decoder", (7, 11))):
        arrays[f"attention/{tap}"] = draw.random((3, *grid)).astype(np.float16)
        arrays[f"contrast/{tap}"] = np.where(valid[tap], draw.uniform(-1, 1, (3, 3)), 0).astype(np.float32)
        arrays[f"valid/{tap}"] = valid[tap]
    return Answers(header, shard.slice_ids, arrays)
