"""Where the teachers' answers come from: the store, or the teachers themselves. A scheme cannot tell which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distill.schemes.base import TeacherBatch
from distill.unpacked import Unpacked
from imaging.slices import SliceCache
from models.knowledge import told
from study.answers import CONTENTS

Ids = NDArray[np.int64]


class Teachers(Protocol):
    """T teachers who can be asked about the student's slices."""

    @property
    def sites(self) -> tuple[str, ...]:
        """The teachers' sites, in the order of T."""

    def answers(self, ids: Ids) -> TeacherBatch:
        """What each says of these slices as they were sent, unaugmented; float16 where sites send float16."""


class StoredAnswers:
    """What the sites answered, read from the store's unpacked copies; only `contents` of it."""

    def __init__(self, unpacked: Sequence[Unpacked], contents: Sequence[str] = CONTENTS) -> None:
        self._unpacked, self._contents = list(unpacked), tuple(contents)
        self.sites = tuple(one.site for one in unpacked)
        self.checksums = {one.site: one.checksums for one in unpacked}

    def answers(self, ids: Ids) -> TeacherBatch:
        """See `Teachers`."""
        found = [
            {name: torch.from_numpy(array) for name, array in one.rows(ids, self._contents).items()}
            for one in self._unpacked
        ]
        return _batch(found, torch.stack([one.pop("answered") for one in found], dim=1))


class LiveTeachers:
    """The teachers themselves, asked afresh each time; where they are at hand, such as in tests and comparisons."""

    def __init__(self, networks: Mapping[str, nn.Module], slices: SliceCache, *, classes: int) -> None:
        self.sites = tuple(networks)
        self._networks = [network.eval() for network in networks.values()]
        self._slices, self._classes = slices, classes

    @torch.no_grad()
    def answers(self, ids: Ids) -> TeacherBatch:
        """See `Teachers`; rounded as a site rounds."""
        images = torch.from_numpy(self._slices.images[ids]).float()[:, None]
        masks = torch.from_numpy(self._slices.masks[ids])
        found = [told(one, images, masks, classes=self._classes, wants=CONTENTS) for one in self._networks]
        return _batch(found, torch.ones(len(ids), len(found), dtype=torch.bool))


def _batch(found: Sequence[Mapping[str, Tensor]], answered: Tensor) -> TeacherBatch:
    """One dictionary a teacher, under the flat names of answers, as one batch; `answered` (N, T)."""

    def taps(group: str) -> list[str]:
        return [name.partition("/")[2] for name in found[0] if name.startswith(f"{group}/")]

    def stacked(name: str) -> Tensor:
        return torch.stack([one[name] for one in found], dim=1)

    return TeacherBatch(
        logits=stacked("logits"),
        answered=answered,
        attention={tap: [one[f"attention/{tap}"] for one in found] for tap in taps("attention")},
        contrast={tap: stacked(f"contrast/{tap}") for tap in taps("contrast")},
        valid={tap: stacked(f"valid/{tap}") for tap in taps("valid")},
    )
