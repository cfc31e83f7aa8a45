"""One site's stored answers as plain arrays on disk, decoded: a job reads slices at random, and the store is slow.

A random read out of the store decompresses a whole shard: 14 to 16 ms a slice (4 × 96 × 320 × 320, float16), of a
memory map 0.4 ms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.atomic import clear, replacing
from imaging.errors import InputError
from models.registry import ends_of
from study.encoding import Size, decoded
from study.store import AnswerStore
from study.wire import digest

Ids = NDArray[np.int64]
NOTE = "note.json"


class Unpacked:
    """One content of one site about the slices `ids`, which count up; a slice that it did not answer reads as zeros."""

    def __init__(self, folder: Path, ids: Ids) -> None:
        self._ids = ids
        self.checksums: dict[str, str] = json.loads((folder / NOTE).read_text(encoding="utf-8"))["checksums"]
        self._maps = {
            path.stem.replace(".", "/"): np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))
        }

    @classmethod
    def build(
        cls, store: AnswerStore, site: str, content: str, folder: Path, ids: Ids, *, size: Size, n_shards: int
    ) -> Unpacked:
        """Unpack a content into `folder`, every checksum compared, unless that is what lies there already.

        `size` is the slices' (H, W); shards from number `n_shards` on are of views that are not learned from.

        Raises: InputError naming site and shard when one is damaged, or answers slices that were not asked.
        """
        read = {shard: mark for shard, mark in store.checksums(site, content).items() if int(shard) < n_shards}
        note = {"checksums": read, "ids": digest({"ids": ids})}
        if not (folder / NOTE).exists() or json.loads((folder / NOTE).read_text(encoding="utf-8")) != note:
            clear(folder)
            with replacing(folder) as temporary:
                temporary.mkdir()
                _unpack(store, site, content, temporary, ids, size=size)
                (temporary / NOTE).write_text(json.dumps(note), encoding="utf-8")
        return cls(folder, ids)

    def rows(self, ids: Ids) -> Mapping[str, NDArray[Any]]:
        """Copies of these slices' rows, under the arrays' names, and `answered` (n,) bool."""
        rows = np.searchsorted(self._ids, ids)
        return {name: np.asarray(array[rows]) for name, array in self._maps.items()}


def unpacked(
    store: AnswerStore, site: str, contents: Sequence[str], folder: Path, ids: Ids, *, size: Size, n_shards: int
) -> dict[str, Unpacked]:
    """Each of these contents that the site released, unpacked under `folder`; see `Unpacked.build`."""
    return {
        content: Unpacked.build(store, site, content, folder / content, ids, size=size, n_shards=n_shards)
        for content in contents
        if content not in store.withheld(site)
    }


def _unpack(store: AnswerStore, site: str, content: str, folder: Path, ids: Ids, *, size: Size) -> None:
    """One file an array, (len(ids), …), filled shard by shard."""
    maps: dict[str, NDArray[Any]] = {"answered": _array(folder, "answered", np.dtype(bool), (len(ids),))}
    card = store.card(site)
    ends = ends_of(card.model, card.options)
    for answers in store.in_order(site, [content]):
        if answers.slice_ids[0] > ids[-1]:  # from here on of views that are not learned from
            break
        rows = np.searchsorted(ids, answers.slice_ids)
        if not np.array_equal(ids[np.minimum(rows, len(ids) - 1)], answers.slice_ids):
            what = f"shard {answers.header.index} of site {site} answers other slices than the student's to train on"
            fix = "restore `seed` and `distill.split`, or collect anew into another folder (`preceptor simulate --out`)"
            raise InputError(what, where=store.folder / site, fix=fix)
        for name, array in decoded(answers.arrays, store.encoding, size=size, ends=ends).items():
            if name not in maps:
                maps[name] = _array(folder, name, array.dtype, (len(ids), *array.shape[1:]))
            maps[name][rows] = array
        maps["answered"][rows] = True


def _array(folder: Path, name: str, dtype: np.dtype[Any], shape: Sequence[int]) -> NDArray[Any]:
    """A file of zeros, memory-mapped.

    Written first: on a full disk a write is refused, and a page of a hole kills the process.
    """
    path, row = folder / f"{name.replace('/', '.')}.npy", np.zeros(shape[1:], dtype).tobytes()
    with path.open("wb") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(shape[0]):
            file.write(row)
    array: NDArray[Any] = np.load(path, mmap_mode="r+")
    return array
