"""What one teacher says of some slices, as it crosses the wire and as it lies in the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import InputError
from study.wire import Arrays, Header, Shard, expect, pack, unpack

CONTENTS = ("logits", "attention", "contrast")
"""What a shard can ask for; `attention` and `contrast` hold one array a tap."""


class AnswersHeader(Header):
    site: str
    index: int
    """The shard's."""
    weights_hash: str
    fingerprint: str


@dataclass(frozen=True)
class Answers:
    """For N slices from one teacher, of C classes.

    `logits` (N, C, H, W) float16; `attention` {tap: (N, h, w) float16}, the sum of absolute activations over channels;
    `contrast` {tap: (N, P) float32} in [-1, 1], P = C (C - 1) / 2 class pairs, 0 where `valid` {tap: (N, P) bool} is
    false (a class is absent, or the slice has no mask).
    """

    header: AnswersHeader
    slice_ids: NDArray[np.int64]
    logits: NDArray[np.float16]
    attention: dict[str, NDArray[np.float16]] = field(default_factory=dict)
    contrast: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    valid: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def arrays(self) -> Arrays:
        """All arrays under flat names: `logits`, `attention/encoder`, `contrast/encoder`, `valid/encoder`, …"""
        named: dict[str, Any] = {"slice_ids": self.slice_ids, "logits": self.logits}
        for group in ("attention", "contrast", "valid"):
            named |= {f"{group}/{tap}": array for tap, array in getattr(self, group).items()}
        return named

    @classmethod
    def from_arrays(cls, header: AnswersHeader, arrays: Arrays) -> Answers:
        """The inverse of `arrays`."""
        groups: dict[str, dict[str, Any]] = {"attention": {}, "contrast": {}, "valid": {}}
        for name, array in arrays.items():
            group, _, tap = name.partition("/")
            if tap and group in groups:
                groups[group][tap] = array
        return cls(header, arrays["slice_ids"], arrays["logits"], **groups)

    def pack(self) -> bytes:
        return pack(self.header, self.arrays())

    @classmethod
    def unpack(cls, body: bytes, shard: Shard) -> Answers:
        """A reply, checked against the shard it answers; InputError says what does not fit."""
        header, arrays = unpack(body, AnswersHeader)
        check(header, arrays, shard)
        return cls.from_arrays(header, arrays)


def check(header: AnswersHeader, arrays: Arrays, shard: Shard) -> None:
    """InputError unless these arrays answer that shard: ids, shapes, dtypes, finite values, contrast in [-1, 1]."""
    if header.index != shard.index:
        raise InputError(f"answers shard {header.index}, asked was shard {shard.index}")
    expected = shard.assignment.preprocess.fingerprint()
    if header.fingerprint != expected:
        raise InputError(f"answers slices prepared as {header.fingerprint}, the study prepares them as {expected}")
    n = len(shard.slice_ids)
    expect(arrays, "slice_ids", np.int64, (n,))
    if not np.array_equal(arrays["slice_ids"], shard.slice_ids):
        raise InputError("answers slices that were not asked")
    classes = len(shard.assignment.task.classes)
    expect(arrays, "logits", np.float16, (n, classes, *shard.assignment.preprocess.size))
    pairs = classes * (classes - 1) // 2
    for name, array in arrays.items():
        group, _, tap = name.partition("/")
        if group == "attention" and array.ndim == 3:
            expect(arrays, name, np.float16, (n, *array.shape[1:]))
        elif group == "contrast":
            expect(arrays, name, np.float32, (n, pairs))
            if np.abs(array).max(initial=0) > 1 + 1e-4:
                raise InputError(f"array `{name}` leaves [-1, 1]: a region contrast is a cosine")
        elif group == "valid":
            expect(arrays, name, np.bool_, (n, pairs))
        elif name not in {"slice_ids", "logits"}:
            raise InputError(f"array `{name}` was not asked for")
    taps = {name.partition("/")[2] for name in arrays if name.startswith("contrast/")}
    if taps != {name.partition("/")[2] for name in arrays if name.startswith("valid/")}:
        raise InputError("region contrast came without the flags that say where it is valid")
