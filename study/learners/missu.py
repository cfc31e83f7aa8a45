"""MISSU's self-distillation on a network's encoder, DSD's rival on UNETR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.multi_scale import MultiScale
from study import dsd_table
from study.learners.base import Learner
from study.learners.dsd_terms import ENCODER, Target, dce, divergence, softened
from study.learners.own_draws import own_draws
from study.learners.stages import channels_of, read, stages_of


class Missu(Learner):
    """Each encoder stage learns from a multi-scale block on itself that leaves with training; terms `y` and `kl`.

    KL(block || stage) of softmax over feature channels, mean over the stage's voxels and images, summed over stages.
    `size` and `in_channels` are what the network will be shown. Source: MISSU (Wang et al. 2023), as DSD's section 3.6
    sets it on UNETR's encoder.
    Departs: the block's form is not known (`MultiScale`); MISSU's code, which has no such block, teaches its decoder
    from its encoder, and divides a KL by other sizes than its voxels.
    Raises: InputError for a network without stages.
    """

    def __init__(self, student: nn.Module, table: dsd_table.Missu, *, size: Sequence[int], in_channels: int) -> None:
        super().__init__(student)
        self.table = table
        self._stages = stages_of(student, ENCODER, method="MISSU")
        channels = channels_of(student, self._stages, size=size, in_channels=in_channels)
        with own_draws("missu"):
            self.blocks = nn.ModuleDict({name: MultiScale(channels[name], dims=len(size)) for name in ENCODER})
        self.blocks.to(next(student.parameters()))

    def loss(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        logits, features = read(self.student, self._stages, images)
        target = Target.of(masks, logits.shape[1])
        each = [self._divergence(self.blocks[name], features[name]) for name in ENCODER]
        kl = self.table.weight * torch.stack(each).sum()
        return {"y": dce(logits, target, squared=self.table.squared_pred), "kl": kl}

    def _divergence(self, block: nn.Module, features: Tensor) -> Tensor:
        teacher = softened(block(features), self.table.temperature)
        teacher = teacher.detach() if self.table.detach_teacher else teacher
        return divergence([softened(features, self.table.temperature)], teacher)
