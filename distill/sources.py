"""Where the teachers' answers come from: the store, or the teachers themselves. A scheme cannot tell which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distill.schemes.base import TeacherBatch
from distill.unpacked import Unpacked
from imaging.slices import SliceCache
from models.contents import DEFAULT, kind_of
from models.knowledge import halved
from models.knowledge import told as told_by

Ids = NDArray[np.int64]


class Teachers(Protocol):
    """T teachers who can be asked about the student's slices."""

    @property
    def sites(self) -> tuple[str, ...]:
        """The teachers' sites, in the order of T."""

    def answers(self, ids: Ids) -> TeacherBatch:
        """What each says of these slices as they were sent, unaugmented; float16 where sites send float16."""


class StoredAnswers:
    """What the sites answered, read from the store's unpacked copies: of each site the contents that are given."""

    def __init__(self, unpacked: Mapping[str, Mapping[str, Unpacked]]) -> None:
        self._unpacked, self.sites = unpacked, tuple(unpacked)
        self.checksums = {
            site: {f"{name}/{shard}": mark for name, one in contents.items() for shard, mark in one.checksums.items()}
            for site, contents in unpacked.items()
        }

    def renewed(self, unpacked: Mapping[str, Mapping[str, Unpacked]]) -> StoredAnswers:
        """The same teachers, some of whom have answered anew."""
        return StoredAnswers({site: unpacked.get(site, former) for site, former in self._unpacked.items()})

    def answers(self, ids: Ids) -> TeacherBatch:
        """See `Teachers`; a teacher has answered a slice where all its contents are there."""
        told, answered = [], []
        for contents in self._unpacked.values():
            rows = [dict(one.rows(ids)) for one in contents.values()]
            answered.append(torch.from_numpy(np.logical_and.reduce([one.pop("answered") for one in rows])))
            told.append({name: torch.from_numpy(array) for one in rows for name, array in one.items()})
        return batch_of(self.sites, told, torch.stack(answered, dim=1))


class LiveTeachers:
    """The teachers themselves, asked afresh each time; where they are at hand, such as in tests and comparisons.

    They answer as sites do by default: in float16 on the full grid, and about slices, not about views.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        slices: SliceCache,
        *,
        classes: int,
        contents: Sequence[str] = DEFAULT,
    ) -> None:
        self.sites = tuple(networks)
        self._networks = [network.eval() for network in networks.values()]
        self._slices, self._classes, self._contents = slices, classes, contents

    @torch.no_grad()
    def answers(self, ids: Ids) -> TeacherBatch:
        """See `Teachers`; in float16 on the full grid, as sites answer unless a study says otherwise."""
        images = torch.from_numpy(self._slices.images[ids]).float()
        masks = torch.from_numpy(self._slices.masks[ids])
        told = [self._rounded(images, masks, network) for network in self._networks]
        return batch_of(self.sites, told, torch.ones(len(ids), len(told), dtype=torch.bool))

    def _rounded(self, images: Tensor, masks: Tensor, network: nn.Module) -> dict[str, Tensor]:
        found = told_by(network, images, masks, classes=self._classes, wants=self._contents)
        return {name: halved(one) if kind_of(name).dtype == "float16" else one for name, one in found.items()}


@dataclass(frozen=True)
class Proven:
    """Teachers of whom it is known how well they do on the outlined slices: `weights.track_record`, (T,)."""

    teachers: Teachers
    record: Tensor

    @property
    def sites(self) -> tuple[str, ...]:
        """See `Teachers`."""
        return self.teachers.sites

    def answers(self, ids: Ids) -> TeacherBatch:
        """See `Teachers`; with their record."""
        return replace(self.teachers.answers(ids), record=self.record)


def batch_of(sites: tuple[str, ...], told: Sequence[dict[str, Tensor]], answered: Tensor) -> TeacherBatch:
    """One dictionary a teacher, under the arrays' names, as one batch; `answered` (N, T)."""
    return TeacherBatch(torch.stack([one.pop("logits") for one in told], dim=1), answered, list(told), sites)
