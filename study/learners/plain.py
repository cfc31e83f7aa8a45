"""A network by itself under Dice and cross-entropy."""

from __future__ import annotations

from torch import Tensor, nn

from study.learners.base import Learner
from study.learners.dsd_terms import Target, dce


class Plain(Learner):
    """`basic`: the mask on the output alone, term `y`. Source: DSD, Eq. 1; `squared` as in `dce`."""

    def __init__(self, student: nn.Module, *, squared: bool = False) -> None:
        super().__init__(student)
        self._squared = squared

    def loss(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        logits = self.student(images)
        return {"y": dce(logits, Target.of(masks, logits.shape[1]), squared=self._squared)}
