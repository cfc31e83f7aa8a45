"""One site's stored answers as plain arrays on disk, decoded: a job reads slices at random, and the store is slow.

A random read out of the store decompresses a whole shard: 14 to 16 ms a slice (4 × 96 × 320 × 320, float16), of a
memory map 0.4 ms.
"""

from __future__ import annotations

import hashlib
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
        cls, store: AnswerStore, site: str, content: str, folder: Path, asked: Sequence[Ids], *, size: Size
    ) -> Unpacked:
        """Unpack a content into `folder`, every checksum compared, unless that is what lies there already, undamaged.

        `size` is the slices' (H, W), `asked` the numbers of each shard's slices: all that are learned from.

        Raises: InputError naming site and shard when one is damaged, or answers other slices than were asked.
        """
        ids = np.concatenate(asked)
        read = {shard: mark for shard, mark in store.checksums(site, content).items() if int(shard) < len(asked)}
        note = {"checksums": read, "ids": digest({"ids": ids})}
        if not _lies_there(folder, note):
            clear(folder)
            with replacing(folder) as temporary:
                temporary.mkdir()
                _unpack(store, site, content, temporary, asked, size=size)
                note["files"] = _hashes(temporary)
                (temporary / NOTE).write_text(json.dumps(note), encoding="utf-8")
        return cls(folder, ids)

    def rows(self, ids: Ids) -> Mapping[str, NDArray[Any]]:
        """Copies of these slices' rows, under the arrays' names, and `answered` (n,) bool."""
        rows = np.searchsorted(self._ids, ids)
        return {name: np.asarray(array[rows]) for name, array in self._maps.items()}


def unpacked(
    store: AnswerStore, site: str, contents: Sequence[str], folder: Path, asked: Sequence[Ids], *, size: Size
) -> dict[str, Unpacked]:
    """Each of these contents that the site released, unpacked under `folder`; see `Unpacked.build`."""
    return {
        content: Unpacked.build(store, site, content, folder / content, asked, size=size)
        for content in contents
        if content not in store.withheld(site)
    }


def _lies_there(folder: Path, note: dict[str, Any]) -> bool:
    """Whether the folder holds what `note` tells of, and its files are as they were written."""
    try:
        found = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        return bool(found == note | {"files": _hashes(folder)})
    except (OSError, ValueError):
        return False


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each array's file: they outlive jobs, and every job of the run learns from them."""
    found = {}
    for path in sorted(folder.glob("*.npy")):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _unpack(store: AnswerStore, site: str, content: str, folder: Path, asked: Sequence[Ids], *, size: Size) -> None:
    """One file an array, (slices, …), filled shard by shard."""
    ids = np.concatenate(asked)
    maps: dict[str, NDArray[Any]] = {"answered": _array(folder, "answered", np.dtype(bool), (len(ids),))}
    card = store.card(site)
    ends = ends_of(card.model, card.options)
    for answers in store.in_order(site, [content]):
        index = answers.header.index
        if index >= len(asked) and answers.slice_ids[0] > ids[-1]:  # from here on of views that are not learned from
            break
        if index >= len(asked) or not np.array_equal(asked[index], answers.slice_ids):
            what = f"shard {index} of site {site} answers other slices than the student's to train on"
            fix = "restore `seed` and `distill.split`, or collect anew into another folder (`preceptor simulate --out`)"
            raise InputError(what, where=store.folder / site, fix=fix)
        rows = np.searchsorted(ids, answers.slice_ids)
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
