"""What one teacher says of some slices, as it crosses the wire and as it lies in the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

import models
from imaging.errors import InputError
from study.envelope import Arrays, Header, expect, pack, unpack
from study.plan import Name
from study.wire import CONTENTS, Shard

__all__ = ["CONTENTS", "Answers", "AnswersHeader", "check"]

GROUPS = ("attention", "contrast", "valid")
"""What there is an array of for each tap."""


class AnswersHeader(Header):
    site: Name
    index: int = Field(ge=0)
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
        for group in GROUPS:
            named |= {f"{group}/{tap}": array for tap, array in getattr(self, group).items()}
        return named

    @classmethod
    def from_arrays(cls, header: AnswersHeader, arrays: Arrays) -> Answers:
        """The inverse of `arrays`."""
        groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        for name, array in arrays.items():
            group, _, tap = name.partition("/")
            if tap:
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
    """InputError unless these arrays answer that shard: ids, shapes, dtypes, finite values and their range."""
    _check_header(header, shard)
    n, classes = len(shard.slice_ids), len(shard.assignment.task.classes)
    expect(arrays, "slice_ids", np.int64, (n,))
    if not np.array_equal(arrays["slice_ids"], shard.slice_ids):
        raise InputError("answers slices that were not asked")
    expect(arrays, "logits", np.float16, (n, classes, *shard.assignment.preprocess.size))
    for name in sorted(arrays.keys() - {"slice_ids", "logits"}):
        group, _, tap = name.partition("/")
        asked = group in GROUPS and ("contrast" if group == "valid" else group) in shard.wants
        if not asked or tap not in models.TAPS:
            raise InputError(f"array `{name}` was not asked for")
        (_check_attention if group == "attention" else _check_contrast)(name, arrays, shard)
    if _taps(arrays, "contrast") != _taps(arrays, "valid"):
        raise InputError("region contrast came without the flags that say where it is valid")
    for group in GROUPS:
        if lacking := (taps := _taps(arrays, group)) and sorted(set(models.TAPS) - taps):
            raise InputError(f"array `{group}/{lacking[0]}` is missing")


def _check_header(header: AnswersHeader, shard: Shard) -> None:
    if header.index != shard.index:
        raise InputError(f"answers shard {header.index}, asked was shard {shard.index}")
    expected = shard.assignment.preprocess.fingerprint()
    if header.fingerprint != expected:
        raise InputError(f"answers slices prepared as {header.fingerprint!r}, the study prepares them as {expected!r}")


def _check_attention(name: str, arrays: Arrays, shard: Shard) -> None:
    height, width = shard.assignment.preprocess.size
    h, w = (*arrays[name].shape, 0, 0, 0)[1:3]
    expect(arrays, name, np.float16, (len(shard.slice_ids), h, w))
    if not (1 <= h <= height and 1 <= w <= width):
        raise InputError(f"array `{name}` has maps of {h} × {w} for slices of {height} × {width}")
    if arrays[name].min() < 0:
        raise InputError(f"array `{name}` is below 0: an attention map is a sum of absolute values")


def _check_contrast(name: str, arrays: Arrays, shard: Shard) -> None:
    classes = len(shard.assignment.task.classes)
    dtype = np.bool_ if name.startswith("valid/") else np.float32
    expect(arrays, name, dtype, (len(shard.slice_ids), classes * (classes - 1) // 2))
    if np.abs(arrays[name]).max() > 1 + 1e-4:
        raise InputError(f"array `{name}` leaves [-1, 1]: a region contrast is a cosine")


def _taps(arrays: Arrays, group: str) -> set[str]:
    return {name.partition("/")[2] for name in arrays if name.startswith(f"{group}/")}
