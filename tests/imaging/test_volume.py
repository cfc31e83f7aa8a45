from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from imaging.volume import AXIAL, Volume, reorient
from tests.imaging.corners import corner_distance_mm

SHAPE = (5, 7, 11)
ALL_AXES = [
    "".join(letters) for order in permutations(("RL", "AP", "SI")) for letters in product(*order)
]  # 6 orders × 8 directions


def scan(*, spacing: tuple[float, float, float] = (3.0, 0.5, 0.75), tilt: float = 0.0) -> Volume:
    """An axial scan whose voxels all differ, its slices tilted about the left-right axis."""
    s, c = np.sin(tilt), np.cos(tilt)
    directions = np.array([[0, 0, -1], [s, -c, 0], [c, s, 0]])  # of slices, rows and columns, in RAS+
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = (41.0, -17.0, 23.0)
    return Volume(np.arange(np.prod(SHAPE)).reshape(SHAPE), affine, "MR", "case", "patient")


def at(volume: Volume, index: tuple[int, int, int]) -> NDArray[np.float64]:
    return np.asarray((volume.affine @ (*index, 1))[:3])


def test_spacing_is_that_of_slices_rows_and_columns() -> None:
    assert_allclose(scan().spacing_mm, (3.0, 0.5, 0.75))


def test_corners_are_the_outermost_voxels_centres() -> None:
    volume = scan()
    assert volume.corners_mm.shape == (8, 3)
    assert_allclose(volume.corners_mm[0], at(volume, (0, 0, 0)))
    assert_allclose(volume.corners_mm[-1], at(volume, (4, 6, 10)))


@pytest.mark.parametrize("axes", ALL_AXES)
@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_reorienting_moves_no_voxel_in_the_patient(axes: str, tilt: float) -> None:
    volume = scan(tilt=tilt)
    turned = reorient(volume, axes)
    d, h, w = turned.array.shape
    for index in ((0, 0, 0), (1, 3, 4), (d - 1, h - 1, w - 1)):
        position = at(turned, index)
        original = np.rint(np.linalg.inv(volume.affine) @ (*position, 1))[:3].astype(int)
        assert turned.array[index] == volume.array[tuple(original)]
    assert_array_equal(reorient(turned, AXIAL).array, volume.array)
    assert_allclose(reorient(turned, AXIAL).affine, volume.affine, atol=1e-12)
    assert (turned.modality, turned.case, turned.patient) == ("MR", "case", "patient")


def test_axial_slices_go_from_feet_to_head_and_rows_from_front_to_back() -> None:
    turned = reorient(reorient(scan(), "RAI"))
    step = np.diag(turned.affine[[2, 1, 0]][:, :3])
    assert step[0] > 0 > step[1]
    assert step[2] < 0  # columns go to the patient's left in the world of RAS+


def test_the_corner_distance_does_not_see_the_order_of_axes() -> None:
    assert corner_distance_mm(scan(tilt=0.2), reorient(scan(tilt=0.2), "RAI")) == pytest.approx(0, abs=1e-9)


def test_the_corner_distance_is_the_shift_of_a_shifted_grid() -> None:
    shifted = scan()
    shifted.affine[:3, 3] += (3.0, 0.0, 4.0)
    assert corner_distance_mm(scan(), shifted) == pytest.approx(5.0)


def test_the_corner_distance_grows_with_a_wrong_spacing() -> None:
    assert corner_distance_mm(scan(), scan(spacing=(3.0, 0.5, 0.8))) == pytest.approx(0.5)  # 10 steps of 0.05 mm


def test_grids_of_other_shapes_are_infinitely_far_apart() -> None:
    volume = scan()
    fewer = Volume(volume.array[:-1], volume.affine)
    assert corner_distance_mm(volume, fewer) == float("inf")
