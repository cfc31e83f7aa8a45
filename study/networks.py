"""The networks of a study, built in one place: for its channels and classes, and the slices or patches they see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import models
from imaging.preprocess import Preprocess
from study.tables import Options, Task

if TYPE_CHECKING:
    from models.network import Network


def build(model: str, options: Options, task: Task, preprocess: Preprocess, *, fresh: bool = False) -> Network:
    """The network of that name for that task; only a `fresh` one downloads pretrained weights, where options say so.

    Raises: InputError as `models.create`.
    """
    wanted = {name: value for name, value in options.items() if fresh or name != "pretrained"}
    return models.create(model, task.inputs, len(task.classes), size=preprocess.shape, **wanted)
