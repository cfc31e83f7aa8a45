from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.testing import assert_close

from imaging.augment import IDENTITY, Augment, draw
from imaging.warp import Warp

torch.set_num_threads(1)

H, W = 61, 83
ALL = Augment(flip=1, affine=1, elastic=1, grid=1, optical=1, brightness_contrast=1, dropout=1)
STILL = IDENTITY.model_dump()


def only(**chances: float) -> Augment:
    return Augment.model_validate(STILL | chances)


def smooth(h: int = H, w: int = W, *, n: int = 1, c: int = 1) -> Tensor:
    """Waves of at most three periods a side, in [-1, 1], the same picture at every resolution; (N, C, h, w)."""
    y, x = (torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w
    waves = [torch.sin(6.3 * (1 + k % 3) * y + k)[:, None] * torch.cos(6.3 * (1 + k % 2) * x - k) for k in range(n * c)]
    return torch.stack(waves).view(n, c, h, w)


def same(a: Warp, b: Warp) -> bool:
    tensors = ("flips", "moved", "theta", "bent", "bend", "gain", "offset")
    return a.holes == b.holes and all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)


def quarter_turn(n: int) -> Warp:
    """Every slice a quarter turn against the clock."""
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0]]).repeat(n, 1, 1)
    still = draw(IDENTITY, 0, size=(8, 8), n=n)
    none = torch.zeros(0, dtype=torch.int64)
    return Warp(still.flips, torch.arange(n), turn, none, still.bend, still.gain, still.offset, ())


# What is drawn


def test_the_defaults_are_the_papers() -> None:
    plan = Augment()
    assert (plan.rotate_deg, plan.scale, plan.shift) == (90, 0.2, 0.0625)
    assert (plan.flip, plan.elastic, plan.grid, plan.optical) == (0.5, 0.1, 0.1, 0.1)
    assert (plan.brightness_contrast, plan.dropout) == (0.2, 0.2)


def test_a_wrong_key_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="rotation"):
        Augment.model_validate({"rotation": 90})


def test_a_seed_gives_the_same_moves_whatever_the_global_generators_and_threads_do() -> None:
    expected = [draw(ALL, seed, size=(H, W), n=3) for seed in range(8)]
    busy = threading.Event()

    def churn() -> None:
        while not busy.is_set():
            random.random()
            np.random.rand()  # noqa: NPY002
            torch.rand(1)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            drawn = list(pool.map(lambda seed: draw(ALL, seed, size=(H, W), n=3), range(8)))
    finally:
        busy.set()
        thread.join()
    assert all(same(a, b) for a, b in zip(drawn, expected, strict=True))


def test_drawing_leaves_the_global_generators_alone() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]  # noqa: NPY002
    draw(ALL, 1, size=(H, W), n=2)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]  # noqa: NPY002
    assert before == after


def test_a_slices_moves_do_not_depend_on_how_many_are_drawn() -> None:
    few, many = draw(ALL, 5, size=(H, W), n=3), draw(ALL, 5, size=(H, W), n=7)
    assert_close(many.theta[:3], few.theta, rtol=0, atol=0)
    assert_close(many.bend[:3], few.bend, rtol=0, atol=0)
    assert [hole for hole in many.holes if hole[0] < 3] == list(few.holes)


def test_seeds_and_positions_give_different_moves() -> None:
    thetas = torch.cat([draw(ALL, seed, size=(H, W), n=5).theta for seed in (1, 2, 2**62)])
    assert len({tuple(theta.flatten().tolist()) for theta in thetas}) == 15


def test_transforms_come_as_often_as_planned() -> None:
    n = 2000
    warp = draw(Augment(), 0, size=(16, 16), n=n)
    moved = 1 - 0.5 * 0.9**3
    assert len(warp.moved) / n == pytest.approx(moved, abs=0.04)
    assert len(warp.bent) / n == pytest.approx(1 - 0.9**3, abs=0.04)
    assert warp.flips.float().mean(0).tolist() == pytest.approx([0.5 * (1 - moved)] * 2, abs=0.04)
    assert (warp.gain != 1).float().mean().item() == pytest.approx(0.2, abs=0.04)
    assert len({hole[0] for hole in warp.holes}) / n == pytest.approx(0.2, abs=0.04)


