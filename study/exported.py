"""A student that `preceptor export` wrote: one ONNX file with its leaflet inside, run without torch."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as runtime
from pydantic import ValidationError

from imaging.errors import InputError
from imaging.preprocess import Preprocess, Sampled
from study.reader import BATCH, Reader, whole
from study.student import Leaflet

INPUT, OUTPUT = "intensities", "logits"
BETWEEN = "images"
"""Normalised slices, between a graph's two parts; or normalised patches, which a graph of volumes takes."""
UNREADABLE = (runtime.Fail, runtime.InvalidArgument, runtime.InvalidGraph, runtime.InvalidProtobuf, runtime.NoSuchFile)
ANEW = "export the student again with `preceptor export`"
SEAL, UNSEALED = "file_sha256", "0" * 64
"""A property of the file: SHA-256 of all its bytes while these zeros stand in its place."""
SEALED = re.compile(SEAL.encode() + rb"\x12\x40([0-9a-f]{64})")
"""The same as it lies in the file: name, tag and length of a protobuf string, value."""


def properties_of(leaflet: Leaflet) -> dict[str, str]:
    """The leaflet as an ONNX file's `metadata_props`: text as it is, all else as JSON."""
    values = leaflet.model_dump(mode="json", include=set(Leaflet.model_fields))
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return {**texts, SEAL: UNSEALED}


def sealed(content: bytes) -> bytes:
    """An ONNX file with `properties_of` a leaflet, and its checksum in its place."""
    return _with_seal(content, hashlib.sha256(content).hexdigest())


def _with_seal(content: bytes, seal: str) -> bytes:
    *_, place = SEALED.finditer(content)  # properties stand at a file's end
    return content[: place.start(1)] + seal.encode() + content[place.end(1) :]


def reader_of(file: Path, *, threads: int) -> Reader:
    """The student in that ONNX file.

    Raises: InputError unless it is an ONNX file with a leaflet, whole to the last bit, whose network takes and gives
    what the leaflet says.
    """
    is_sealed = _check_seal(file)  # first: what is not whole must not be made sense of
    session = _session(file, threads)
    leaflet = _leaflet(session, file)
    if not is_sealed:
        raise InputError("was exported before such files had a checksum", where=file, fix=ANEW)
    plan, classes = Preprocess.model_validate(leaflet.preprocess), len(leaflet.classes)
    takes = BETWEEN if plan.patch else INPUT
    _check(session.get_inputs(), takes, (max(1, len(leaflet.channels)), *plan.shape), file)
    _check(session.get_outputs(), OUTPUT, (classes, *plan.shape), file)

    def read(batch: NDArray[Any]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run([OUTPUT], {takes: batch.astype(np.float32)})[0]
        return found

    def logits(sampled: Sampled) -> NDArray[np.float32]:
        if plan.patch:
            return whole(read, sampled.normalised(), plan, sampled.grid.box())
        images = sampled.intensities
        step = BATCH if plan.normalise == "window" else len(images)  # MR: the statistics are of the whole scan
        batches = [images[start : start + step] for start in range(0, len(images), step)]
        return np.concatenate([read(batch) for batch in batches])

    return Reader(leaflet, logits)


def _session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors: what it warns of is told here, or harmless
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except UNREADABLE as error:
        raise InputError("cannot be read as an ONNX network", where=file, fix=ANEW) from error


def _leaflet(session: onnxruntime.InferenceSession, file: Path) -> Leaflet:
    properties = session.get_modelmeta().custom_metadata_map
    fields = Leaflet.model_fields
    try:
        values = {
            name: properties[name] if field.annotation is str else json.loads(properties[name])
            for name, field in fields.items()
        }
        leaflet = Leaflet.model_validate(values)
        Preprocess.model_validate(leaflet.preprocess)
    except (KeyError, ValueError, ValidationError) as error:
        missing = [name for name in fields if name not in properties]
        why = f"lacks `{missing[0]}`" if missing else "cannot be understood"
        what = f"is no student that `preceptor export` wrote: its metadata {why}"
        raise InputError(what, where=file, fix=ANEW) from error
    return leaflet


def _check_seal(file: Path) -> bool:
    """Whether it has a seal; InputError where that is of other bytes: other weights would still give masks."""
    try:
        content = file.read_bytes()
    except OSError:
        return False  # ONNX Runtime says why
    seals = SEALED.findall(content)
    if seals and hashlib.sha256(_with_seal(content, UNSEALED)).hexdigest().encode() != seals[-1]:
        fix = f"copy it again, or {ANEW}"
        raise InputError("was changed or damaged after its export: its checksum differs", where=file, fix=fix)
    return bool(seals)


def _check(tensors: list[onnxruntime.NodeArg], name: str, shape: tuple[int, ...], file: Path) -> None:
    """InputError unless there is this one tensor, float32, a batch of so many channels, rows and columns."""
    found = [(one.name, one.type, tuple(one.shape[1:])) for one in tensors]
    if found != [(name, "tensor(float)", shape)] or isinstance(tensors[0].shape[0], int):
        told = ", ".join(f"{one.name} {one.type} {one.shape}" for one in tensors)
        what = f"has {told} where a student of its metadata has {name} tensor(float) {['batch', *shape]}"
        raise InputError(what, where=file, fix=ANEW)
