"""How answers travel and lie: fewer bits, and a coarser grid. The one copy of both directions.

A site encodes before its policy and its audit log see the answers; the store keeps them as they came; a job decodes
once, when it unpacks them.

Whole numbers run from a lowest value in equal steps. Of these codes, each place's difference to what its neighbours
above and to the left foretell travels, modulo the number of codes: on smooth maps most are near 0, which Zstandard
shortens (uint8 logits of a PSPNet to a half, of a U-Net at half resolution to two thirds), and nothing is lost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contents import SCALE, Precision, arrays_of, half, kind_of
from models.registry import Enlarging
from study.envelope import Arrays
from study.tables import Encoding

Codes = NDArray[np.uint8]
Size = tuple[int, ...]
"""(H, W) of a slice, or (D, H, W) of a patch."""
BITS: dict[Precision, int] = {"uint8": 8, "4bit": 4}
"""Of a logit; of the precisions that are whole numbers."""
STEPS = 254
"""Steps of a map whose range is known, even so that the middle of [-1, 1] stays 0."""
HIGHEST = float(np.finfo(np.float16).max)


def names_of(content: str, encoding: Encoding) -> tuple[str, ...]:
    """Names of the arrays that a content travels in."""
    return (*arrays_of(content), *((SCALE,) if content == "logits" and encoding.precision in BITS else ()))


def dtype_of(array: str, encoding: Encoding) -> np.dtype[Any]:
    """What that array travels as: maps of a known span in 8 bits wherever logits are whole numbers."""
    kind = kind_of(array)
    if kind.dtype != "float16":
        return np.dtype(kind.dtype)
    if encoding.precision in BITS:
        return np.dtype("uint8" if array == "logits" or kind.span else "float16")
    return np.dtype(encoding.precision)


def grids(encoding: Encoding, size: Size, ends: Enlarging | None) -> list[Size]:
    """Grids on which the logits of slices or patches of `size` may come, from a network that ends so.

    Not only its own: what a site trained may be another network than the study knows.
    """
    own: list[Size] = [ends.grid((size[0], size[1]))] if ends and encoding.grid != "full" else []
    return [*own, half(size) if encoding.grid == "half" else size]


def width_of(columns: int, encoding: Encoding) -> int:
    """Length of a row of so many logits."""
    return -(-columns // 2) if encoding.precision == "4bit" else columns


def encoded(arrays: Arrays, encoding: Encoding) -> Arrays:
    """Arrays of `models.contents`, their numbers in float32, as they travel.

    Logits (N, C, h, w) get a lowest value and a step a slice and class beside them, `scale` (N, C, 2).
    """
    found: Arrays = {}
    for name, array in arrays.items():
        dtype, span = dtype_of(name, encoding), kind_of(name).span
        if dtype != np.uint8:
            found[name] = fitted(array, dtype)
        elif name == "logits":
            codes, found[SCALE] = quantised(array, BITS[encoding.precision])
            found[name] = packed(codes) if encoding.precision == "4bit" else differences(codes)
        elif span:
            codes = np.rint((array - span[0]) * (STEPS / (span[1] - span[0])))
            found[name] = differences(codes.clip(0, STEPS).astype(np.uint8))
    return found


def decoded(arrays: Arrays, encoding: Encoding, *, size: Size, ends: Enlarging | None) -> Arrays:
    """What `encoded` was given, as a job learns from it: float16 (float32 where it travelled so), logits (N, C, H, W).

    `ends` is how the network ends that answered. Exact for float32 and float16 on the grid that travelled.
    """
    found: Arrays = {}
    for name, array in arrays.items():
        span = kind_of(name).span
        if name == "logits":
            found[name] = _logits(arrays, encoding, size, ends)
        elif span and dtype_of(name, encoding) == np.uint8:
            codes = np.minimum(sums(array), STEPS)
            found[name] = (span[0] + codes * np.float32((span[1] - span[0]) / STEPS)).astype(np.float16)
        elif name != SCALE:
            found[name] = array
    return found


def _logits(arrays: Arrays, encoding: Encoding, size: Size, ends: Enlarging | None) -> NDArray[Any]:
    """The logits on the slice's grid, (N, C, H, W)."""
    logits = arrays["logits"]
    grid = grid_of(logits, encoding, size, ends)
    if encoding.precision in BITS:
        codes = unpacked(logits, grid[-1]) if encoding.precision == "4bit" else sums(logits)
        low, step = (one.reshape(*one.shape, *[1] * len(grid)) for one in np.moveaxis(arrays[SCALE], 2, 0))
        logits = low + step * codes
    if grid != size:
        import torch  # noqa: PLC0415 (not where answers are only handed on)

        from models.knowledge import enlarged  # noqa: PLC0415

        corners = ends is not None and grid == ends.grid((size[0], size[1])) and ends.align_corners
        logits = enlarged(torch.from_numpy(logits.astype(np.float32)), size, align_corners=corners).numpy()
    return fitted(logits, np.dtype("float32" if encoding.precision == "float32" else "float16"))


