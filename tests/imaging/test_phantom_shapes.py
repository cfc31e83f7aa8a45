"""Level sets are distances near their surface, and painting follows the bent grid."""

from __future__ import annotations

import numpy as np
import pytest

from imaging.phantom_scene import Grid, Scene
from imaging.phantom_shapes import Points, Shape, ellipsoid, rod, tube

GRID = Grid((13, 61, 71), (2.0, 1.0, 1.0))


def still(signal: float = 0.0) -> Scene:
    return Scene(GRID, np.random.default_rng(0), centre=(0, 0, 0), bends=[], signal=signal)


def level(shape: Shape, x: float, y: float, z: float) -> float:
    at_x, at_y, at_z = (np.full((1, 1, 1), value, dtype=np.float32) for value in (x, y, z))
    return float(shape.level(Points(at_x, at_y, at_z, (slice(1), slice(1), slice(1)))).item())


@pytest.mark.parametrize("shape", [ellipsoid((1, 2, 3), (17, 11, 23)), ellipsoid((1, 2, 3), (11, 17, 23), turn=90)])
def test_an_ellipsoid_s_level_is_a_distance_near_its_surface(shape: Shape) -> None:
    assert level(shape, 1 + 17 + 1, 2, 3) == pytest.approx(-1, abs=0.1)
    assert level(shape, 1, 2 - 11 + 1, 3) == pytest.approx(1, abs=0.1)
    assert level(shape, 1, 2, 3 + 23) == pytest.approx(0, abs=0.05)


def test_a_bent_ellipsoid_droops_at_its_ends() -> None:
    shape = ellipsoid((0, 0, 0), (20, 5, 9), bend=6)
    assert level(shape, 15, 3.4, 0) > level(shape, 15, 0, 0)
    assert level(shape, 0, 3.4, 0) < level(shape, 0, 0, 0)


def test_rods_and_tubes_end_where_they_end() -> None:
    assert level(rod((0, 0, 0), (10, 0, 0), 3), 12, 0, 0) == pytest.approx(1)
    assert level(rod((0, 0, 0), (10, 0, 0), 3), 5, 4, 0) == pytest.approx(-1)
    course = tube([(-10, 0, 0, 4, 4), (10, 8, 0, 6, 6)])
    assert level(course, 4, 0, 0) > 3, "half way it has moved half way"
    assert level(course, 4, 0, 11) == pytest.approx(-1)


def test_bodies_are_joined_cut_and_grown() -> None:
    a, b = ellipsoid((0, 0, 0), (10, 10, 10)), ellipsoid((12, 0, 0), (10, 10, 10))
    assert level(a | b, 12, 0, 0) > 0 > level(a & b, 12, 0, 0)
    assert level(a - b, 8, 0, 0) < 0 < level(a - b, -8, 0, 0)
    assert level(a.grown(2), 11, 0, 0) == pytest.approx(1, abs=0.1)
    crease = 6.0, 8.2, 0.0
    assert level(a.merged(b, 8), *crease) > 0 > level(a | b, *crease)


def test_a_painted_ball_has_its_volume_and_soft_borders() -> None:
    scene, ball = still(), ellipsoid((0, 0, 0), (9, 9, 9))
    scene.paint(ball, 1.0)
    volume = 4 / 3 * np.pi * 9**3
    assert scene.signal.sum() * 2.0 == pytest.approx(volume, rel=0.04)
    assert scene.inside(ball).sum() * 2.0 == pytest.approx(volume, rel=0.03)
    assert ((scene.signal > 0.05) & (scene.signal < 0.95)).sum() > 300
    assert scene.signal[6, 30, 35] == 1


def test_a_fixed_shape_is_the_same_shape_and_may_be_grown() -> None:
    scene = Scene(GRID, np.random.default_rng(3), centre=(1, 2, 3), bends=[(20, 2.0)], signal=0.0)
    ball = ellipsoid((0, 0, 0), (9, 7, 8))
    kept = scene.fixed(ball)
    assert np.array_equal(scene.inside(kept), scene.inside(ball))
    assert np.array_equal(scene.inside(kept.grown(3)), scene.inside(ball.grown(3)))
    assert scene.inside(ball).sum() != still().inside(ball).sum(), "the grid is bent"


def test_a_body_outside_the_scan_changes_nothing() -> None:
    scene, far = still(0.25), ellipsoid((500, 0, 0), (9, 9, 9))
    scene.paint(far, 1.0)
    assert np.all(scene.signal == 0.25)
    assert not scene.inside(far).any()


def test_a_field_has_unit_deviation_and_its_grain() -> None:
    rng = np.random.default_rng(7)
    fields = np.stack([GRID.field(rng, 9.0) for _ in range(29)])
    assert fields.shape == (29, *GRID.shape)
    assert fields.std() == pytest.approx(1, abs=0.05)
    assert fields.mean() == pytest.approx(0, abs=0.06)
    near = (fields[..., 1:] * fields[..., :-1]).mean()
    far = (fields[..., 30:] * fields[..., :-30]).mean()
    assert near > 0.95
    assert abs(far) < 0.1
