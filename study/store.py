"""The teachers' answers on disk: Zarr 3, a group a teacher, round and content, a chunk and a checksum a shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from imaging.atomic import replacing
from imaging.errors import InputError
from models.contents import CONTENTS
from study.answers import Answers, AnswersHeader
from study.squeeze import Row, row_of
from study.tables import Encoding
from study.wire import Arrays, Card, Header, digest

CHECKSUM = "checksum"
"""Array (shards, 32) uint8: SHA-256 of each shard, written after its data; a row of zeros where there is no shard."""
ABSENT = bytes(32)
DAMAGED = "damaged"
"""Folder of a content: an empty file, named by its number, for each shard that was not what had been written."""
RETEACH = "train the teachers again"
COMPRESSOR = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
"""Smooth fp16 logits shrink to 0.47 of their size, to 0.58 with Zarr's default; noise to 0.92 with both."""
zarr.config.set({"threading.max_workers": 1})
"""A shard is one chunk, so more threads gain nothing; and each keeps a heap of its own, grown to a shard's size."""


class Notes(Header):
    """The attributes of a content's group."""

    card: Card
    arrays: dict[str, Row]
    """None but the slice ids where the site withholds this content, or its teacher cannot tell it."""
    shard_slices: int
    slices: str
    """Identity of the slices that are answered about."""
    encoding: Encoding = Encoding()


class UnreadableError(InputError):
    """The store itself is damaged: no fault of a reply."""


class DamagedError(InputError):
    """A shard is not what was written."""


