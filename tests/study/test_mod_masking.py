"""What is hidden of an image, in which cells, and how its two views come about."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from study.learners.masking import (
    block_mask,
    hidden_cells,
    hidden_count,
    hidden_voxels,
    patches_of,
    random_mask,
    tokens_of,
)
from study.learners.views import Shades, blurred, contrasted, draw
from study.mod_table import Mod


def images_of(patches: Tensor, cell: int, size: tuple[int, ...]) -> Tensor:
    """What `patches_of` cut, together again: (N, T, c · cell^dims) -> (N, c, *size)."""
    dims = len(size)
    cut = patches.reshape(len(patches), *(side // cell for side in size), -1, *dims * (cell,))
    back = (part for axis in range(1, dims + 1) for part in (axis, axis + dims + 1))
    return cut.permute(0, dims + 1, *back).reshape(len(patches), -1, *size)


def agreement(masks: Tensor) -> float:
    """Share of neighbouring cells, over all axes, that are hidden or not alike."""
    alike = [(masks.narrow(axis, 1, side - 1) == masks.narrow(axis, 0, side - 1)).float().mean()
             for axis, side in enumerate(masks.shape) if axis]  # fmt: skip
    return float(torch.stack(alike).mean())


# --- masks


@pytest.mark.parametrize(("side", "count"), [(8, 307), (4, 38), (2, 5)])
@pytest.mark.parametrize("blocks", [True, False])
def test_the_count_is_exact_at_every_grid(side: int, count: int, blocks: bool) -> None:
    masks = hidden_cells(23, 3 * (side,), ratio=0.6, blocks=blocks)
    assert masks.flatten(1).sum(1).tolist() == 23 * [count]
    assert hidden_count(3 * (side,), 0.6) == count
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 10


@pytest.mark.parametrize("grid", [(2, 3, 5), (7, 5), (1, 1, 11)])
def test_grids_of_unequal_sides_and_of_two_axes_are_masked_too(grid: tuple[int, ...]) -> None:
    assert hidden_cells(5, grid, ratio=0.6, blocks=True).flatten(1).sum(1).tolist() == 5 * [hidden_count(grid, 0.6)]


def test_neighbours_agree_in_blocks_more_than_by_chance() -> None:
    torch.manual_seed(0)
    assert agreement(hidden_cells(60, (8, 8, 8), ratio=0.6, blocks=True)) == pytest.approx(0.84, abs=0.015)
    assert agreement(hidden_cells(60, (8, 8, 8), ratio=0.6, blocks=False)) == pytest.approx(0.52, abs=0.01)


def test_every_cell_is_hidden_about_as_often_by_chance() -> None:
    torch.manual_seed(0)
    often = hidden_cells(400, (2, 3, 5), ratio=0.6, blocks=False).float().mean(0)
    assert float((often - 0.6).abs().max()) < 0.12


def test_equal_seed_and_step_equal_masks() -> None:
    drawn = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        drawn.append(hidden_cells(2, (4, 4, 4), ratio=0.6, blocks=True))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_what_was_hidden_stays_hidden_where_cells_make_up_the_count() -> None:
    draws = np.random.default_rng(0)
    start = block_mask((3, 5, 7), 20, draws)
    assert (random_mask((3, 5, 7), 60, draws, start=start) >= start).all()


def test_cells_voxels_patches_and_tokens_are_in_one_order() -> None:
    images = torch.arange(2 * 3 * 4 * 6 * 10.0).reshape(2, 3, 4, 6, 10)
    hidden = hidden_cells(2, (2, 3, 5), ratio=0.6, blocks=True)
    voxels = hidden_voxels(hidden, 2)
    assert voxels.shape == (2, 1, 4, 6, 10)
    patches = patches_of(images, 2)
    assert patches.shape == (2, 30, 3 * 8)
    assert_close(images_of(patches, 2, (4, 6, 10)), images, rtol=0, atol=0)
    blank = images_of(patches.masked_fill(hidden.flatten(1)[..., None], -1), 2, (4, 6, 10))
    assert_close(blank, images.masked_fill(voxels, -1), rtol=0, atol=0)
    means = torch.nn.functional.avg_pool3d(images, 2)
    assert_close(tokens_of(means), patches.reshape(2, 30, 3, 8).mean(3))


def test_patches_of_slices() -> None:
    images = torch.randn(2, 3, 4, 6)
    assert_close(images_of(patches_of(images, 2), 2, (4, 6)), images, rtol=0, atol=0)


# --- views


def test_a_view_is_its_shades_and_equal_seeds_draw_equal_shades() -> None:
    images = torch.randn(5, 2, 4, 6, 10)
    views = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        views.append(draw(5, Mod()).of(images))
    assert torch.equal(views[0], views[1])
    assert not torch.isclose(views[0], views[2]).any(1).all()
    still = Shades(torch.zeros(5), torch.ones(5), torch.zeros(5), torch.zeros(5))
    assert_close(still.of(images), images)
    louder = Shades(torch.zeros(5), torch.ones(5), torch.full((5,), 0.1), torch.full((5,), -0.05))
    assert_close(louder.of(images), 1.1 * images - 0.05)


def test_what_is_drawn_keeps_to_the_table() -> None:
    torch.manual_seed(0)
    drawn = draw(4000, Mod())
    blurs, gammas = drawn.sigma[drawn.sigma > 0], drawn.gamma[drawn.gamma != 1]
    assert (len(blurs) / 4000, len(gammas) / 4000) == pytest.approx((0.5, 0.8), abs=0.03)
    for values, low, high in (
        (blurs, 0.5, 1.5),
        (gammas, 0.7, 1.5),
        (drawn.scale, -0.1, 0.1),
        (drawn.shift, -0.1, 0.1),
    ):
        assert low <= float(values.min()) < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < float(values.max()) <= high
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.02)


def test_blur_is_the_gaussian_of_each_view_on_every_axis() -> None:
    point = torch.zeros(3, 1, 9, 11, 13)
    point[:, :, 4, 5, 6] = 1.0
    out = blurred(point, torch.tensor([0.0, 0.5, 1.1]))
    assert torch.equal(out[0], point[0])
    for sigma, view in ((0.5, out[1, 0]), (1.1, out[2, 0])):
        assert float(view[5, 5, 6] / view[4, 5, 6]) == pytest.approx(np.exp(-1 / (2 * sigma**2)), rel=1e-3)
        assert float(view[4, 5, 8] / view[4, 7, 6]) == pytest.approx(1, rel=1e-2)
    flat = torch.full((1, 2, 3, 5, 7), 4.0)
    assert_close(blurred(flat, torch.tensor([1.5])), flat)
    assert blurred(torch.randn(1, 2, 5, 7), torch.tensor([1.0])).shape == (1, 2, 5, 7)


def test_contrast_keeps_the_lowest_and_the_highest_of_each_channel() -> None:
    images = torch.randn(2, 3, 4, 6, 10)
    out = contrasted(images, torch.tensor([0.7, 1.5]))
    for extreme in (torch.amin, torch.amax):
        assert_close(extreme(out, (2, 3, 4)), extreme(images, (2, 3, 4)))
    assert (out[0] >= images[0] - 1e-5).all()
    assert (out[1] <= images[1] + 1e-5).all()
    assert_close(contrasted(torch.ones(1, 1, 2, 3), torch.tensor([1.3])), torch.ones(1, 1, 2, 3))