def test_moves_stay_within_the_papers_limits() -> None:
    warp = draw(only(affine=1), 3, size=(400, 400), n=500)
    scale = warp.theta[:, :, :2].det().sqrt()
    angle = torch.atan2(warp.theta[:, 1, 0], warp.theta[:, 0, 0]).rad2deg()
    shift = torch.linalg.solve(warp.theta[:, :, :2], warp.theta[:, :, 2]) / 2  # of the side, in the result
    assert 1 / 1.2 <= scale.min() < 0.86
    assert 1.22 < scale.max() <= 1 / 0.8 + 1e-5
    assert angle.abs().max() <= 90.01
    assert angle.min() < -85
    assert angle.max() > 85
    assert 0.055 < shift.abs().max() <= 0.0626
    assert_close(warp.theta[:, 0, 0], warp.theta[:, 1, 1])  # rows and columns are scaled alike


def test_the_elastic_shift_is_a_share_of_the_side_at_any_resolution() -> None:
    for side in (96, 256):
        bend = draw(only(elastic=1), 1, size=(side, side), n=6).bend / 2
        assert bend.square().mean().sqrt().item() == pytest.approx(0.01, rel=0.25)
        assert bend.abs().max() < 0.1


# How it is applied


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("affine", A.Affine(rotate=(-90, 90), scale=(0.8, 1.2), translate_percent=(-0.0625, 0.0625), keep_ratio=True)),
        ("grid", A.GridDistortion()),
        ("optical", A.OpticalDistortion()),
    ],
)
def test_a_slice_is_moved_as_albumentations_would_move_it(name: str, theirs: Any) -> None:
    image = smooth()
    for seed in range(5):
        ours = draw(only(**{name: 1}), seed, size=(H, W), n=1).move(image)[0, 0]
        generator = np.random.default_rng([seed, 0])
        theirs.set_random_state(generator, random.Random(int(generator.integers(1 << 63))))
        theirs.p, theirs.border_mode = 1, cv2.BORDER_REFLECT
        expected = torch.from_numpy(theirs(image=image[0, 0].numpy())["image"])
        assert_close(ours, expected, rtol=0, atol=0.02)  # OpenCV rounds positions to 1/32 of a pixel


def test_several_distortions_add_up_before_flips_and_affine() -> None:
    both, image = draw(only(flip=1, affine=1, optical=1), 4, size=(H, W), n=1), smooth()
    u = F.affine_grid(torch.eye(2, 3)[None], [1, 1, H, W], align_corners=False) + both.bend.permute(0, 2, 3, 1)
    expected = u @ both.theta[:, None, :, :2].mT + both.theta[:, None, None, :, 2]
    assert_close(both.field(H, W), expected)
    sampled = F.grid_sample(image, expected, padding_mode="reflection", align_corners=False)
    assert_close(both.move(image), sampled, rtol=0, atol=1e-4)


@pytest.mark.parametrize("grid", [(H, W), (5, 7), (16, 16), (1, 3)])
def test_flips_are_exact_on_every_grid(grid: tuple[int, int]) -> None:
    warp = draw(only(flip=0.5), 2, size=(H, W), n=23)
    assert len({tuple(flip) for flip in warp.flips.tolist()}) == 4
    x = torch.rand(23, 3, *grid)
    for result, source, (upside_down, left_to_right) in zip(warp.move(x), x, warp.flips.tolist(), strict=True):
        assert torch.equal(result, source.flip([1] * upside_down + [2] * left_to_right))


@pytest.mark.parametrize("grid", [(H, W), (5, 7), (17, 13), (128, 96)])
def test_flips_within_a_longer_move_are_those_of_the_tensor(grid: tuple[int, int]) -> None:
    plan = only(flip=1, affine=1).model_copy(update={"rotate_deg": 0.0, "scale": 0.0, "shift": 0.0})
    warp = draw(plan, 0, size=(H, W), n=2)
    assert warp.moved.tolist() == [0, 1]
    x, masks = torch.rand(2, 3, *grid), torch.randint(0, 5, (2, *grid), dtype=torch.uint8)
    assert_close(warp.move(x), x.flip(2, 3), rtol=0, atol=1e-4)
    assert torch.equal(warp.move_masks(masks), masks.flip(1, 2))


