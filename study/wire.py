"""What travels between coordinator and site: a JSON header and plain arrays in the safetensors format, never pickles.

Every message is a frozen class with `pack` and `unpack`; both ends check shape, dtype, finiteness and ids. Flower sees
bytes only: `client/app.py` hands them to the site's service as they are.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open  # noqa: F401  (safe_open: see tests; the header alone is read with it)
from safetensors.numpy import load, save

from imaging.errors import InputError
from imaging.preprocess import Preprocess
from study.plan import Task, Teacher, faults

VERSION = 1
NO_MASK = 255
"""Mask value of a slice nobody has outlined."""

Arrays = dict[str, NDArray[Any]]


class Header(BaseModel):
    """The JSON part of a message: frozen, and an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


H = TypeVar("H", bound=Header)


def pack(header: Header, arrays: Arrays | None = None) -> bytes:
    """One message as bytes: the header with its class's name, and the arrays beside it."""
    body = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    note = {"version": VERSION, "kind": type(header).__name__, "header": header.model_dump(mode="json")}
    return bytes(save(body, metadata={"preceptor": json.dumps(note, sort_keys=True)}))


def unpack(body: bytes, kind: type[H]) -> tuple[H, Arrays]:
    """Header and arrays of a message of that kind.

    Raises: InputError when it is no message of ours, of another version or kind, or its header does not fit;
    a `Failure` from the other side is raised in its own words.
    """
    note = _note(body)
    if note["version"] != VERSION:
        raise InputError(f"message of version {note['version']}, we speak {VERSION}", fix="install the same release on both ends")
    try:
        if note["kind"] == Failure.__name__ and kind is not Failure:
            Failure.model_validate(note["header"]).throw()
        if note["kind"] != kind.__name__:
            raise InputError(f"expected {kind.__name__}, got {note['kind']}")
        header = kind.model_validate(note["header"])
    except ValidationError as error:
        raise InputError(f"header of {kind.__name__}: {faults(error)}") from error
    return header, load(body)


def _note(body: bytes) -> dict[str, Any]:
    """The checked envelope: version, kind, header."""
    try:
        length = int.from_bytes(body[:8], "little")
        if not 0 < length <= len(body) - 8:
            raise ValueError("shorter than its header says")
        note = json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["preceptor"])
        load(body)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"not a message of Preceptor, or cut short ({error})", fix="send it again") from error
    if not isinstance(note, dict) or set(note) != {"version", "kind", "header"}:
        raise InputError("not a message of Preceptor (no version, kind and header)")
    return note


def digest(arrays: Arrays) -> str:
    """SHA-256 over names, dtypes, shapes and values of arrays, in the order of their names."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        state.update(array.tobytes())
    return state.hexdigest()


class Failure(Header):
    """What went wrong at a site, without patient data: no file names, no ids."""

    cause: str
    site: str
    remedy: str = ""

    def throw(self) -> None:
        """Raise it as the InputError that the coordinator prints."""
        raise InputError(self.cause, where=f"site {self.site}", fix=self.remedy or None)


class Assignment(Header):
    """What a site must know of the study to train, answer and evaluate; no other site's plans."""

    study: str
    """The study's name."""
    study_hash: str
    seed: int
    task: Task
    preprocess: Preprocess
    teacher: Teacher


class TeachRequest(Header):
    """Be trained up to this epoch (not: train so many more): a message that comes twice does nothing twice."""

    assignment: Assignment
    until_epoch: int


class Epoch(Header):
    """One epoch of a teacher: mean training loss, validation Dice over foreground classes and cases, seconds."""

    epoch: int
    loss: float
    dice: float
    seconds: float


class Card(Header):
    """A teacher's card: what may be known of it outside, and the reply to TeachRequest. Never its weights."""

    site: str
    model: str
    options: dict[str, str | int]
    parameters: int
    weights_hash: str
    """SHA-256 of the best epoch's weights: two answers under one hash come from one teacher."""
    fingerprint: str
    epochs: int
    """Epochs trained so far."""
    finished: bool
    """True when the last epoch is reached or early stopping ended it."""
    dice: float
    """Best validation Dice."""
    best_epoch: int
    patients: dict[Literal["train", "val", "test"], int]
    slices: dict[Literal["train", "val", "test"], int]
    set_aside: int
    """Cases that could not be used; which and why stands in the site's own log only."""
    history: list[Epoch]


@dataclass(frozen=True)
class Shard:
    """Some of the student's slices, to be answered.

    `slice_ids` (N,) int64 count up in the study's student slices; `images` (N, 1, H, W) float16, preprocessed;
    `masks` (N, H, W) uint8, `NO_MASK` throughout where a slice has none.
    """

    assignment: Assignment
    index: int
    slice_ids: NDArray[np.int64]
    images: NDArray[np.float16]
    masks: NDArray[np.uint8]
    wants: tuple[str, ...] = ("logits", "attention", "contrast")

    def pack(self) -> bytes:
        header = ShardHeader(assignment=self.assignment, index=self.index, wants=list(self.wants))
        return pack(header, {"slice_ids": self.slice_ids, "images": self.images, "masks": self.masks})

    @classmethod
    def unpack(cls, body: bytes) -> Shard:
        """The shard, checked; InputError says which array is missing, of the wrong shape or not finite."""
        header, arrays = unpack(body, ShardHeader)
        n, (h, w) = len(arrays.get("slice_ids", ())), header.assignment.preprocess.size
        expect(arrays, "slice_ids", np.int64, (n,))
        expect(arrays, "images", np.float16, (n, 1, h, w))
        expect(arrays, "masks", np.uint8, (n, h, w))
        classes = len(header.assignment.task.classes)
        outside = (arrays["masks"] >= classes) & (arrays["masks"] != NO_MASK)
        if outside.any():
            raise InputError(f"shard {header.index} has mask values outside the study's {classes} classes")
        return cls(header.assignment, header.index, arrays["slice_ids"], arrays["images"], arrays["masks"], tuple(header.wants))


class ShardHeader(Header):
    assignment: Assignment
    index: int
    wants: list[str]


class EvaluateRequest(Header):
    """Evaluate these weights (arrays beside the header) on the site's own patients of that split."""

    assignment: Assignment
    label: str
    """What the report calls this student, such as `amtkd`."""
    model: str
    options: dict[str, str | int]
    split: Literal["val", "test"] = "test"


class CaseMetrics(Header):
    """One patient's scan, unnamed: metric → class name → value; null where the metric is undefined for that case."""

    metrics: dict[str, dict[str, float | None]]
    slices: int


class EvaluateReply(Header):
    """Metrics of every test case of a site, in an order that tells nothing."""

    site: str
    label: str
    split: Literal["val", "test"]
    weights_hash: str
    cases: list[CaseMetrics]


def expect(arrays: Arrays, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    """InputError unless the array is there, of that dtype and shape, and finite."""
    if name not in arrays:
        raise InputError(f"array `{name}` is missing")
    array = arrays[name]
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise InputError(f"array `{name}` is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise InputError(f"array `{name}` holds NaN or infinity")