def grid_of(logits: NDArray[Any], encoding: Encoding, size: Size, ends: Enlarging | None) -> Size:
    """The grid that logits came on; ValueError for logits that are on none of those they may come on."""
    for grid in grids(encoding, size, ends):
        if logits.shape[2:] == (*grid[:-1], width_of(grid[-1], encoding)):
            return grid
    raise ValueError(f"logits of shape {logits.shape} for slices of {size}")


def fitted(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Numbers in that type, those beyond float16's range at its ends: an answer never holds infinity."""
    if dtype == values.dtype or dtype != np.float16:
        return values.astype(dtype, copy=False)
    return values.clip(-HIGHEST, HIGHEST).astype(dtype)


def quantised(values: NDArray[np.float32], bits: int) -> tuple[Codes, NDArray[np.float32]]:
    """Codes (N, C, h, w) below 2^bits, and lowest value and step of each slice and class, (N, C, 2).

    Each value is `low + step * code` within half a step.
    """
    values = values.clip(-HIGHEST, HIGHEST)
    places = tuple(range(2, values.ndim))
    low, high = (end(values, axis=places, keepdims=True) for end in (np.min, np.max))
    step = (high - low) / (2**bits - 1)
    codes = np.rint((values - low) / np.where(step > 0, step, 1))
    low, step = (one.reshape(one.shape[:2]) for one in (low, step))
    return codes.clip(0, 2**bits - 1).astype(np.uint8), np.stack([low, step], axis=2).astype(np.float32)


def differences(codes: Codes) -> Codes:
    """Codes (…, h, w) less what the places above and to the left foretell: up + left - up-left; modulo 256."""
    down = codes.copy()
    down[..., 1:, :] -= codes[..., :-1, :]
    across = down.copy()
    across[..., 1:] -= down[..., :-1]
    return across


def sums(across: Codes) -> Codes:
    """The codes of which these are the `differences`."""
    return across.cumsum(-1, dtype=np.uint8).cumsum(-2, dtype=np.uint8)


def packed(codes: Codes) -> Codes:
    """Codes below 16, (…, h, w), as differences modulo 16, two a byte: (…, h, w / 2), rounded up."""
    nibbles = differences(codes) & np.uint8(15)
    if nibbles.shape[-1] % 2:
        nibbles = np.concatenate([nibbles, np.zeros_like(nibbles[..., :1])], axis=-1)
    return nibbles[..., ::2] | nibbles[..., 1::2] << np.uint8(4)


def unpacked(joined: Codes, width: int) -> Codes:
    """The codes (…, h, `width`) of which these are `packed`."""
    nibbles = np.stack([joined & 15, joined >> np.uint8(4)], axis=-1).reshape(*joined.shape[:-1], -1)[..., :width]
    return sums(nibbles) & np.uint8(15)
