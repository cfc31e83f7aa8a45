"""One case of a cache of slices: prepared once, and kept in a folder of its own until the whole cache is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from imaging.atomic import replacing
from imaging.cohort import Case
from imaging.grid import Grid
from imaging.preprocess import Preprocess, prepare

VERSION = 2
"""Of the files' layout."""


@dataclass(frozen=True)
class CachedCase:
    """One case's place in a cache: slices `start` up to, not including, `stop`, and the way back to its scan."""

    id: str
    patient: str
    labelled: bool
    start: int
    stop: int
    grid: Grid
    spacing_mm: tuple[float, float, float]
    """Of the scan's own array, on which native masks lie and to which `to_native` leads."""
    key: str
    """Changes with the content of the case's files and with how they are prepared."""

    @property
    def pixel_mm(self) -> float:
        """How wide the scan's own pixels are in the axial plane, the longer of both sides."""
        return max(mm for axis, mm in zip(self.grid.axes, self.spacing_mm, strict=True) if axis not in "SI")

    @property
    def slice_mm(self) -> float:
        """How far the axial slices lie apart."""
        return next(mm for axis, mm in zip(self.grid.axes, self.spacing_mm, strict=True) if axis in "SI")

    @classmethod
    def from_json(cls, note: dict[str, Any]) -> Self:
        return cls(**{**note, "grid": Grid.from_json(note["grid"]), "spacing_mm": tuple(note["spacing_mm"])})


@dataclass(frozen=True)
class Part:
    """One case's arrays: `images` (D, c, H, W) float16, `masks` (D, H, W) uint8, and `native`, its mask as drawn."""

    case: CachedCase
    images: NDArray[np.float16]
    masks: NDArray[np.uint8]
    native: NDArray[np.uint8] | None

    @property
    def kept(self) -> bool:
        """Whether it lies on disk already, and not in memory only."""
        return isinstance(self.images, np.memmap)


@dataclass(frozen=True)
class Recipe:
    """How cases are prepared; part of every key."""

    plan: Preprocess
    classes: int
    channels: int = 1

    def key(self, case: Case) -> str:
        """32 hex digits from the content of the case's files."""
        return self._hash(case.id, case.patient, case.labelled, case.checksum())

    def stamp(self, cases: Sequence[Case]) -> str:
        """32 hex digits from the names, sizes and times of all cases' files: nothing is read."""
        files = [[str(path), *_size_and_time(path)] for case in cases for path in case.files]
        return self._hash([[case.id, case.patient, case.labelled] for case in cases], files)

    def prepare(self, case: Case, key: str) -> Part:
        """The case read and prepared; InputError or OSError when it cannot be used."""
        image, mask = case.read_image(), case.read_mask()
        prepared = prepare(image, mask, self.plan, classes=self.classes, channels=self.channels)
        n = len(prepared.images)
        cached = CachedCase(case.id, case.patient, mask is not None, 0, n, prepared.grid, image.spacing_mm, key)
        native = mask.array.astype(np.uint8) if mask is not None else None
        return Part(cached, prepared.images, prepared.masks, native)

    def _hash(self, *content: Any) -> str:
        drawn = True  # masks as they were drawn are kept: once a choice
        whole = [VERSION, self.plan.fingerprint(), self.classes, self.channels, drawn, *content]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:32]


def write_part(part: Part, folder: Path) -> Part:
    """The part, now in that folder, whole or not at all, and memory-mapped."""
    with replacing(folder) as temporary:
        temporary.mkdir()
        for name in ("images", "masks", "native"):
            if (array := getattr(part, name)) is not None:
                np.save(temporary / f"{name}.npy", array)
        (temporary / "case.json").write_text(json.dumps(asdict(part.case)), encoding="utf-8")
    return read_part(folder)


def read_part(folder: Path) -> Part:
    """The part in that folder, memory-mapped."""
    case = CachedCase.from_json(json.loads((folder / "case.json").read_text(encoding="utf-8")))
    images, masks = (np.load(folder / name, mmap_mode="r") for name in ("images.npy", "masks.npy"))
    native = folder / "native.npy"
    return Part(case, images, masks, np.load(native, mmap_mode="r") if native.exists() else None)


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, -1  # reading it says what is wrong
    return status.st_size, status.st_mtime_ns
