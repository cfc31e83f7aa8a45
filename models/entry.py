"""What is known of a network without building it: plain data, and no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["student", "teacher", "either"]
TAPS = ("encoder", "decoder")
"""\"The final feature layer of each teacher's encoder and decoder\" (AMTKD, section 3.2)."""


@dataclass(frozen=True)
class Enlarging:
    """How a network ends whose logits are a plain bilinear enlargement of a coarser grid's."""

    of: str
    """Module path whose output these coarser logits are."""
    stride: int
    """Pixels of the slice to one of the grid, along rows and columns."""
    align_corners: bool = False

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """The grid for slices of `size` (H, W), rounded up."""
        return -(-size[0] // self.stride), -(-size[1] // self.stride)


@dataclass(frozen=True)
class Stage:
    """A feature map inside a U-shaped network, or at its bottom."""

    path: str
    """Module path, or "input of" a module path, as for taps."""
    stride: int
    """Voxels of the input to one of the map's, along every axis."""


@dataclass(frozen=True)
class Choice:
    """What a whole-number option of a network may be."""

    values: Sequence[int]
    default: int
    what: str
    """What it sets, for a reader."""

    @property
    def said(self) -> str:
        """The values in words: "a whole number from 4 to 128", "a multiple of 12 from 12 to 96", "4 or 16"."""
        if not isinstance(self.values, range):
            return " or ".join(map(str, self.values))
        kind = "a whole number" if self.values.step == 1 else f"a multiple of {self.values.step}"
        return f"{kind} from {self.values[0]} to {self.values[-1]}"


@dataclass(frozen=True)
class Build:
    """One way to build a network: who makes it, where its taps lie, which images it takes."""

    factory: str
    """`module:callable`, called with (in_channels, classes, **options), and `size` where that is fixed."""
    taps: Mapping[str, str]
    """Tap → module path, or "input of" a module path, whose last feature map it is."""
    multiple: int = 1
    """Height and width, and depth, are multiples of it."""
    one_cell: bool = True
    """Whether all sides may equal `multiple`; not where an instance norm would then have a single voxel."""
    fixed_size: bool = False
    """Whether it reads images of the one size that it was built for."""
    ends: Enlarging | None = None
    """None where the last layer with parameters gives the logits of every pixel."""
    stages: Mapping[str, Stage] = field(default_factory=dict)
    """Of a U: E1 to E4 from the input down, D4 to D1 from the bottom up (DSD, section 2.3); empty without a U."""
    shares_heads: bool = False
    """Whether DSD's heads are one where two stages have channels and stride in common, as in its authors' code."""
    bottom: Stage | None = None
    """The deepest feature map of the encoder (MOD, section III); None where it is not stated."""
    beside: tuple[str, ...] = ()
    """Paths of modules that lead from the encoder to the decoder alone, which a pass to the bottom can leave out."""


@dataclass(frozen=True)
class Spec:
    """A registered network; printed figures are those of AMTKD's Table 2, at 1×384×384 with 2 classes."""

    name: str
    role: Role
    """3-D networks are "either": `names` lists them among students and among teachers."""
    title: str
    paper: str
    build: Build
    paper_parameters: int | None = None
    """None, as `paper_flops`, for a network that Table 2 does not have."""
    paper_flops: int | None = None
    with_encoder: Build | None = None
    """How option `encoder` builds it, a smaller network of the same family; None where it takes no such option."""
    with_patch: Mapping[int, Build] = field(default_factory=dict)
    """How option `patch` builds it, which sets its strides; empty where it takes no such option."""
    choices: Mapping[str, Choice] = field(default_factory=dict)
    """Its whole-number options."""
    dims: Literal[2, 3] = 2
    """Whether it reads slices (N, C, H, W) or patches of volumes (N, C, D, H, W)."""
    size: tuple[int, ...] = (384, 384)
    """What it is counted at, and a 3-D network of fixed size built for, where nobody says: (H, W) or (D, H, W)."""
    in_channels: tuple[int, ...] = ()
    """How many channels its images may have; any number where this is empty."""

    @property
    def options(self) -> tuple[str, ...]:
        """What `create` takes for this network besides channels, classes and size."""
        return (*(("encoder", "pretrained") if self.with_encoder else ()), *self.choices)

    def build_with(self, options: Mapping[str, str | int]) -> Build:
        """How `create` builds it with these options."""
        if self.with_encoder and "encoder" in options:
            return self.with_encoder
        patch = options.get("patch")
        return self.with_patch.get(patch, self.build) if isinstance(patch, int) else self.build
