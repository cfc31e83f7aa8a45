"""A phantom's scan being painted: a grid of voxels, bent as this patient is, and what each voxel shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from imaging.phantom_shapes import Array, Point, Points, Shape, Window, single


@dataclass(frozen=True)
class Grid:
    """Where a scan's voxels lie: `shape` (D, H, W) feet to head, front to back, right to left; `spacing_mm` alike."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    def axis(self, number: int) -> Array:
        """Positions along one axis in mm, 0 at the centre of the scan."""
        n = self.shape[number]
        return single((np.arange(n) - (n - 1) / 2) * self.spacing_mm[number])

    def field(self, rng: np.random.Generator, *grain_mm: float) -> Array:
        """A smooth random field (D, H, W), mean 0, deviation 1, of grains `grain_mm` wide, or of one width an axis."""
        grains = grain_mm if len(grain_mm) == 3 else grain_mm * 3
        bases = [_splines(n, mm / grain) for n, mm, grain in zip(self.shape, self.spacing_mm, grains, strict=True)]
        field = rng.standard_normal([basis.shape[1] for basis in bases], dtype=np.float32)
        for basis in bases:  # each turn takes the first axis and puts it last: after three, all are in order
            field = np.tensordot(field, basis / np.sqrt((basis**2).sum(1).mean()), axes=(0, 1))
        return field


def _splines(n: int, step: float) -> Array:
    """Cubic B-splines one unit apart at n points `step` apart, (n, splines)."""
    at = np.arange(n) * step
    knots = np.arange(-3, np.ceil(at[-1]) + 5)
    return single(BSpline.design_matrix(at, knots, 3).toarray())


class Scene:
    """A scan being painted back to front: later bodies cover earlier ones, with soft borders.

    `x`, `y`, `z` (D, H, W) tell where each voxel lies in the undeformed anatomy, `signal` (D, H, W) what it shows.
    """

    MARGIN_MM = 12.0
    """The bent grid leads out of a body's box by at most this."""

    def __init__(
        self,
        grid: Grid,
        rng: np.random.Generator,
        *,
        centre: Point,
        bends: Sequence[tuple[float, float]],
        signal: float,
    ) -> None:
        """`centre`: the scan's middle in the anatomy; `bends`: (grain, deviation) in mm of deformations that add up."""
        self.grid, self.rng = grid, rng
        self.axes = [grid.axis(axis) + np.float32(centre[2 - axis]) for axis in range(3)]
        z, y, x = np.meshgrid(*self.axes, indexing="ij", sparse=True)
        self.x, self.y, self.z = x + self._bend(bends), y + self._bend(bends), z + self._bend(bends)
        self.signal = np.full(grid.shape, signal, dtype=np.float32)

    def _bend(self, bends: Sequence[tuple[float, float]]) -> Array:
        moves = np.zeros(self.grid.shape, dtype=np.float32)
        for grain, mm in bends:
            moves += np.float32(mm) * self.grid.field(self.rng, grain)
        return np.clip(moves, -self.MARGIN_MM, self.MARGIN_MM)

    def field(self, *grain_mm: float) -> Array:
        """A texture (D, H, W), mean 0 and deviation 1."""
        return self.grid.field(self.rng, *grain_mm)

    def threads(self, grain_mm: float, width: float) -> Array:
        """Thin curved sheets (D, H, W), 0 to 1: where a smooth field crosses 0. Septa, vessels, strands."""
        threads: Array = np.exp(-((self.field(grain_mm) / np.float32(width)) ** 2))
        return threads

    def window(self, shape: Shape) -> Window:
        """The part of the grid that a shape can touch."""
        low, high = np.subtract(shape.low, self.MARGIN_MM)[::-1], np.add(shape.high, self.MARGIN_MM)[::-1]
        d, h, w = (
            slice(*np.searchsorted(axis, ends).tolist())
            for axis, ends in zip(self.axes, zip(low, high, strict=True), strict=True)
        )
        return d, h, w

    def level(self, shape: Shape, window: Window) -> Array:
        """The shape's level set on a part of the bent grid."""
        return shape.level(Points(self.x[window], self.y[window], self.z[window], window))

    def fixed(self, shape: Shape) -> Shape:
        """The same body, its level set computed once and for all: for one that many others are cut by."""
        whole = np.full(self.grid.shape, -self.MARGIN_MM, dtype=np.float32)
        window = self.window(shape)
        whole[window] = self.level(shape, window)
        return Shape(lambda at: whole[at.window], shape.low, shape.high)

    def paint(self, shape: Shape, value: float | Array, *, soft_mm: float = 0.0, share: float = 1.0) -> None:
        """Cover what is there by `value`, a number or a field (D, H, W); a `share` below 1 lets the ground through."""
        window = self.window(shape)
        ground = self.signal[window]
        if ground.size:
            paint = value[window] if isinstance(value, np.ndarray) else np.float32(value)
            ground += np.float32(share) * self._cover(shape, window, soft_mm) * (paint - ground)

    def _cover(self, shape: Shape, window: Window, soft_mm: float) -> Array:
        """How much of each voxel the shape fills, 0 to 1: a border oblique to a thick slice smears over it."""
        level = self.level(shape, window)
        half = np.full_like(level, soft_mm + self.grid.spacing_mm[1] / 2)
        if level.shape[0] > 1:
            half += np.abs(np.gradient(level, axis=0)) / 2
        cover: Array = np.clip(level / (2 * half) + np.float32(0.5), 0, 1)
        return cover

    def inside(self, shape: Shape) -> NDArray[np.uint8]:
        """1 where a voxel's centre lies in the shape, (D, H, W): what a reader outlines."""
        mask = np.zeros(self.grid.shape, dtype=np.uint8)
        window = self.window(shape)
        if mask[window].size:
            mask[window] = self.level(shape, window) > 0
        return mask
