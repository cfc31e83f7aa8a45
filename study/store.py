"""The teachers' answers on disk: Zarr 3, a group a teacher and round, a chunk a shard, a checksum a shard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from imaging.atomic import replacing
from imaging.errors import InputError
from study.answers import Answers, AnswersHeader
from study.wire import Arrays, Card, Header, digest

CHECKSUM = "checksum"
"""Array (shards, 32) uint8: SHA-256 of each shard, written after its data; a row of zeros where there is no shard."""
ABSENT = bytes(32)
RETEACH = "train the teachers again"
COMPRESSOR = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
"""Smooth fp16 logits shrink to 0.47 of their size, to 0.58 with Zarr's default; noise to 0.92 with both."""


class Row(Header):
    """What an array holds of one slice."""

    dtype: str
    shape: tuple[int, ...]


class Notes(Header):
    """The attributes of a site's group."""

    card: Card
    arrays: dict[str, Row]
    shard_slices: int
    slices: str
    """Identity of the slices that are answered about."""


class UnreadableError(InputError):
    """The store itself is damaged: no fault of a reply."""


class AnswerStore:
    """Answers by site and shard; memory holds one shard at a time.

    `<site>/round-000/` holds `slice_ids`, `logits`, `attention/<tap>`, … of all slices, `shard_slices` to a chunk, and
    in its attributes the teacher's card. `slices` is the identity of what is asked about: answers about
    anything else are refused. A shard counts once its checksum is there, and every read compares it.
    """

    def __init__(self, folder: Path, *, shard_slices: int, slices: str, round_index: int = 0) -> None:
        self.folder, self.shard_slices, self.slices = folder, shard_slices, slices
        self.round_name = f"round-{round_index:03d}"

    def sites(self) -> list[str]:
        """Sites with answers here, in alphabetical order."""
        return sorted(path.parent.parent.name for path in self.folder.glob(f"*/{self.round_name}/zarr.json"))

    def card(self, site: str) -> Card:
        """The card of the teacher who answered."""
        return self._notes(site).card

    def checksums(self, site: str) -> dict[str, str]:
        """SHA-256 of every shard that is there, by its number: they change whenever the answers do.

        Raises: InputError when the answers are about other slices, or lie in shards of another size.
        """
        if site not in self.sites():
            return {}
        self._notes(site)
        marks = [mark.tobytes() for mark in self._rows(site, CHECKSUM, slice(None))]
        return {str(index): mark.hex() for index, mark in enumerate(marks) if mark != ABSENT}

    def shards(self, site: str) -> list[int]:
        """Numbers of the shards that are there, counting up."""
        return [int(index) for index in self.checksums(site)]

    def has(self, site: str, index: int) -> bool:
        """True when that shard is there, whole."""
        return site in self.sites() and self._checksum(site, index) != ABSENT

    def missing(self, site: str, n_shards: int) -> list[int]:
        """Numbers of the shards, of `n_shards`, still to be asked."""
        there = set(self.shards(site))
        return [index for index in range(n_shards) if index not in there]

    def write(self, answers: Answers, card: Card) -> None:
        """Put one shard's answers away, in place of what was there.

        Raises: InputError when they come from another teacher than the site's earlier answers, or hold other arrays.
        """
        site, index, arrays = answers.header.site, answers.header.index, answers.arrays()
        if not 0 < len(answers.slice_ids) <= self.shard_slices:
            raise ValueError(f"{len(answers.slice_ids)} slices in a shard of {self.shard_slices}")
        self._admit(answers.header, card, arrays)
        try:
            self._mark(site, index, ABSENT)
            self._write(site, index, arrays)
            self._mark(site, index, bytes.fromhex(digest(arrays)))
        except OSError as error:
            raise InputError(
                "answers cannot be stored", where=self._path(site), fix="free some space and collect again"
            ) from error

    def read(self, site: str, index: int) -> Answers:
        """One shard's answers, as they were written.

        Raises: InputError naming site and shard when it is not there, or not what was written; in the latter case it
        no longer counts from then on, so that it is asked for again.
        """
        if not self.has(site, index):
            raise InputError(f"shard {index} of site {site} is not there", where=self._path(site), fix="collect again")
        card = self.card(site)
        try:
            arrays = self._read(site, index)
            whole = bytes.fromhex(digest(arrays)) == self._checksum(site, index)
        except InputError:
            whole = False
        if not whole:
            self._mark(site, index, ABSENT)
            fix = "collect again: only this shard is asked for"
            raise InputError(f"shard {index} of site {site} is damaged", where=self._path(site), fix=fix)
        header = AnswersHeader(site=site, index=index, weights_hash=card.weights_hash, fingerprint=card.fingerprint)
        return Answers.from_arrays(header, arrays)

    def in_order(self, site: str) -> Iterator[Answers]:
        """All shards of a site that are there, one after the other."""
        for index in self.shards(site):
            yield self.read(site, index)

    def _admit(self, header: AnswersHeader, card: Card, arrays: Arrays) -> None:
        """Make the site's group on its first answers; later InputError unless teacher and arrays are the same."""
        if (header.site, header.weights_hash) != (card.site, card.weights_hash):
            raise InputError(
                "answers come from another teacher than the card names", where=f"site {header.site}", fix=RETEACH
            )
        rows = {name: Row(dtype=array.dtype.name, shape=array.shape[1:]) for name, array in sorted(arrays.items())}
        if header.site not in self.sites():
            self._create(Notes(card=card, arrays=rows, shard_slices=self.shard_slices, slices=self.slices))
        earlier, fix = self._notes(header.site), f"remove {self.folder / header.site} and collect again"
        if earlier.card.weights_hash != header.weights_hash:
            raise InputError("the teacher has changed since its first answers", where=f"site {header.site}", fix=fix)
        if earlier.arrays != rows:
            raise InputError("answers hold other arrays than the first ones did", where=f"site {header.site}", fix=fix)

    def _create(self, notes: Notes) -> None:
        """The site's group with its arrays, empty; whole or not at all."""
        with replacing(self._path(notes.card.site)) as temporary:
            group = zarr.create_group(temporary, attributes=notes.model_dump(mode="json"))
            group.create_array(CHECKSUM, shape=(0, 32), chunks=(64, 32), dtype="uint8", compressors=None)
            for name, row in notes.arrays.items():
                group.create_array(
                    name,
                    shape=(0, *row.shape),
                    chunks=(self.shard_slices, *row.shape),
                    dtype=row.dtype,
                    fill_value=-1 if name == "slice_ids" else 0,
                    compressors=COMPRESSOR,
                )

    def _write(self, site: str, index: int, arrays: Arrays) -> None:
        start = index * self.shard_slices
        for name, values in arrays.items():
            array = self._array(site, name)
            _grow(array, start + len(values))
            array[start : start + len(values)] = values

    def _read(self, site: str, index: int) -> Arrays:
        rows = slice(index * self.shard_slices, (index + 1) * self.shard_slices)
        n = int((self._rows(site, "slice_ids", rows) >= 0).sum())  # the last shard may be shorter
        return {name: self._rows(site, name, rows)[:n] for name in self._notes(site).arrays}

    def _checksum(self, site: str, index: int) -> bytes:
        return self._rows(site, CHECKSUM, slice(index, index + 1)).tobytes() or ABSENT

    def _mark(self, site: str, index: int, checksum: bytes) -> None:
        marks = self._array(site, CHECKSUM)
        _grow(marks, index + 1)
        marks[index] = np.frombuffer(checksum, np.uint8)

    def _path(self, site: str) -> Path:
        return self.folder / site / self.round_name

    def _notes(self, site: str) -> Notes:
        """Card, arrays and shard size of a site; InputError unless they can be read and fit this store."""
        try:
            notes = Notes.model_validate(zarr.open_group(self._path(site), mode="r").attrs.asdict())
        except Exception as error:
            raise self._unreadable(site, error) from error
        fix = f"remove {self.folder / site} and collect again"
        if notes.shard_slices != self.shard_slices:
            what = f"answers lie in shards of {notes.shard_slices} slices, the study has {self.shard_slices}"
            raise InputError(what, where=self._path(site), fix=fix)
        if notes.slices != self.slices:
            what = f"site {site} has answered about other scans of the student than those there are now"
            fix = f"bring the scans back, or remove {self.folder} and run `preceptor simulate` on this run again"
            raise InputError(what, where=self._path(site), fix=fix)
        return notes

    def _rows(self, site: str, name: str, rows: slice) -> NDArray[Any]:
        try:
            return np.asarray(self._array(site, name)[rows])
        except Exception as error:
            raise self._unreadable(site, error) from error

    def _array(self, site: str, name: str) -> zarr.Array[Any]:
        try:
            return zarr.open_array(self._path(site) / name, mode="r+")
        except Exception as error:
            raise self._unreadable(site, error) from error

    def _unreadable(self, site: str, error: Exception) -> UnreadableError:
        """For whatever Zarr and its codecs raise at missing, cut and foreign files: nearly anything."""
        what = f"the answers of site {site} cannot be read ({type(error).__name__})"
        return UnreadableError(what, where=self._path(site), fix=f"remove {self.folder / site} and collect again")


def _grow(array: zarr.Array[Any], rows: int) -> None:
    if rows > array.shape[0]:
        array.resize((rows, *array.shape[1:]))
