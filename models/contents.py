"""What a teacher can be asked to say of a slice, as data: the names, and the arrays that each consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from models.registry import TAPS

Precision = Literal["float32", "float16", "uint8", "4bit"]
Grid = Literal["full", "teacher", "half"]
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

    `shape` in letters: C classes, P = C (C - 1) / 2 class pairs, M = `NODES`² nodes, L = 2 (lowest value and step), c
    channels, (h, w) a feature grid no finer than the slice's (H, W). See `letters` for patches.
    """

    shape: str
    dtype: Literal["float16", "float32", "bool"] = "float16"
    """As the student learns from it; how it travels may be another, see `study.encoding`."""
    span: tuple[float, float] | None = None
    """Lowest and highest value, where these are known."""
    lies: Literal["nowhere", "on the slice", "between nodes"] = "on the slice"
    """How it moves when the slice is augmented."""

    def letters(self, dims: int) -> str:
        """`shape` for slices (2) or patches (3): depths D and d stand before H and h."""
        return self.shape if dims == 2 else self.shape.replace("H", "DH").replace("h", "dh")


MAP = Kind("hw", span=(0, 1))
KINDS: dict[str, Kind] = {
    "logits": Kind("CHW"),
    "scale": Kind("CL", "float32", lies="nowhere"),
    "attention": MAP,
    "attention-2": MAP,
    "attention-4": MAP,
    "contrast": Kind("P", "float32", (-1, 1), lies="nowhere"),
    "valid": Kind("P", "bool", lies="nowhere"),
    "affinity": Kind("MM", span=(-1, 1), lies="between nodes"),
    "prototypes": Kind("Chw", span=(-1, 1)),
    "present": Kind("C", "bool", lies="nowhere"),
    "features": Kind("chw"),
}
"""By the name of an array, which stands before the slash in `attention/encoder`."""
SCALE = "scale"
"""The array beside the logits that says what their codes mean, where they travel as whole numbers."""
BOTH = ("contrast", "attention", "attention-2", "attention-4")
"""Contents of both taps; the others are of the decoder's, the last before the classifier."""


def half(size: Sequence[int]) -> tuple[int, ...]:
    """The grid of half as many rows and columns, and slices of a patch, rounded up."""
    return tuple(-(-side // 2) for side in size)


def arrays_of(content: str) -> tuple[str, ...]:
    """Names of the arrays that a content consists of: `contrast/encoder`, `valid/encoder`, …"""
    if content == "logits":
        return ("logits",)
    groups = (content, *({"contrast": ("valid",), "prototypes": ("present",)}.get(content, ())))
    return tuple(f"{group}/{tap}" for tap in (TAPS if content in BOTH else TAPS[1:]) for group in groups)


def content_of(array: str) -> str:
    """The content that an array belongs to; the array's own name where it belongs to none."""
    return "logits" if array == SCALE else next((one for one in CONTENTS if array in arrays_of(one)), array)


def kind_of(array: str) -> Kind:
    """What that array holds."""
    return KINDS[array.partition("/")[0]]
