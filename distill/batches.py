"""Training batches: which slices a step sees, and what lies on them moved by one field a slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.schemes.base import Batch, TeacherBatch, teachers_of
from distill.sources import Proven, Teachers
from distill.weights import track_record
from imaging.augment import IDENTITY, Augment, draw
from imaging.slices import SliceCache
from imaging.warp import Warp
from models.contents import NODES, kind_of
from models.knowledge import NO_MASK
from study.draws import derived, generator
from study.views import numbered, pictures

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class TrainingBatches:
    """`batches[step]` for the training loop: the same for the same seed and step, whatever was asked before.

    `ids` are the slices to train on. Where some of them have no mask and some do, `labelled_share` of every batch is
    drawn from those that do.
    """

    slices: SliceCache
    ids: Ids
    teachers: Teachers | None
    seed: int
    size: int
    labelled_share: float = 0.5
    augment: Augment = field(default_factory=Augment)
    share: tuple[int, int] = (0, 1)
    """Which of how many processes this is; each takes its part of every batch, and moves it by draws of its own."""
    views: int = 0
    """How many variations of each slice the teachers were asked about; at 0 answers are moved with their slices."""
    views_seed: int = 0
    """The study's: what these variations show."""

    def __getitem__(self, step: int) -> Batch:
        number, processes = self.share
        ids = np.sort(self.drawn(step))[number::processes]  # files are read forwards
        place = (step, number) if number else (step,)
        if self.views and self.teachers:
            chosen = generator(self.seed, "views", *place).integers(1, self.views + 1, len(ids))
            return self.seen(numbered(self.slices, ids, chosen), self.teachers)
        warp = draw(self.augment, derived(self.seed, "augment", *place), size=self.slices.plan.shape, n=len(ids))
        if self.teachers is None and self.slices.plan.patch:
            random = generator(self.seed, "crops", *place)
            pictures = self.slices.drawn(ids, random, foreground=self.augment.foreground)
            return moved(pictures, self.slices.labelled[ids], None, warp)
        return assemble(self.slices, self.teachers, ids, warp)

    def seen(self, numbers: Ids, teachers: Teachers) -> Batch:
        """The very pictures of these numbers that the teachers saw, and what they said."""
        seen = pictures(self.slices, numbers, seed=self.views_seed, augment=self.augment)
        labelled = self.slices.labelled[numbers % len(self.slices.images)]
        still = draw(IDENTITY, 0, size=self.slices.plan.shape, n=len(numbers))
        return moved(seen, labelled, teachers.answers(numbers), still)

    def drawn(self, step: int) -> Ids:
        """The slices of a step, in passes: no slice comes again before all others of its kind have come."""
        has = self.slices.labelled[self.ids]
        if has.all() or not has.any():
            return _passes(self.ids, self.size, step, self.seed, "all")
        count = round(self.size * self.labelled_share)
        return np.concatenate([
            _passes(self.ids[has], count, step, self.seed, "labelled"),
            _passes(self.ids[~has], self.size - count, step, self.seed, "unlabelled"),
        ])  # fmt: skip


def plain(slices: SliceCache, teachers: Teachers | None, ids: Ids) -> Batch:
    """These slices as they are, with what the teachers say of them."""
    return assemble(slices, teachers, ids, draw(IDENTITY, 0, size=slices.plan.shape, n=len(ids)))


def proven(slices: SliceCache, teachers: Teachers, ids: Ids, *, chunk: int = 32) -> Teachers:
    """The same teachers, who carry their record on those of these slices that are outlined; if none is, as they are."""
    outlined = ids[slices.labelled[ids]]
    if not len(outlined):
        return teachers
    parts = (plain(slices, teachers, outlined[start : start + chunk]) for start in range(0, len(outlined), chunk))
    return Proven(teachers, track_record((teachers_of(part), part.masks) for part in parts))


def assemble(slices: SliceCache, teachers: Teachers | None, ids: Ids, warp: Warp) -> Batch:
    """A batch with images, masks and the teachers' logits and maps moved alike; intensity changes touch images only.

    Region contrast stays as the teacher measured it: a scalar has no place to be moved to.
    """
    pictures = slices.images[ids], slices.masks[ids]
    return moved(pictures, slices.labelled[ids], teachers.answers(ids) if teachers else None, warp)


def moved(
    pictures: tuple[NDArray[np.float16], NDArray[np.uint8]],
    labelled: NDArray[np.bool_],
    answers: TeacherBatch | None,
    warp: Warp,
) -> Batch:
    """The batch of these images (N, c, *shape) and masks (N, *shape), of which some count as outlined."""
    masks = torch.from_numpy(pictures[1])
    masks[~labelled] = NO_MASK  # a mask that is not to be learned from is as good as none
    images = warp.shade(warp.move(torch.from_numpy(pictures[0])))
    told = _moved(answers, warp) if answers else None
    return Batch(images, warp.move_masks(masks), torch.from_numpy(labelled), told)


def _moved(answers: TeacherBatch, warp: Warp) -> TeacherBatch:
    logits = warp.move(answers.logits.flatten(1, 2)).view(answers.logits.shape)
    told = [{name: MOVED[kind_of(name).lies](array, warp) for name, array in one.items()} for one in answers.told]
    return replace(answers, logits=logits, told=told)


def _on_slice(maps: Tensor, warp: Warp) -> Tensor:
    """Maps (N, h, w) or (N, c, h, w); of patches (N, d, h, w) or (N, c, d, h, w)."""
    return warp.move(maps[:, None])[:, 0] if maps.ndim == warp.dims + 1 else warp.move(maps)


def _between_nodes(affinity: Tensor, warp: Warp) -> Tensor:
    """Affinities (N, m, m) of the m = k × k nodes: moved as maps of k × k once for either of the two nodes."""
    sides = [NODES] * warp.dims
    for _ in range(2):
        affinity = warp.move(affinity.reshape(*affinity.shape[:2], *sides)).flatten(2).transpose(1, 2)
    return affinity


MOVED: dict[str, Callable[[Tensor, Warp], Tensor]] = {
    "nowhere": lambda values, warp: values,
    "on the slice": _on_slice,
    "between nodes": _between_nodes,
}
"""By how an array lies on its slice."""


def _passes(ids: Ids, count: int, step: int, seed: int, kind: str) -> Ids:
    """`count` of `ids`: where the step stands in an endless row of shuffled passes over all of them."""
    places = np.arange(step * count, (step + 1) * count)
    orders = {
        one: generator(seed, "order", kind, int(one)).permutation(len(ids)) for one in np.unique(places // len(ids))
    }
    return np.array([ids[orders[place // len(ids)][place % len(ids)]] for place in places], dtype=np.int64)
