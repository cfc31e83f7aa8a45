"""An array's bytes made fewer for the wire, and back, without loss."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from imaging.errors import InputError

MOST_MIB = 1024
"""What the arrays of a message may come to: a few forged bytes could else fill the memory."""
ZSTD = Zstd(level=3)


class Row(BaseModel):
    """What an array, or one slice of it, consists of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["bool", "uint8", "int64", "float16", "float32"]
    shape: tuple[Annotated[int, Field(ge=0)], ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


def row_of(array: NDArray[Any]) -> Row:
    """Type and shape of an array."""
    return Row.model_validate({"dtype": array.dtype.name, "shape": array.shape})


def squeezed(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The array's bytes by Zstandard; of numbers of several bytes all first bytes, then all second ones, …

    float16 logits so take 0.7 to 0.8 of what they take number after number.
    """
    planes = np.frombuffer(array.tobytes(), np.uint8).reshape(-1, array.itemsize).T
    return np.frombuffer(ZSTD.encode(np.ascontiguousarray(planes)), np.uint8)


def expanded(arrays: Mapping[str, NDArray[Any]], rows: Mapping[str, Row]) -> dict[str, NDArray[Any]]:
    """The arrays that were squeezed, by what each was.

    Raises: InputError when one is cut short or larger than was said of it, or all come to more than `MOST_MIB`.
    """
    if sum(row.nbytes for row in rows.values()) > MOST_MIB * 2**20:
        what = f"a message's arrays come to more than {MOST_MIB} MiB"
        raise InputError(what, fix="set a smaller `federation.shard_slices`")
    return {name: _expanded(arrays[name], row) for name, row in rows.items()}


def _expanded(array: NDArray[Any], row: Row) -> NDArray[Any]:
    dtype = np.dtype(row.dtype)
    try:
        planes = _decoded(array, row.nbytes, 0)
        if row.nbytes and planes[-1] == 0 and _decoded(array, row.nbytes, 1)[-1] == 1:
            raise ValueError("fewer bytes than it says")
    except (RuntimeError, ValueError) as error:
        raise InputError(f"not a message of Preceptor, or cut short ({error})", fix="send it again") from error
    return np.ascontiguousarray(planes.reshape(dtype.itemsize, -1).T).view(dtype).reshape(row.shape)


def _decoded(array: NDArray[Any], nbytes: int, rest: int) -> NDArray[np.uint8]:
    """So many bytes; what the array does not tell of them stays `rest`, for numcodecs does not say how many it told."""
    planes = np.full(nbytes, rest, np.uint8)
    ZSTD.decode(np.ascontiguousarray(array), planes)
    return planes
