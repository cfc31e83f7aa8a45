"""Which slices a step sees, and that everything on a slice is moved with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from distill.batches import TrainingBatches, plain
from distill.schemes.base import TeacherBatch
from distill.sources import Ids
from imaging.augment import IDENTITY, Augment
from imaging.slices import SliceCache

if TYPE_CHECKING:
    from tests.distill.conftest import MadeRun

MakeRun = Callable[..., "MadeRun"]


@dataclass
class Oracle:
    """Two teachers who say what the image shows: logits and maps that are its intensities."""

    slices: SliceCache
    sites = ("north", "east")

    def answers(self, ids: Ids) -> TeacherBatch:
        images = torch.from_numpy(self.slices.images[ids]).float()[:, 0]
        logits = torch.stack([images, 2 * images], dim=1)
        maps = torch.nn.functional.avg_pool2d(images[:, None], 2)[:, 0]
        rc = torch.arange(len(ids) * 2.0).view(-1, 2, 1)
        return TeacherBatch(
            torch.stack([logits, -logits], dim=1),
            torch.ones(len(ids), 2, dtype=torch.bool),
            [
                {"attention/encoder": one, "contrast/encoder": rc[:, j], "valid/decoder": rc[:, j] > 1}
                for j, one in enumerate((images, maps))
            ],
            self.sites,
        )


def batches(
    run: MadeRun, *, size: int = 8, seed: int = 3, augment: Augment = IDENTITY, share: float = 0.5
) -> TrainingBatches:
    ids = np.arange(35, dtype=np.int64)
    return TrainingBatches(run.slices, ids, Oracle(run.slices), seed, size, share, augment)


def test_a_step_is_the_same_whatever_was_asked_before(make_run: MakeRun) -> None:
    run = make_run(answered=False)
    first, second = batches(run, augment=Augment()), batches(run, augment=Augment())
    later = [first[step] for step in (0, 1, 5)][-1]
    again = second[5]
    assert_close(vars(later)["images"], again.images, rtol=0, atol=0)
    assert later.teachers is not None
    assert again.teachers is not None
    assert_close(later.teachers.logits, again.teachers.logits, rtol=0, atol=0)
    other = batches(run, seed=4, augment=Augment())[5]
    assert not torch.equal(later.images, other.images)


@pytest.mark.parametrize(("share", "labelled"), [(0.5, 4), (0.25, 2), (1.0, 8), (0.0, 0)])
def test_the_labelled_share_of_a_batch_has_masks(share: float, labelled: int, make_run: MakeRun) -> None:
    batch = batches(make_run(answered=False), share=share)[2]
    assert int(batch.labelled.sum()) == labelled
    assert (batch.masks[~batch.labelled] == 255).all()
    assert (batch.masks[batch.labelled] < 3).all()


def test_no_slice_comes_again_before_all_others_of_its_kind(make_run: MakeRun) -> None:
    drawn = batches(make_run(answered=False), size=10)  # 5 of 25 labelled, 5 of 10 unlabelled slices a step
    ids = np.stack([drawn.drawn(step) for step in range(10)])
    assert set(ids[:5, :5].ravel()) == set(range(25))
    assert set(ids[5:, :5].ravel()) == set(range(25))
    assert not np.array_equal(ids[:5, :5], ids[5:, :5])
    for pair in range(5):
        assert set(ids[2 * pair : 2 * pair + 2, 5:].ravel()) == set(range(25, 35))


def test_where_all_slices_have_masks_a_batch_is_drawn_from_all(make_run: MakeRun) -> None:
    drawn = batches(make_run(masks=7, answered=False), size=7)
    assert sorted(np.concatenate([drawn.drawn(step) for step in range(5)])) == list(range(35))


def test_flips_move_everything_alike_and_exactly(make_run: MakeRun) -> None:
    run = make_run(answered=False)
    flip = IDENTITY.model_copy(update={"flip": 1.0})
    made = batches(run, augment=flip)
    moved, still = made[0], plain(run.slices, made.teachers, np.sort(made.drawn(0)))
    assert moved.teachers is not None
    assert still.teachers is not None
    assert_close(moved.images, still.images.flip(2, 3), rtol=0, atol=0)
    assert_close(moved.masks, still.masks.flip(1, 2))
    assert_close(moved.teachers.logits, still.teachers.logits.flip(3, 4), rtol=0, atol=0)
    for after, before in zip(moved.teachers.told, still.teachers.told, strict=True):
        assert_close(after["attention/encoder"], before["attention/encoder"].flip(1, 2), rtol=0, atol=0)
        for name in ("contrast/encoder", "valid/decoder"):
            assert_close(after[name], before[name])


def test_other_moves_keep_answers_on_what_they_are_about(make_run: MakeRun) -> None:
    run = make_run(answered=False)
    bend = Augment(flip=0.5, affine=1, elastic=0.5, grid=0.5, optical=0.5, brightness_contrast=0, dropout=0)
    made = batches(run, size=16, augment=bend)
    moved, still = made[0], plain(run.slices, made.teachers, np.sort(made.drawn(0)))
    assert (moved.images - still.images).abs().mean() > 0.1
    assert moved.teachers is not None
    assert_close(moved.teachers.logits[:, 0, 1], 2 * moved.images[:, 0], rtol=1e-4, atol=1e-4)
    assert_close(moved.teachers.logits[:, 1], -moved.teachers.logits[:, 0])
    assert_close(moved.teachers.told[0]["attention/encoder"], moved.images[:, 0], rtol=1e-4, atol=1e-4)
    background, shell = (float(still.images[:, 0][still.masks == label].mean()) for label in (0, 1))
    bright = moved.images[:, 0] > (background + shell) / 2
    assert (bright == (moved.masks > 0))[moved.labelled].float().mean() > 0.95


def test_intensity_changes_touch_the_image_only(make_run: MakeRun) -> None:
    run = make_run(answered=False)
    shade = IDENTITY.model_copy(update={"brightness_contrast": 1.0, "dropout": 1.0})
    made = batches(run, augment=shade)
    moved, still = made[0], plain(run.slices, made.teachers, np.sort(made.drawn(0)))
    assert moved.teachers is not None
    assert still.teachers is not None
    assert not torch.equal(moved.images, still.images)
    assert_close(moved.masks, still.masks)
    assert_close(moved.teachers.logits, still.teachers.logits)
    assert_close(moved.teachers.told, still.teachers.told)


def test_without_teachers_a_batch_is_slices_only(make_run: MakeRun) -> None:
    run = make_run(answered=False)
    assert plain(run.slices, None, np.arange(3)).teachers is None
