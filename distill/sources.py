"""Where the teachers' answers come from: the store, or the teachers themselves. A scheme cannot tell which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import models
from distill.schemes.base import TeacherBatch
from distill.unpacked import Unpacked
from imaging.slices import SliceCache
from models.knowledge import attention_map, halved, region_contrast, scaled
from study.answers import CONTENTS

Ids = NDArray[np.int64]
TAPS = ("encoder", "decoder")


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
        found = [one.rows(ids, self._contents) for one in self._unpacked]
        names = found[0].keys()

        def tensors(name: str) -> list[Tensor]:
            return [torch.from_numpy(one[name]) for one in found]

        def taps(group: str) -> list[str]:
            return [name.partition("/")[2] for name in names if name.startswith(f"{group}/")]

        return TeacherBatch(
            logits=torch.stack(tensors("logits"), dim=1),
            answered=torch.stack(tensors("answered"), dim=1),
            attention={tap: tensors(f"attention/{tap}") for tap in taps("attention")},
            contrast={tap: torch.stack(tensors(f"contrast/{tap}"), dim=1) for tap in taps("contrast")},
            valid={tap: torch.stack(tensors(f"valid/{tap}"), dim=1) for tap in taps("valid")},
        )


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
        logits: list[Tensor] = []
        maps: dict[str, list[Tensor]] = {tap: [] for tap in TAPS}
        contrasts: dict[str, list[tuple[Tensor, Tensor]]] = {tap: [] for tap in TAPS}
        for network in self._networks:
            with models.tap(network, TAPS) as features:
                logits.append(halved(network(images)))
            for tap in TAPS:
                maps[tap].append(scaled(attention_map(features[tap])).half())
                contrasts[tap].append(region_contrast(features[tap], masks, self._classes))
        return TeacherBatch(
            logits=torch.stack(logits, dim=1),
            answered=torch.ones(len(ids), len(logits), dtype=torch.bool),
            attention=maps,
            contrast={tap: torch.stack([rc for rc, _ in pairs], dim=1) for tap, pairs in contrasts.items()},
            valid={tap: torch.stack([valid for _, valid in pairs], dim=1) for tap, pairs in contrasts.items()},
        )
