"""Patches of volumes: the same way from files to what a network sees as slices go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from pydantic import ValidationError

from imaging.augment import Augment, draw
from imaging.augment_plan import IDENTITY
from imaging.cohort import inspect
from imaging.crops import crop_origins
from imaging.errors import InputError
from imaging.grid import to_native
from imaging.preprocess import NO_MASK, Preprocess, prepare, sample
from imaging.slices import SliceCache
from imaging.volume import Volume, reorient

D, H, W = 11, 19, 17
PLAN = Preprocess(size=(24, 16), patch=(8, 8, 8), thin="pad", overlap=0.25)


def volume(array: NDArray[Any], spacing_mm: tuple[float, float, float] = (2.0, 1.0, 1.0)) -> Volume:
    affine = np.array([[0, 0, -1, 60], [0, -1, 0, 40], [1, 0, 0, -70], [0, 0, 0, 1]], float)
    affine[:3, :3] *= spacing_mm
    return Volume(array, affine, "MR")


def scan(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).gamma(2.0, 100.0, shape or (D, H, W)).astype(np.float32)


def ball(*shape: int) -> NDArray[np.uint8]:
    """A ball of class 1 about the middle, with a core of class 2."""
    shape = shape or (D, H, W)
    away = np.linalg.norm(np.indices(shape) - np.array([(n - 1) / 2 for n in shape])[:, None, None, None], axis=0)
    return np.asarray((away < 5).astype(np.uint8) + (away < 2), np.uint8)


def one_hot(masks: NDArray[Any]) -> NDArray[Any]:
    return np.stack([masks == label for label in range(3)], 1).astype(np.float32)


# The plan


def test_a_plan_without_patches_keeps_its_fingerprint_and_one_with_them_has_its_own() -> None:
    assert Preprocess(size=(24, 16)).fingerprint() == Preprocess(size=(24, 16), overlap=0.5, thin="pad").fingerprint()
    plans = [PLAN, PLAN.model_copy(update={"overlap": 0.5}), PLAN.model_copy(update={"patch": (8, 8, 16)})]
    plans += [PLAN.model_copy(update={"thin": "refuse"}), PLAN.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0)})]
    assert len({plan.fingerprint() for plan in plans}) == len(plans)
    assert (PLAN.shape, Preprocess(size=(24, 16)).shape) == ((8, 8, 8), (24, 16))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"patch": [8, 32, 8]}, "is larger than a slice of `size`"),
        ({"patch": [8, 8]}, "patch"),
        ({"patch": None, "spacing_mm": [1, 1, 1]}, "of three numbers is for patches"),
        ({"overlap": 1.0}, "overlap"),
    ],
)
def test_a_patch_that_cannot_be_is_refused_by_name(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Preprocess.model_validate(PLAN.model_dump() | wrong)


# Geometry


def test_a_thin_scan_is_padded_where_the_plan_says_so_and_comes_back_exactly() -> None:
    image, mask = volume(scan(5, H, W)), volume(ball(5, H, W))
    with pytest.raises(InputError, match="the scan has 5 slices, and a patch has 8; choose a flatter"):
        prepare(image, mask, PLAN.model_copy(update={"thin": "refuse"}), classes=3)
    prepared = prepare(image, mask, PLAN, classes=3)
    assert prepared.images.shape == (8, 1, 24, 16)
    assert prepared.grid.box() == (slice(2, 7), slice(3, 22), slice(0, 16))
    outside = np.ones(8, bool)
    outside[2:7] = False
    assert (prepared.masks[outside] == 0).all()
    assert (prepared.images[outside] == prepared.images.min()).all()
    back = to_native(one_hot(prepared.masks), prepared.grid)
    assert_array_equal(back[:, :, 1:], ball(5, H, W)[:, :, 1:])


@pytest.mark.parametrize("axes", ["SPL", "RAS", "LIP"])
def test_slices_are_resampled_like_rows_and_columns_and_masks_come_back(axes: str) -> None:
    wide = PLAN.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0), "size": (24, 24)})
    image, mask = reorient(volume(scan()), axes), reorient(volume(ball()), axes)
    prepared = prepare(image, mask, wide, classes=3)
    assert prepared.images.shape == (2 * D, 1, 24, 24)
    inside = prepared.masks > 0
    extent = [np.flatnonzero(inside.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    spans = [int(along[-1] - along[0] + 1) for along in extent]
    assert spans[0] == pytest.approx(18, abs=1), "9 slices of 2 mm"
    assert spans[1:] == [9, 9]
    back = to_native(one_hot(prepared.masks), prepared.grid)
    assert back.shape == mask.array.shape
    assert (back != mask.array).mean() < 0.01


def test_a_ramp_stays_a_ramp_along_the_slices() -> None:
    ramp = np.broadcast_to(np.arange(D, dtype=np.float32)[:, None, None], (D, H, W))
    sampled = sample(volume(ramp), PLAN.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0)}))
    assert_allclose(np.diff(sampled.intensities[1:-1, 0, 10, 8]), 0.5, atol=1e-5)


def test_two_numbers_leave_the_slices_as_they_are() -> None:
    prepared = prepare(volume(scan()), None, PLAN.model_copy(update={"spacing_mm": (0.5, 0.5)}))
    assert len(prepared.images) == D


# Channels


def test_each_channel_is_scaled_by_itself() -> None:
    both = np.stack([scan(), 1000 + 50 * scan()[::-1]], axis=3)
    prepared = prepare(volume(both), volume(ball()), PLAN, classes=3, channels=2)
    assert prepared.images.shape == (D, 2, 24, 16)
    for channel in range(2):
        alone = prepare(volume(both[..., channel]), None, PLAN)
        assert_array_equal(prepared.images[:, channel], alone.images[:, 0])
    turned = prepare(reorient(volume(both), "RAS"), None, PLAN, channels=2)
    assert_array_equal(turned.images, prepared.images)


def test_a_range_becomes_0_to_1() -> None:
    images = prepare(volume(scan()), None, PLAN.model_copy(update={"normalise": "min-max"})).images
    assert (images.min(), images.max()) == (0, 1)


def write(folder: Path, name: str, array: NDArray[Any], mask: NDArray[Any] | None = None) -> None:
    for suffix, values in (("", array), ("_seg", mask)):
        if values is not None:
            axes = (2, 1, 0, 3)[: values.ndim]
            nib.save(
                nib.Nifti1Image(values.transpose(axes), np.diag([-1.0, -1, 2, 1])), folder / f"{name}{suffix}.nii.gz"
            )


def test_four_sequences_in_one_file_are_read_as_one_scan(tmp_path: Path) -> None:
    four = np.stack([scan() + 10 * channel for channel in range(4)], axis=3)
    write(tmp_path, "patient1", four, ball())
    found = inspect(tmp_path, classes=3, channels=4)
    assert not found.problems
    (case,) = found.cases
    assert_array_equal(case.read_image().array, four)
    mask = case.read_mask()
    assert mask is not None
    assert_array_equal(mask.array, ball())


def test_a_file_of_other_channels_is_put_aside_with_its_remedy(tmp_path: Path) -> None:
    write(tmp_path, "patient1", np.stack([scan(), scan()], axis=3), ball())
    write(tmp_path, "patient2", scan(), ball())
    words = {problem.what for problem in inspect(tmp_path, classes=3, channels=4).problems}
    assert {f"{has} in the file, and the study names 4" for has in ("2 channels", "1 channel")} <= words
    alone = inspect(tmp_path, classes=3)
    assert [case.id for case in alone.cases] == ["patient2"]
    assert "several time points or channels" in alone.problems[0].what


# The cache


@pytest.fixture
def cache(tmp_path: Path) -> SliceCache:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, depth in enumerate((11, 5, 14)):
        write(folder, f"patient{number}", scan(depth, H, W), ball(depth, H, W) if number != 1 else None)
    return SliceCache.build(inspect(folder, classes=3).cases, PLAN, tmp_path / "cache", classes=3)


def test_patches_of_a_cache_are_parts_of_its_cases(cache: SliceCache) -> None:
    assert [case.stop - case.start for case in cache.cases] == [11, 8, 14]
    assert len(cache.images) == len(cache.masks) == len(cache.case_index) == len(cache.labelled)
    assert np.bincount(cache.case_index).tolist() == [2 * 3 * 3, 1 * 3 * 3, 2 * 3 * 3]
    for number in range(len(cache.images)):
        (image,), (mask,) = cache.images[np.array([number])], cache.masks[np.array([number])]
        z, y, x = cache.origins[number]
        case = cache.cases[cache.case_index[number]]
        assert case.start <= z <= case.stop - 8
        assert_array_equal(image[0], cache.stack[z : z + 8, 0, y : y + 8, x : x + 8])
        assert_array_equal(mask, cache.outlines[z : z + 8, y : y + 8, x : x + 8])
        assert (mask == NO_MASK).all() == (not cache.labelled[number])
    assert cache.ids(cache.cases[1:2]).tolist() == list(range(18, 27))
    assert [case.id for case in cache.cases_of(np.array([0, 30]))] == ["patient0", "patient2"]


def test_a_reopened_cache_has_the_same_patches(cache: SliceCache) -> None:
    again = SliceCache.open(cache.folder)
    assert again.plan == PLAN
    assert_array_equal(again.origins, cache.origins)
    assert_array_equal(again.images[:], cache.images[:])


def test_patches_to_train_on_lie_about_organs_as_often_as_asked(cache: SliceCache) -> None:
    ids = cache.ids([cache.cases[0], cache.cases[2]])
    random = np.random.default_rng(3)
    images, masks = cache.drawn(ids, random, foreground=1.0)
    assert images.shape == (len(ids), 1, 8, 8, 8)
    assert masks.shape == (len(ids), 8, 8, 8)
    assert (masks > 0).any((1, 2, 3)).all()
    anywhere = np.concatenate([cache.drawn(ids, random, foreground=0.0)[1] for _ in range(10)])
    corners = (anywhere > 0).any((1, 2, 3)).mean()
    assert corners < 1
    half = np.concatenate([cache.drawn(ids, random, foreground=0.5)[1] for _ in range(30)])
    assert (half > 0).any((1, 2, 3)).mean() == pytest.approx((1 + corners) / 2, abs=0.12)
    again = cache.drawn(ids, np.random.default_rng(3), foreground=1.0)
    assert_array_equal(again[0], images)


def test_patches_about_any_voxel_are_about_the_scan_and_not_its_padding(cache: SliceCache) -> None:
    case = cache.cases[0]
    rows = case.grid.box()[1]
    assert (rows.start, rows.stop) == (3, 22), "of 24"
    outlines, random = cache.outlines[: case.stop], np.random.default_rng(0)
    begins = crop_origins(outlines, 3000 * [case], (8, 8, 8), random, foreground=0.0)[:, 1]
    assert (begins == 0).mean() == pytest.approx(2 / 19, abs=0.02), "about rows 3 and 4; with the padding 5 of 24"


# Augmentation


def test_all_slices_of_a_patch_move_alike() -> None:
    plan = IDENTITY.model_copy(update={"affine": 1.0, "elastic": 1.0})
    warp = draw(plan, 3, size=(5, 16, 24), n=2)
    slices = torch.rand(2, 1, 16, 24)
    moved = warp.move(slices[:, :, None].expand(-1, -1, 5, -1, -1))
    assert warp.dims == 3
    for depth in range(5):
        assert_allclose(moved[:, :, depth], moved[:, :, 0], atol=1e-6)
    assert not torch.allclose(moved[:, :, 0], slices)


def test_a_patch_may_turn_back_to_front_and_its_mask_with_it() -> None:
    warp = draw(IDENTITY.model_copy(update={"flip": 1.0}), 0, size=(5, 8, 6), n=1)
    image, mask = torch.rand(1, 2, 5, 8, 6), torch.randint(0, 3, (1, 5, 8, 6))
    assert_array_equal(warp.move(image), image.flip(2, 3, 4))
    assert_array_equal(warp.move_masks(mask), mask.flip(1, 2, 3))
    assert draw(IDENTITY, 0, size=(5, 8, 6), n=1).move(image).equal(image)


def test_right_angles_turn_voxels_onto_voxels() -> None:
    plan, seen = IDENTITY.model_copy(update={"quarter_turn": 1.0}), set()
    image = torch.rand(1, 1, 3, 8, 8)
    for seed in range(24):
        moved = draw(plan, seed, size=(3, 8, 8), n=1).move(image)
        turns = [k for k in range(4) if torch.allclose(moved, torch.rot90(image, k, (3, 4)), atol=1e-5)]
        assert len(turns) == 1
        seen.update(turns)
    assert seen == {1, 2, 3}, "none is no turn"


def test_contrast_and_brightness_stay_within_what_is_asked() -> None:
    plan = IDENTITY.model_copy(update={"brightness_contrast": 1.0, "contrast": 0.0, "brightness": 0.1})
    warp = draw(plan, 1, size=(3, 8, 8), n=40)
    assert (warp.gain == 1).all()
    assert 0.05 < float(warp.offset.abs().max()) <= 0.1
    assert Augment().brightness_contrast == 0.2
