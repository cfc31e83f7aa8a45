"""DSD: dual self-distillation in U-shaped networks (Banerjee et al. 2025), and what its authors set beside it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from models.bottleneck import Bottlenecks, split
from models.taps import unwrapped
from study import dsd_table
from study.learners.base import Learner
from study.learners.dsd_terms import DECODER, ENCODER, terms_of
from study.learners.feature_l2 import TAUGHT, FeatureL2
from study.learners.own_draws import own_draws
from study.learners.stages import channels_of, read, stages_of


class Dsd(Learner):
    """Encoder and decoder stages that learn from the mask and from one another through heads that leave with training.

    Terms: `y`, and by the table's variant `ds`, `kl_enc`, `kl_dec`, `l2`; only what they read is built. `size` and
    `in_channels` are what the network will be shown. Heads start by the network's own rule where its body has one
    (`initialize_weights`, as MONAI's DynUNet), else by torch's. Source: DSD, Eq. 1 to 6, and its authors' code.
    Departs: no ninth head for VNet, whose output their code never reads: their 45.605 million parameters count its 111.
    Raises: InputError for a network without stages.
    """

    def __init__(
        self, student: nn.Module, table: dsd_table.Dsd, *, classes: int, size: Sequence[int], in_channels: int
    ) -> None:
        super().__init__(student)
        self.table = table
        headed, paired = _headed(table), TAUGHT if "l2" in table.weights else ()
        self._stages = stages_of(student, list(dict.fromkeys([*headed, *paired])), method="DSD")
        channels = channels_of(student, self._stages, size=size, in_channels=in_channels)
        inner, dims = unwrapped(student), len(size)
        with own_draws("dsd"):
            stages = {name: self._stages[name] for name in headed}
            shared = bool(getattr(inner, "shares_heads", False))
            self.heads = Bottlenecks(stages, channels, classes, dims=dims, shared=shared)
            self.l2 = FeatureL2(self._stages, channels, dims=dims) if paired else None
            start = getattr(getattr(inner, "body", inner), "initialize_weights", None)
            if start is not None:
                self.heads.apply(start)
        for heads in (self.heads, self.l2):
            if heads is not None:
                heads.to(next(student.parameters()))

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, K, V) of the network, `y`, and of each head, voxels in the order of `models.bottleneck.split`."""
        logits, features = read(self.student, self._stages, images)
        heads: dict[str, Tensor] = self.heads(features)
        return {"y": split(logits), **heads}

    def loss(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        logits, features = read(self.student, self._stages, images)
        terms = terms_of(logits, self.heads(features), masks, self.table)
        if self.l2 is not None:
            terms["l2"] = self.table.feature * self.l2(features, detach=self.table.detach_teacher)
        return terms


def _headed(table: dsd_table.Dsd) -> list[str]:
    """Stages whose logits some term reads."""
    weights = table.weights
    encoder = ENCODER if "kl_enc" in weights else ()
    decoder = DECODER if {"ds", "kl_dec"} & set(weights) else ()
    return [*encoder, *decoder]