class AnswerStore:
    """Answers by site, content and shard; memory holds one shard at a time.

    `<site>/round-000/<content>/` holds `slice_ids` and the content's arrays of all slices, `shard_slices` to a chunk,
    and in its attributes the teacher's card. `slices` is the identity of what is asked about, `encoding` how answers
    lie: others are refused. A shard counts once its checksum is there, and every read compares it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        shard_slices: int,
        slices: str,
        encoding: Encoding = Encoding(),  # noqa: B008 (frozen)
        round_index: int = 0,
    ) -> None:
        self.folder, self.shard_slices, self.slices, self.encoding = folder, shard_slices, slices, encoding
        self.round_name = f"round-{round_index:03d}"

    def sites(self) -> list[str]:
        """Sites with answers here, in alphabetical order."""
        return sorted({path.parents[2].name for path in self.folder.glob(f"*/{self.round_name}/[!.]*/zarr.json")})

    def contents(self, site: str) -> list[str]:
        """Contents that the site has answered or withheld, in the order of `CONTENTS`."""
        return [content for content in CONTENTS if (self._path(site, content) / "zarr.json").exists()]

    def withheld(self, site: str) -> list[str]:
        """Those of them that its policy withholds, or its teacher cannot tell."""
        return [one for one in self.contents(site) if self._notes(site, one).arrays.keys() == {"slice_ids"}]

    def card(self, site: str) -> Card:
        """The card of the teacher who answered; InputError where none has."""
        if not (contents := self.contents(site)):
            raise InputError(f"site {site} has answered nothing", where=self.folder, fix="collect again")
        return self._notes(site, contents[0]).card

    def notes(self, site: str, content: str) -> Notes:
        """What stands beside a content's arrays, whatever slices they are about; InputError when it cannot be read."""
        try:
            return Notes.model_validate(zarr.open_group(self._path(site, content), mode="r").attrs.asdict())
        except Exception as error:
            raise self._unreadable(site, error) from error

    def damaged(self, site: str, content: str) -> list[int]:
        """Numbers of the shards that were found damaged, counting up; one that is whole again is none."""
        marks = {
            int(path.name): path for path in self._path(site, content).glob(f"{DAMAGED}/*") if path.name.isdecimal()
        }
        still = [index for index in sorted(marks) if self._whole(site, content, index) is None]
        for index in marks.keys() - set(still):
            with suppress(OSError):  # of a store that cannot be written: it is looked at again each time
                marks[index].unlink()
        return still

    def checksums(self, site: str, content: str) -> dict[str, str]:
        """SHA-256 of every shard of a content that is there and whole, by its number: they change with the answers.

        Raises: InputError when the answers are about other slices, or lie in shards of another size.
        """
        if content not in self.contents(site):
            return {}
        self._notes(site, content)
        marks = [mark.tobytes() for mark in self._rows(site, content, CHECKSUM, slice(None))]
        gone = self.damaged(site, content)
        return {str(index): mark.hex() for index, mark in enumerate(marks) if mark != ABSENT and index not in gone}

    def shards(self, site: str, contents: Sequence[str]) -> list[int]:
        """Numbers of the shards of which all these contents are there, counting up."""
        there = [set(map(int, self.checksums(site, content))) for content in contents]
        return sorted(set.intersection(*there)) if there else []

    def missing(self, site: str, n_shards: int, contents: Sequence[str]) -> dict[int, tuple[str, ...]]:
        """Of shards number 0 to `n_shards` - 1 those still to be asked, each with the contents that it lacks."""
        there = {content: set(map(int, self.checksums(site, content))) for content in contents}
        lacks = {n: tuple(content for content in contents if n not in there[content]) for n in range(n_shards)}
        return {index: lacking for index, lacking in lacks.items() if lacking}

    def write(self, answers: Answers, card: Card, wants: Sequence[str]) -> None:
        """Put one shard's answers away, in place of what was there; of `wants` what they do not tell is withheld.

        Raises: InputError when they come from another teacher than the site's earlier answers, or hold other arrays.
        """
        site, index = answers.header.site, answers.header.index
        if not 0 < len(answers.slice_ids) <= self.shard_slices:
            raise ValueError(f"{len(answers.slice_ids)} slices in a shard of {self.shard_slices}")
        if (site, answers.header.weights_hash) != (card.site, card.weights_hash):
            raise InputError("answers come from another teacher than the card names", where=f"site {site}", fix=RETEACH)
        sheets = {content: answers.of(content) | {"slice_ids": answers.slice_ids} for content in wants}
        for content, arrays in sheets.items():
            self._admit(content, card, arrays)
        try:
            for content, arrays in sheets.items():
                self._mark(site, content, index, ABSENT)
                self._write(site, content, index, arrays)
                self._mark(site, content, index, bytes.fromhex(digest(arrays)))
        except OSError as error:
            raise InputError(
                "answers cannot be stored", where=self._path(site), fix="free some space and collect again"
            ) from error

    def read(self, site: str, index: int, contents: Sequence[str]) -> Answers:
        """One shard's answers, as they were written.

        Raises: InputError naming site and shard when one is not there; DamagedError when it is not what was written:
        it does not count then, and is asked for again, until it is whole.
        """
        card, arrays = self.card(site), dict[str, NDArray[Any]]()
        for content in contents:
            arrays |= self._checked(site, content, index)
        header = AnswersHeader(site=site, index=index, weights_hash=card.weights_hash, fingerprint=card.fingerprint)
        return Answers(header, arrays.pop("slice_ids"), arrays)

    def in_order(self, site: str, contents: Sequence[str]) -> Iterator[Answers]:
        """All shards of a site of which these contents are there, one after the other."""
        for index in self.shards(site, contents):
            yield self.read(site, index, contents)

    def _checked(self, site: str, content: str, index: int) -> Arrays:
        if content not in self.contents(site) or self._checksum(site, content, index) == ABSENT:
            what = f"{content} of shard {index} of site {site} is not there"
            raise InputError(what, where=self._path(site), fix="collect again")
        if (arrays := self._whole(site, content, index)) is None:
            mark = self._path(site, content) / DAMAGED / str(index)
            with suppress(OSError):  # a store that cannot be written is told of at every read
                mark.parent.mkdir(exist_ok=True)
                mark.touch()
            fix = "collect again: only this is asked for"
            what = f"{content} of shard {index} of site {site} is damaged"
            raise DamagedError(what, where=self._path(site, content), fix=fix)
        return arrays

    def _whole(self, site: str, content: str, index: int) -> Arrays | None:
        """A shard's arrays, or None where they are not what was written."""
        try:
            arrays = self._read(site, content, index)
        except InputError:
            return None
        return arrays if bytes.fromhex(digest(arrays)) == self._checksum(site, content, index) else None

    def _admit(self, content: str, card: Card, arrays: Arrays) -> None:
        """Make the content's group on its first answers; later InputError unless teacher and arrays are the same."""
        site, fix = card.site, f"remove {self.folder / card.site} and collect again"
        rows = {name: row_of(array[0]) for name, array in sorted(arrays.items())}
        if self.contents(site) and self.card(site).weights_hash != card.weights_hash:
            raise InputError("the teacher has changed since its first answers", where=f"site {site}", fix=fix)
        if content not in self.contents(site):
            self._create(self._path(site, content), self._notes_of(card, rows))
        if self._notes(site, content).arrays != rows:
            raise InputError("answers hold other arrays than the first ones did", where=f"site {site}", fix=fix)

    def _notes_of(self, card: Card, rows: dict[str, Row]) -> Notes:
        return Notes(card=card, arrays=rows, shard_slices=self.shard_slices, slices=self.slices, encoding=self.encoding)

    def _create(self, path: Path, notes: Notes) -> None:
        """A content's group with its arrays, empty; whole or not at all."""
        with replacing(path) as temporary:
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

    def _write(self, site: str, content: str, index: int, arrays: Arrays) -> None:
        start = index * self.shard_slices
        for name, values in arrays.items():
            array = self._array(site, content, name)
            _grow(array, start + len(values))
            stop = min(start + self.shard_slices, array.shape[0])
            whole = np.full((stop - start, *array.shape[1:]), array.fill_value, array.dtype)
            whole[: len(values)] = values
            array[start:stop] = whole  # all of its chunk: zarr would read the rest of a damaged one first

    def _read(self, site: str, content: str, index: int) -> Arrays:
        rows = slice(index * self.shard_slices, (index + 1) * self.shard_slices)
        n = int((self._rows(site, content, "slice_ids", rows) >= 0).sum())  # the last shard may be shorter
        return {name: self._rows(site, content, name, rows)[:n] for name in self._notes(site, content).arrays}

    def _checksum(self, site: str, content: str, index: int) -> bytes:
        return self._rows(site, content, CHECKSUM, slice(index, index + 1)).tobytes() or ABSENT

    def _mark(self, site: str, content: str, index: int, checksum: bytes) -> None:
        marks = self._array(site, content, CHECKSUM)
        _grow(marks, index + 1)
        marks[index] = np.frombuffer(checksum, np.uint8)

    def _path(self, site: str, content: str = "") -> Path:
        return self.folder / site / self.round_name / content

    def _notes(self, site: str, content: str) -> Notes:
        """Card, arrays and shard size of a content; InputError unless they can be read and fit this store."""
        path, notes = self._path(site, content), self.notes(site, content)
        fix = f"remove {self.folder / site} and collect again"
        if notes.shard_slices != self.shard_slices:
            what = f"answers lie in shards of {notes.shard_slices} slices, the study has {self.shard_slices}"
            raise InputError(what, where=path, fix=fix)
        if notes.encoding != self.encoding:
            had, asked = (f"{one.precision} on grid `{one.grid}`" for one in (notes.encoding, self.encoding))
            what = f"answers lie as {had}, the study asks for {asked}"
            fix = f"restore `[answers]` in the study, or remove {self.folder} and run the phase `collect` again"
            raise InputError(what, where=path, fix=fix)
        if notes.slices != self.slices:
            what = f"site {site} has answered about other scans of the student than those there are now"
            fix = f"bring the scans back, or remove {self.folder} and run `preceptor simulate` on this run again"
            raise InputError(what, where=path, fix=fix)
        return notes

    def _rows(self, site: str, content: str, name: str, rows: slice) -> NDArray[Any]:
        try:
            return np.asarray(self._array(site, content, name)[rows])
        except Exception as error:
            raise self._unreadable(site, error) from error

    def _array(self, site: str, content: str, name: str) -> zarr.Array[Any]:
        try:
            return zarr.open_array(self._path(site, content) / name, mode="r+")
        except Exception as error:
            raise self._unreadable(site, error) from error

    def _unreadable(self, site: str, error: Exception) -> UnreadableError:
        """For whatever Zarr and its codecs raise at missing, cut and foreign files: nearly anything."""
        what = f"the answers of site {site} cannot be read ({type(error).__name__})"
        return UnreadableError(what, where=self._path(site), fix=f"remove {self.folder / site} and collect again")


def _grow(array: zarr.Array[Any], rows: int) -> None:
    if rows > array.shape[0]:
        array.resize((rows, *array.shape[1:]))