@pytest.mark.parametrize("side", [1, 7, 16, 61, 128])
def test_quarter_turns_are_those_of_the_tensor(side: int) -> None:
    x, masks = torch.rand(2, 3, side, side), torch.randint(0, 5, (2, side, side), dtype=torch.uint8)
    warp = quarter_turn(2)
    assert_close(warp.move(x), x.rot90(1, (2, 3)), rtol=0, atol=1e-5)
    assert torch.equal(warp.move_masks(masks), masks.rot90(1, (1, 2)))


def test_maps_of_any_grid_move_as_their_slice_does() -> None:
    warp = draw(ALL, 6, size=(128, 128), n=11)
    image = warp.move(smooth(128, 128, n=11))
    for side in (64, 32):
        moved = warp.move(smooth(side, side, n=11))
        expected = F.adaptive_avg_pool2d(image, side)
        difference = (moved - expected).abs()
        assert difference.mean() < 0.02
        assert difference.quantile(0.99) < 0.2


def test_logits_move_with_their_mask() -> None:
    warp = draw(ALL, 7, size=(H, W), n=11)
    masks = (smooth(n=11)[:, 0] * 1.4).round().long() + 1
    logits = F.one_hot(masks, 3).movedim(3, 1).to(torch.float16)
    agree = warp.move(logits).argmax(1) == warp.move_masks(masks)
    assert agree.float().mean() > 0.97  # they differ within half a pixel of an outline


def test_channels_moved_together_move_as_they_would_alone() -> None:
    warp = draw(ALL, 8, size=(H, W), n=5)
    x = torch.rand(5, 4, H, W)
    assert torch.equal(warp.move(x)[:, 2:3], warp.move(x[:, 2:3]))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**62), values=st.lists(st.integers(0, 255), min_size=2, max_size=4, unique=True))
def test_moving_a_mask_invents_no_class(seed: int, values: list[int]) -> None:
    warp = draw(ALL, seed, size=(31, 37), n=2)
    masks = torch.tensor(values, dtype=torch.uint8)[torch.randint(len(values), (2, 31, 37))]
    moved = warp.move_masks(masks)
    assert moved.dtype == torch.uint8
    assert set(moved.flatten().tolist()) <= set(values)


def test_a_slice_without_a_mask_stays_one() -> None:
    masks = torch.full((3, H, W), 255, dtype=torch.uint8)
    assert torch.equal(draw(ALL, 9, size=(H, W), n=3).move_masks(masks), masks)


def test_no_augmentation_changes_nothing() -> None:
    warp, x = draw(IDENTITY, 1, size=(H, W), n=3), torch.rand(3, 1, H, W)
    assert torch.equal(warp.move(x), x)
    assert torch.equal(warp.shade(x), x)


def test_what_is_moved_is_left_as_it_was() -> None:
    warp, x = draw(ALL, 1, size=(H, W), n=3), torch.rand(3, 1, H, W)
    before = x.clone()
    warp.shade(warp.move(x))
    assert torch.equal(x, before)


def test_shading_is_contrast_then_brightness_then_holes() -> None:
    warp, images = draw(ALL, 2, size=(100, 100), n=40), torch.rand(40, 1, 100, 100) + 3
    shaded = warp.shade(images)
    assert warp.gain.sub(1).abs().max() <= 0.2
    assert warp.offset.abs().max() <= 0.2
    assert warp.gain.std() > 0.08
    assert warp.offset.std() > 0.08
    holes = torch.zeros_like(images, dtype=torch.bool)
    for n, top, left, bottom, right in warp.holes:
        assert 10 <= bottom - top <= 20
        assert 10 <= right - left <= 20
        holes[n, :, top:bottom, left:right] = True
    assert torch.equal(shaded == 0, holes)
    expected = images * warp.gain.view(-1, 1, 1, 1) + warp.offset.view(-1, 1, 1, 1)
    assert_close(shaded[~holes], expected[~holes])
    counts = np.bincount([hole[0] for hole in warp.holes], minlength=40)
    assert set(counts.tolist()) == {1, 2}


def test_nothing_becomes_nan_at_the_smallest_size() -> None:
    warp = draw(ALL, 3, size=(16, 16), n=11)
    assert torch.isfinite(warp.move(torch.rand(11, 1, 16, 16))).all()
    assert torch.isfinite(warp.field(1, 1)).all()
