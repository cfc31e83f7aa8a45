from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from imaging.windows import AT_ONCE, Patches, blended, places, windows

WHOLE, PATCH = (13, 29, 23), (5, 11, 7)
BOX = (slice(0, 13), slice(3, 26), slice(2, 9))


def counted(origins: NDArray[np.int64], patch: tuple[int, int, int], whole: tuple[int, int, int]) -> NDArray[np.int64]:
    """How many patches hold each voxel."""
    count = np.zeros(whole, np.int64)
    for place in places(origins, patch):
        assert all(side.start >= 0 and side.stop <= n for side, n in zip(place, whole, strict=True))
        count[place] += 1
    return count


def test_patches_cover_the_box_and_stay_within_the_stack() -> None:
    origins = windows(BOX, WHOLE, PATCH, 0.25)
    assert origins.dtype == np.int64
    assert len(np.unique(origins, axis=0)) == len(origins) == 4 * 3 * 1
    assert (counted(origins, PATCH, WHOLE)[BOX] > 0).all()


@settings(max_examples=60)
@given(
    side=st.integers(1, 9),
    size=st.integers(9, 40),
    ends=st.tuples(st.integers(0, 39), st.integers(1, 40)),
    overlap=st.floats(0, 0.9),
)
def test_neighbours_overlap_by_their_share_at_least(
    side: int, size: int, ends: tuple[int, int], overlap: float
) -> None:
    start = min(ends[0], size - 1)
    extent = slice(start, max(start + 1, min(ends[1], size)))
    origins = windows((extent, slice(0, 1), slice(0, 1)), (size, 1, 1), (side, 1, 1), overlap)
    along = origins[:, 0]
    assert (counted(origins, (side, 1, 1), (size, 1, 1))[extent, 0, 0] > 0).all()
    assert (np.diff(along) <= max(1, int(side * (1 - overlap)))).all()
    assert (np.diff(along) > 0).all()


def test_a_box_smaller_than_a_patch_has_one_about_its_middle() -> None:
    assert windows((slice(4, 7), slice(0, 2), slice(20, 23)), WHOLE, PATCH, 0.25).tolist() == [[3, 0, 16]]


def test_a_patch_larger_than_the_stack_is_a_programmers_error() -> None:
    with pytest.raises(ValueError, match=r"patches of \(5, 30, 7\) do not fit"):
        windows(BOX, WHOLE, (5, 30, 7), 0.25)


def two_logits(images: NDArray[Any]) -> NDArray[Any]:
    """A network that looks at one voxel at a time: the sum of its channels, and three times it."""
    assert 1 <= len(images) <= AT_ONCE
    assert images.shape[1:] == (2, *PATCH)
    total = images.sum(1, keepdims=True)
    return np.concatenate([total, 3 * total], axis=1)


def test_a_stack_read_patch_by_patch_is_read_as_a_whole() -> None:
    stack = np.random.default_rng(0).random((WHOLE[0], 2, *WHOLE[1:])).astype(np.float32)
    logits = blended(two_logits, stack, windows(BOX, WHOLE, PATCH, 0.25), PATCH)
    assert logits.shape == (WHOLE[0], 2, *WHOLE[1:])
    total = stack.sum(1)
    assert_allclose(logits[:, 0][BOX], total[BOX], rtol=1e-6)
    assert_allclose(logits[:, 1][BOX], 3 * total[BOX], rtol=1e-6)
    assert (logits[:, :, :, 20:] == 0).all(), "beyond all patches nothing is told"


def test_where_patches_overlap_their_logits_are_averaged() -> None:
    calls = iter(range(1, 100))

    def numbered(images: NDArray[Any]) -> NDArray[Any]:
        return np.stack([np.full((1, 2, 1, 1), next(calls), np.float32) for _ in images])

    origins = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]])
    logits = blended(numbered, np.zeros((4, 1, 1, 1), np.float32), origins, (2, 1, 1))
    assert_allclose(logits[:, 0, 0, 0], [1, 1.5, 2.5, 3])


def test_patches_are_read_when_they_are_asked_for() -> None:
    images = np.arange(4 * 2 * 6 * 5).reshape(4, 2, 6, 5)
    origins = np.array([[0, 0, 0], [1, 2, 1], [2, 3, 2]])
    patches, outlines = Patches(images, origins, (2, 3, 3)), Patches(images[:, 0], origins, (2, 3, 3))
    assert (len(patches), patches.shape, outlines.shape) == (3, (3, 2, 2, 3, 3), (3, 2, 3, 3))
    assert_array_equal(patches[np.array([2, 1])][1], images[1:3, :, 2:5, 1:4].transpose(1, 0, 2, 3))
    assert_array_equal(outlines[:][2], images[2:4, 0, 3:6, 2:5])
    assert patches[np.array([], np.int64)].shape == (0, 2, 2, 3, 3)
