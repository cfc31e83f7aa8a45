"""A network that is trained by itself, without teachers from elsewhere: what every such way has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Learner(nn.Module, ABC):
    """A way to train one network. It owns all that exists only in training; the student leaves with nothing of it.

    Sites train their teachers so, and the central trainer students that learn from masks alone. `steps` is how long
    the training lasts, `size` the spatial size of what it will be shown. What changes from step to step beside
    weights and optimiser is a buffer, so that a checkpoint holds it; draws come from torch's own generator, which the
    training loop seeds by (seed, step).
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    @property
    def network(self) -> nn.Module:
        """Everything with weights or state, for the training loop."""
        return self

    @property
    def shipped(self) -> nn.Module:
        """The network that is validated, and leaves."""
        return self.student

    @abstractmethod
    def loss(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Weighted terms by name, scalars, whose sum is descended.

        Shapes: images (N, c, *size) float32; masks (N, *size) int64 of class numbers, every one outlined.
        """

    def settle(self, step: int) -> None:
        """Called after each optimiser step; `step` are done."""
