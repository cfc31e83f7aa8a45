"""MOD: a network on masks, beside a moving average of itself and a light decoder that rebuilds what is hidden."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from imaging.errors import InputError
from models.entry import Stage
from models.partial import statistics_kept, up_to
from models.taps import tap, unwrapped
from study.learners.base import Learner
from study.learners.ema import follow, follower, momentum
from study.learners.masking import hidden_cells, hidden_count, hidden_voxels, patches_of
from study.learners.predictor import Predictor, masked_l1
from study.learners.regions import Regions, checked, segmentation
from study.learners.tokenizer import Tokenizer, warmth
from study.learners.views import draw
from study.mod_table import Mod as Table
from study.training import evaluating


class Mod(Learner):
    """Online self-distillation and self-modelling. Terms: `dice`, `focal`, `patch`, `token`, `rebuild`.

    Two views of a batch differ in intensity. The student reads them masked, its moving average as they are, both only
    up to the deepest feature map, whose cells are the tokens; the loss on masks sees the batch itself, in a pass of its
    own. Cells are hidden in the image, so any network can be trained so, and nothing stays in it.
    Source: Pang et al., IEEE TMI; section III, Eq. 9, Algorithm 1. What it leaves open is read as in iBOT (Zhou et al.
    2022), whose class token is here the mean of the map.
    Departs: `dice` and `focal` are of exclusive classes, by softmax, or of `regions`, unions of them, by its sums,
    where the paper has three overlapping channels, so that one network serves classes and regions.

    Raises: InputError where the network has no such feature map, or a patch of `size` too few tokens in it.
    """

    done: Tensor
    """Steps done, an int64 scalar."""

    def __init__(
        self,
        student: nn.Module,
        table: Table,
        *,
        classes: int,
        size: tuple[int, ...],
        in_channels: int,
        steps: int,
        regions: Regions = (),
    ) -> None:
        super().__init__(student)
        self.table, self.steps, self.size = table, steps, size
        self.regions = checked(regions, classes)
        self.stage = stage_of(student, table.stage)
        width, self.grid = self._look(in_channels)
        averaged = table.tokenizer or table.ship == "teacher"
        voxels = in_channels * self.stage.stride ** len(size)
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))
        self.teacher = follower(student).eval() if averaged else None
        self.tokenizer = Tokenizer(width, table) if table.tokenizer else None
        self.predictor = Predictor(width, self.grid, voxels, decoder=table.decoder) if table.predictor else None
        learned = table.mask_value == "learned" and (table.tokenizer or table.predictor)
        self.value = nn.Parameter(torch.zeros(in_channels)) if learned else None

    @property
    def shipped(self) -> nn.Module:
        return self.teacher if self.teacher is not None and self.table.ship == "teacher" else self.student

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def loss(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        if self.tokenizer is None and self.predictor is None:
            return self._segmented(self.student(images), masks)
        if self.table.segment == "crop":
            terms = self._segmented(self.student(images), masks)  # first, so that dropout falls as it does without MOD
            views, hidden = self._draw(images)
            with statistics_kept(self.student):
                features = up_to(self.student, self.stage.path, self._hide(views, hidden))
        else:
            views, hidden = self._draw(images)
            with tap(self.student, [self.stage.path]) as tapped:
                logits = self.student(self._hide(views, hidden))
            terms = self._segmented(logits, torch.cat(self.table.masked_views * [masks]))
            features = tapped[self.stage.path]
        return terms | self._matched(features, views, hidden) | self._rebuilt(features, images, views, hidden)

    def settle(self, step: int) -> None:
        keep = momentum(step - 1, self.steps, self.table.ema)
        if self.teacher is not None:
            follow(self.teacher, self.student, keep)
        if self.tokenizer is not None:
            self.tokenizer.follow(keep)
        self.done.fill_(step)

    def _look(self, in_channels: int) -> tuple[int, tuple[int, ...]]:
        """Channels and grid of the feature map; InputError where the grid is too small to hide a part of it."""
        device = next(self.student.parameters()).device
        with evaluating(self.student):
            seen = up_to(self.student, self.stage.path, torch.zeros(1, in_channels, *self.size, device=device))
        grid = tuple(side // self.stage.stride for side in self.size)
        if tuple(seen.shape[2:]) != grid:
            raise ValueError(f"`{self.stage.path}` has a map of {tuple(seen.shape[2:])}, its stride says {grid}")
        tokens = math.prod(grid)
        if not 0 < hidden_count(grid, self.table.ratio) < tokens:
            raise InputError(
                f"patches of {' × '.join(map(str, self.size))} have {tokens} tokens in the feature map that `mod` "
                f"matches: a share of {self.table.ratio} cannot be hidden",
                fix='take larger patches, or name a finer map, such as `stage = "E4"`',
            )
        return seen.shape[1], grid

    def _segmented(self, logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
        weights = {"dice": self.table.dice, "focal": self.table.focal}
        with in_full(logits):
            terms = segmentation(logits.float(), masks, self.regions)
        return {name: weights[name] * term for name, term in terms.items()}

    @torch.no_grad()
    def _draw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Views of a batch, one after the other, and cells (V N, *grid) to hide in those that the student reads."""
        table, n = self.table, len(images)
        if images.shape[2:] != self.size:
            raise ValueError(f"images of {tuple(images.shape[2:])} were given, the learner is made for {self.size}")
        views = 2 if self.tokenizer is not None else table.masked_views
        with in_full(images):
            shown = draw(views * n, table).of(torch.cat(views * [images]))
        hidden = hidden_cells(table.masked_views * n, self.grid, ratio=table.ratio, blocks=table.mask == "block")
        return shown, hidden.to(images.device)

    def _hide(self, views: Tensor, hidden: Tensor) -> Tensor:
        """What the student reads, the first V N views without what is hidden."""
        views = views[: len(hidden)]
        voxels = hidden_voxels(hidden, self.stage.stride)
        if self.value is None:
            return views.masked_fill(voxels, 0.0)
        return torch.where(voxels, self.value.view(1, -1, *len(self.size) * (1,)), views)

    def _matched(self, features: Tensor, views: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """`patch` and `token`: alpha L_efm and beta L_cls, Eq. 3."""
        if self.tokenizer is None or self.teacher is None:
            return {}
        with torch.no_grad():
            whole = up_to(self.teacher, self.stage.path, views)
        with in_full(features):
            now = warmth(int(self.done), self.steps, self.table)
            terms = self.tokenizer(features.float(), whole.float(), hidden, now)
        weights = {"patch": self.table.patch, "token": self.table.token}
        return {name: self.table.mod_weight * weights[name] * term for name, term in terms.items()}

    def _rebuilt(self, features: Tensor, images: Tensor, views: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """`rebuild`: lambda L_DP, Eq. 4 and 5."""
        if self.predictor is None:
            return {}
        wanted = views if self.table.target == "view" else torch.cat(self.table.masked_views * [images])
        with in_full(features):
            patches = patches_of(wanted[: len(hidden)], self.stage.stride)
            loss = masked_l1(self.predictor(features.float()), patches, hidden.flatten(1))
        return {"rebuild": self.table.mod_weight * self.table.rebuild * loss}


def in_full(like: Tensor) -> torch.autocast:
    """A block in 32 bits on that device: mixed precision is for the networks alone."""
    return torch.autocast(like.device.type, enabled=False)


def stage_of(network: nn.Module, name: str | None = None) -> Stage:
    """That stage of a network, by default its deepest feature map; InputError where it has none."""
    inner = unwrapped(network)
    stages: Mapping[str, Stage] = getattr(inner, "stages", {})
    bottom: Stage | None = getattr(inner, "bottom", None)
    found = stages.get(name) if name is not None else bottom
    if found is None:
        what = f"no stage `{name}`" if name is not None else "no stated deepest feature map"
        have = f"its stages: {', '.join(stages)}" if stages else "take a network that is shaped as a U"
        raise InputError(f"`{getattr(inner, 'name', type(inner).__name__)}` has {what}", fix=have)
    return found
