"""Bodies of a phantom as level sets in millimetres: what is drawn, not yet where the voxels lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
"""float32 at run time, for speed; constants are wrapped in np.float32 where they would widen an array."""
Point: TypeAlias = tuple[float, float, float]
"""x to the patient's left, y to the back, z to the head, in mm."""
Window: TypeAlias = tuple[slice, slice, slice]


class Points(NamedTuple):
    """Some of a scene's voxels: where they lie in the undeformed anatomy in mm, and which part of the grid they are."""

    x: Array
    y: Array
    z: Array
    window: Window


Level: TypeAlias = Callable[[Points], Array]


@dataclass(frozen=True)
class Shape:
    """A body: `level(points)` is about the distance to its surface in mm, positive inside; `low`, `high` box it in."""

    level: Level
    low: Point
    high: Point

    def __or__(self, other: Shape) -> Shape:
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return Shape(lambda at: np.maximum(self.level(at), other.level(at)), point(low), point(high))

    def __and__(self, other: Shape) -> Shape:
        low, high = np.maximum(self.low, other.low), np.minimum(self.high, other.high)
        return Shape(lambda at: np.minimum(self.level(at), other.level(at)), point(low), point(high))

    def __sub__(self, other: Shape) -> Shape:
        return Shape(lambda at: np.minimum(self.level(at), -other.level(at)), self.low, self.high)

    def grown(self, mm: float) -> Shape:
        """The same body with its surface moved outwards (inwards where negative)."""
        more = max(mm, 0.0)
        low, high = np.subtract(self.low, more), np.add(self.high, more)
        return Shape(lambda at: self.level(at) + np.float32(mm), point(low), point(high))

    def merged(self, other: Shape, mm: float) -> Shape:
        """The union with the crease between both filled over about `mm` (polynomial smooth maximum, Quilez 2013)."""

        def level(at: Points) -> Array:
            a, b = self.level(at), other.level(at)
            fill = np.maximum(np.float32(0), 1 - np.abs(a - b) / np.float32(mm))
            return np.maximum(a, b) + fill * fill * np.float32(mm / 4)

        both = self | other
        return Shape(level, both.low, both.high)


def point(values: ArrayLike) -> Point:
    """Three numbers as plain floats."""
    x, y, z = np.asarray(values, dtype=float).tolist()
    return x, y, z


def single(values: ArrayLike) -> NDArray[np.float32]:
    """The same numbers in single precision."""
    return np.asarray(values, dtype=np.float32)


def ellipsoid(centre: Point, radii: Point, *, turn: float = 0.0, bend: float = 0.0) -> Shape:
    """An ellipsoid, turned by `turn` degrees about z, from x towards y; the ends of its x axis droop by `bend` mm."""
    cos, sin = np.float32(np.cos(np.deg2rad(turn))), np.float32(np.sin(np.deg2rad(turn)))
    (cx, cy, cz), (rx, ry, rz) = single(centre), single(radii)

    def level(at: Points) -> Array:
        x, y = at.x - cx, at.y - cy
        if turn:
            x, y = cos * x + sin * y, cos * y - sin * x
        u = x / rx
        if bend:
            y = y - np.float32(bend) * u * u
        return _ellipse(u, y / ry, (at.z - cz) / rz, radii)

    reach = max(radii[0], radii[1] + abs(bend))
    half = (reach if turn else radii[0], reach if turn else radii[1] + abs(bend), radii[2])
    return Shape(level, point(np.subtract(centre, half)), point(np.add(centre, half)))


def _ellipse(u: Array, v: Array, w: Array, radii: Point) -> Array:
    """Distance to the unit sphere scaled by `radii`, to first order: the level over the length of its gradient."""
    u2, v2, w2 = u * u, v * v, w * w
    q = np.sqrt(u2 + v2 + w2) + np.float32(1e-3)
    a, b, c = (np.float32(1 / r**2) for r in radii)
    return (1 - q) * q / (np.sqrt(a * u2 + b * v2 + c * w2) + np.float32(1e-6))


def tube(stations: Sequence[tuple[float, float, float, float, float]]) -> Shape:
    """An elliptic tube along z through stations (z, x, y, rx, ry), z rising; it ends at the first and at the last."""
    zs, *tracks = single(stations).T

    def level(at: Points) -> Array:
        height = at.z.mean(axis=(1, 2), keepdims=True)  # a course slice by slice: np.interp voxel by voxel is too slow
        cx, cy, rx, ry = (single(np.interp(height, zs, track)) for track in tracks)
        u, v = (at.x - cx) / rx, (at.y - cy) / ry
        q = np.sqrt(u * u + v * v) + np.float32(1e-3)
        steep = np.sqrt((u / rx) ** 2 + (v / ry) ** 2) + np.float32(1e-6)
        inside: Array = np.minimum((1 - q) * q / steep, np.minimum(at.z - zs[0], zs[-1] - at.z))
        return inside

    xs, ys, rxs, rys = tracks
    low, high = ((xs - rxs).min(), (ys - rys).min(), zs[0]), ((xs + rxs).max(), (ys + rys).max(), zs[-1])
    return Shape(level, point(low), point(high))


def rod(start: Point, end: Point, radius: float) -> Shape:
    """All points within `radius` of a line segment."""
    a, axis = single(start), single(end) - single(start)
    unit = axis / (axis @ axis)

    def level(at: Points) -> Array:
        x, y, z = at.x - a[0], at.y - a[1], at.z - a[2]
        t = np.clip(x * unit[0] + y * unit[1] + z * unit[2], 0, 1)
        away: Array = np.sqrt((x - t * axis[0]) ** 2 + (y - t * axis[1]) ** 2 + (z - t * axis[2]) ** 2)
        return np.float32(radius) - away

    return Shape(level, point(np.minimum(start, end) - radius), point(np.maximum(start, end) + radius))


def region(level: Level) -> Shape:
    """A body without a box, such as everything above a dome."""
    return Shape(level, (-1e4, -1e4, -1e4), (1e4, 1e4, 1e4))
