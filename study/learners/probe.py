"""Linear probing: how good the features of a trained network are, by what a new output layer alone makes of them."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from study.learners.base import Learner
from study.learners.regions import Regions, checked, segmentation
from study.training import evaluating


class Probe(Learner):
    """A network whose output layer is made anew and alone learns. Terms: `dice`, `focal`.

    The rest keeps its parameters and running statistics, and is at rest, without dropout. Source: MOD, section IV-E,
    Table III, of whose protocol the paper says no more than that "the backbone's parameters" are preserved.
    Raises: ValueError where no layer gives the classes.
    """

    def __init__(
        self, student: nn.Module, *, classes: int, size: tuple[int, ...], in_channels: int, regions: Regions = ()
    ) -> None:
        super().__init__(student)
        self.regions = checked(regions, classes)
        self.output = output_layer(student, classes, torch.zeros(1, in_channels, *size))
        layer = student.get_submodule(self.output)
        student.requires_grad_(requires_grad=False)
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
        self.student.get_submodule(self.output).train(mode)
        return self

    def loss(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        logits = self.student(images).float()
        with torch.autocast(logits.device.type, enabled=False):
            return segmentation(logits, masks, self.regions)


def output_layer(network: nn.Module, classes: int, images: Tensor) -> str:
    """Path of the last layer with parameters, of those in a forward pass, whose output has a channel a class.

    `images` (N, C, *size) are passed once. Raises: ValueError where there is none.
    """
    paths = {module: path for path, module in network.named_modules() if [*module.parameters(recurse=False)]}
    passed: list[str] = []

    def note(module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == images.ndim and output.shape[1] == classes:
            passed.append(paths[module])

    hooks = [module.register_forward_hook(note) for module in paths]
    try:
        with evaluating(network):
            network(images.to(next(network.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    if not passed:
        raise ValueError(f"no layer of {type(network).__name__} gives {classes} channels")
    return passed[-1]
