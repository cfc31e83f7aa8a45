"""What one teacher says of some slices, as it crosses the wire and as it lies in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from imaging.errors import InputError
from models.contents import NODES, content_of, kind_of
from models.registry import ends_of
from study.encoding import dtype_of, grids, names_of, width_of
from study.envelope import Arrays, Header, expect, pack, unpack
from study.plan import Name
from study.wire import Shard

__all__ = ["Answers", "AnswersHeader", "check"]


class AnswersHeader(Header):
    site: Name
    index: int = Field(ge=0)
    """The shard's."""
    weights_hash: str
    fingerprint: str


@dataclass(frozen=True)
class Answers:
    """For N slices from one teacher: `arrays` (N, …) of `models.contents`, as `study.encoding` sends them."""

    header: AnswersHeader
    slice_ids: NDArray[np.int64]
    arrays: Arrays

    @property
    def contents(self) -> set[str]:
        """What of `models.contents.CONTENTS` is told."""
        return {content_of(name) for name in self.arrays}

    def of(self, content: str) -> Arrays:
        """The arrays of one content; none where it is not told."""
        return {name: array for name, array in self.arrays.items() if content_of(name) == content}

    def without(self, *contents: str) -> Answers:
        """The same answers, these contents left out."""
        kept = {name: array for name, array in self.arrays.items() if content_of(name) not in contents}
        return Answers(self.header, self.slice_ids, kept)

    def pack(self) -> bytes:
        return pack(self.header, self.arrays | {"slice_ids": self.slice_ids}, squeeze=True)

    @classmethod
    def unpack(cls, body: bytes, shard: Shard) -> Answers:
        """A reply, checked against the shard it answers; InputError says what does not fit."""
        header, arrays = unpack(body, AnswersHeader)
        check(header, arrays, shard)
        return cls(header, arrays.pop("slice_ids"), arrays)


def check(header: AnswersHeader, arrays: Arrays, shard: Shard) -> None:
    """InputError unless these arrays answer that shard: ids, shapes, dtypes, finite values and their range."""
    _check_header(header, shard)
    expect(arrays, "slice_ids", np.int64, shard.slice_ids.shape)
    if not np.array_equal(arrays["slice_ids"], shard.slice_ids):
        raise InputError("answers slices that were not asked")
    encoding = shard.assignment.encoding
    told = arrays.keys() - {"slice_ids"}
    asked = {name for content in shard.wants for name in names_of(content, encoding)}
    for name in sorted(told):
        if name not in asked:
            raise InputError(f"array `{name}` was not asked for")
        _check_array(name, arrays, shard)
    for content in {content_of(name) for name in told} | ({"logits"} & set(shard.wants)):
        if lacking := [name for name in names_of(content, encoding) if name not in arrays]:
            raise InputError(f"array `{lacking[0]}` is missing")


def _check_header(header: AnswersHeader, shard: Shard) -> None:
    if header.index != shard.index:
        raise InputError(f"answers shard {header.index}, asked was shard {shard.index}")
    expected = shard.assignment.preprocess.fingerprint()
    if header.fingerprint != expected:
        raise InputError(f"answers slices prepared as {header.fingerprint!r}, the study prepares them as {expected!r}")


def _check_array(name: str, arrays: Arrays, shard: Shard) -> None:
    kind, array = kind_of(name), arrays[name]
    classes, whole = len(shard.assignment.task.classes), shard.assignment.preprocess.shape
    letters = kind.letters(len(whole))
    free = dict(zip(letters, array.shape[1:], strict=False))  # what no study settles: c, d, h and w
    sides = {"C": classes, "P": classes * (classes - 1) // 2, "M": NODES ** len(whole), "L": 2} | _grid(array, shard)
    wanted = tuple(sides.get(letter, free.get(letter, 0)) for letter in letters)
    dtype = dtype_of(name, shard.assignment.encoding)
    expect(arrays, name, dtype.type, (len(shard.slice_ids), *wanted))
    maps = tuple(free[letter] for letter in letters if letter in "dhw")
    if maps and not all(1 <= side <= most for side, most in zip(maps, whole, strict=True)):
        told, of = (" × ".join(map(str, sizes)) for sizes in (maps, whole))
        raise InputError(f"array `{name}` has maps of {told} for {'slices' if len(whole) == 2 else 'patches'} of {of}")
    if kind.span is None or not array.size or dtype == np.uint8:  # whatever the codes, they mean values of the range
        return
    low, high = kind.span
    for word, value in (("smallest", array.min()), ("largest", array.max())):
        if not low - ROUNDING <= value <= high + ROUNDING:
            raise InputError(f"array `{name}` leaves [{low:g}, {high:g}]: its {word} is {value:g}")


def _grid(array: NDArray[Any], shard: Shard) -> dict[str, int]:
    """Sides of the logits: of the grid that they may come on, its last and so most usual one where they fit none."""
    asked, teacher = shard.assignment, shard.assignment.teacher
    may = grids(asked.encoding, asked.preprocess.shape, ends_of(teacher.model, teacher.options))
    travels = [(*grid[:-1], width_of(grid[-1], asked.encoding)) for grid in may]
    sides = [dict(zip("DHW"[-len(grid) :], grid, strict=True)) for grid in travels]
    return next((one for one in sides if tuple(one.values()) == array.shape[2:]), sides[-1])


ROUNDING = 1e-3
"""Of float16 near 1."""
