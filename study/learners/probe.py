"""Linear probing: how good the features of a trained network are, by what a new output alone makes of them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor, nn

from imaging.errors import InputError
from models.taps import tap, unwrapped
from study.learners.base import Learner
from study.learners.regions import Regions, checked, segmentation
from study.training import evaluating

FEATURES = "decoder"
"""The tap whose features are judged: the last before the output (`models.tap`)."""


class Probe(Learner):
    """A network whose output is made anew and alone learns: all layers after its decoder's features. Terms: `dice`,
    `focal`.

    The rest keeps its parameters and running statistics, and is at rest, without dropout. Source: MOD, section IV-E,
    Table III, of whose protocol the paper says no more than that "the backbone's parameters" are preserved.
    Raises: InputError where these features are no wider than the classes: they are an output already.
    """

    def __init__(
        self, student: nn.Module, *, classes: int, size: tuple[int, ...], in_channels: int, regions: Regions = ()
    ) -> None:
        super().__init__(student)
        self.regions = checked(regions, classes)
        self.output = output_layers(student, classes, torch.zeros(1, in_channels, *size))
        student.requires_grad_(requires_grad=False)
        for path in self.output:
            layer = student.get_submodule(path)
            layer.requires_grad_(requires_grad=True)
            getattr(layer, "reset_parameters")()  # noqa: B009 (every layer of torch has it, nn.Module has not)
        self.train()

    @property
    def frozen(self) -> list[str]:
        """Names of the parameters that stay as they were."""
        return [name for name, weight in self.student.named_parameters() if not weight.requires_grad]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.student.eval()
        for path in self.output:
            self.student.get_submodule(path).train(mode)
        return self

    def loss(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        logits = self.student(images).float()
        with torch.autocast(logits.device.type, enabled=False):
            return segmentation(logits, masks, self.regions)


def output_layers(network: nn.Module, classes: int, images: Tensor) -> list[str]:
    """Paths of the layers with parameters that a forward pass comes by after the decoder's features, in its order.

    `images` (N, C, *size) are passed once. Raises: InputError where the features have no more channels than classes.
    """
    inner = unwrapped(network)
    paths = {module: path for path, module in inner.named_modules() if [*module.parameters(recurse=False)]}
    passed: list[str] = []
    with ExitStack() as stack:
        features = stack.enter_context(tap(inner, [FEATURES]))

        def note(module: nn.Module, _: tuple[Any, ...]) -> None:
            if FEATURES in features:
                passed.append(paths[module])

        for module in paths:
            stack.callback(module.register_forward_pre_hook(note).remove)
        with evaluating(inner):
            inner(images.to(next(inner.parameters()).device))
    if features[FEATURES].shape[1] <= classes:
        what = f"`{getattr(inner, 'name', type(inner).__name__)}` has no features that could be probed: its decoder's "
        raise InputError(f"{what}last are of the {classes} classes already", fix="probe a student of another network")
    return list(dict.fromkeys(passed))
