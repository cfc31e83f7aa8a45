"""What a teacher can be asked to say of a slice, as data: the names, and the arrays that each consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from models.registry import TAPS

Content = Literal["logits", "attention", "attention-2", "attention-4", "contrast", "affinity", "prototypes", "features"]
CONTENTS: tuple[Content, ...] = get_args(Content)
DEFAULT: tuple[Content, ...] = ("logits", "attention", "contrast")
"""What AMTKD learns from."""
ONNX = "onnx"
"""What cards call a teacher that came as an ONNX file: it has logits alone, since nobody can look inside."""
NODES = 4
"""Side of the grid that pair-wise affinities are taken on (SKD's code: half the feature grid as kernel)."""


@dataclass(frozen=True)
class Kind:
    """One array of answers: what it holds of each slice.

    `shape` in letters: C classes, P = C (C - 1) / 2 class pairs, M = `NODES`² nodes, c channels, (h, w) a feature grid
    no finer than the slice's (H, W).
    """

    shape: str
    dtype: Literal["float16", "float32", "bool"] = "float16"
    low: float | None = None
    high: float | None = None
    lies: Literal["nowhere", "on the slice", "between nodes"] = "on the slice"
    """How it moves when the slice is augmented."""


MAP = Kind("hw", low=0, high=1)
KINDS: dict[str, Kind] = {
    "logits": Kind("CHW"),
    "attention": MAP,
    "attention-2": MAP,
    "attention-4": MAP,
    "contrast": Kind("P", "float32", -1, 1, lies="nowhere"),
    "valid": Kind("P", "bool", lies="nowhere"),
    "affinity": Kind("MM", low=-1, high=1, lies="between nodes"),
    "prototypes": Kind("Chw", low=-1, high=1),
    "present": Kind("C", "bool", lies="nowhere"),
    "features": Kind("chw"),
}
"""By the name of an array, which stands before the slash in `attention/encoder`."""
BOTH = ("contrast", "attention", "attention-2", "attention-4")
"""Contents of both taps; the others are of the decoder's, the last before the classifier."""


def arrays_of(content: str) -> tuple[str, ...]:
    """Names of the arrays that a content consists of: `contrast/encoder`, `valid/encoder`, …"""
    if content == "logits":
        return ("logits",)
    groups = (content, *({"contrast": ("valid",), "prototypes": ("present",)}.get(content, ())))
    return tuple(f"{group}/{tap}" for tap in (TAPS if content in BOTH else TAPS[1:]) for group in groups)


def content_of(array: str) -> str:
    """The content that an array belongs to; the array's own name where it belongs to none."""
    return next((content for content in CONTENTS if array in arrays_of(content)), array)


def kind_of(array: str) -> Kind:
    """What that array holds."""
    return KINDS[array.partition("/")[0]]
