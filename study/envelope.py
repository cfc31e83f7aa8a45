"""One message as bytes: a JSON header and plain arrays in the safetensors format, never pickles."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from imaging.errors import InputError
from study.keys import faults
from study.squeeze import Row, expanded, row_of, squeezed

VERSION = 3
ROWS = TypeAdapter(dict[str, Row])
MOST = 4000
"""Letters of a failure that are passed on."""
SAME_RELEASE = "install the same release on both ends"

Arrays = dict[str, NDArray[Any]]


class Header(BaseModel):
    """The JSON part of a message: frozen; an unknown key is refused, and so are NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


H = TypeVar("H", bound=Header)


class AwayError(InputError):
    """The site's node answers, its service does not: the site is as silent as if its node were gone."""


class LacksError(InputError):
    """The site has not kept what the message only names: it is to be sent whole."""


def _printable(words: str) -> str:
    """The same at no great length, without what a terminal would obey or no encoding knows."""
    return "".join(letter if letter.isprintable() else " " for letter in words[:MOST])


Words = Annotated[str, AfterValidator(_printable)]
"""What a person will read, whoever wrote it."""


class Failure(Header):
    """What went wrong at a site, without patient data: no file names, no ids."""

    cause: Words
    site: Words
    remedy: Words = ""
    away: bool = False
    """Nobody was there to read the message."""
    lacks: bool = False
    """What it only names is not kept here."""

    def throw(self) -> None:
        """Raise it as the InputError that the coordinator prints."""
        kind = AwayError if self.away else LacksError if self.lacks else InputError
        raise kind(self.cause, where=f"site {self.site}", fix=self.remedy or None)


def pack(header: Header, arrays: Arrays | None = None, *, squeeze: bool = False) -> bytes:
    """The header with its class's name, and the arrays beside it; squeezed with a note of what each was, or plain."""
    plain = {name: np.asarray(array, order="C") for name, array in (arrays or {}).items()}  # keeps () as ()
    rows = {name: row_of(array).model_dump(mode="json") for name, array in plain.items() if squeeze}
    note = {"version": VERSION, "kind": type(header).__name__, "header": header.model_dump(mode="json"), "rows": rows}
    sent = {name: squeezed(array) if name in rows else array for name, array in plain.items()}
    body: bytes = save(sent, metadata={"preceptor": json.dumps(note, sort_keys=True)})
    return body


def unpack(body: bytes, kind: type[H]) -> tuple[H, Arrays]:
    """Header and arrays of a message of that kind.

    Raises: InputError when it is no message of ours, of another version or kind, or its header does not fit;
    a `Failure` from the other side is raised in its own words.
    """
    note, arrays = _opened(body)
    if note["version"] != VERSION:
        raise InputError(f"message of version {note['version']!r}, we speak {VERSION}", fix=SAME_RELEASE)
    try:
        if note["kind"] == Failure.__name__ and kind is not Failure:
            Failure.model_validate(note["header"]).throw()
        if note["kind"] != kind.__name__:
            raise InputError(f"expected {kind.__name__}, got {note['kind']!r}", fix=SAME_RELEASE)
        header, rows = kind.model_validate(note["header"]), ROWS.validate_python(note.get("rows", {}))
    except ValidationError as error:
        what = f"header of {note['kind']}: {faults(error, file=note['kind'])}"
        raise InputError(what, fix=SAME_RELEASE) from error
    if rows and rows.keys() != arrays.keys():
        raise InputError("not a message of Preceptor: its arrays are not those that it names", fix="send it again")
    return header, expanded(arrays, rows) if rows else arrays


def _opened(body: bytes) -> tuple[dict[str, Any], Arrays]:
    """The envelope (version, kind, header, rows) and the arrays, each read once."""
    try:
        arrays = load(body)  # checks the layout against the body's length
        length = int.from_bytes(body[:8], "little")
        note = json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["preceptor"])
        if not isinstance(note, dict) or set(note) - {"rows"} != {"version", "kind", "header"}:
            raise ValueError("no version, kind and header")
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"not a message of Preceptor, or cut short ({error})", fix="send it again") from error
    return note, arrays


def digest(arrays: Arrays) -> str:
    """SHA-256 over names, dtypes, shapes and values of arrays, in the order of their names."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        state.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        state.update(array.data)
    return state.hexdigest()


def expect(arrays: Arrays, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    """InputError unless the array is there, of that dtype and shape, and finite."""
    if name not in arrays:
        raise InputError(f"array `{name}` is missing")
    array = arrays[name]
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise InputError(f"array `{name}` is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise InputError(f"array `{name}` holds NaN or infinity")
