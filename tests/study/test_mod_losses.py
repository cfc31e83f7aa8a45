"""Dice, focal loss, rebuilt voxels and moving averages against worked figures. Sizes are unequal primes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import integers
from monai.losses.dice import DiceLoss
from monai.losses.focal_loss import FocalLoss
from torch import nn
from torch.testing import assert_close

from study.learners.ema import follow, follower, momentum
from study.learners.predictor import Predictor, masked_l1
from study.learners.regions import (
    checked,
    class_dice,
    class_focal,
    region_logits,
    regions_of,
    segmentation,
    sigmoid_dice,
    sigmoid_focal,
)

double = partial(torch.tensor, dtype=torch.float64)
LOGITS, TARGET = double([[[0, 2, -2, 1]]]), double([[[1, 1, 0, 0]]])
TUMOUR = ((1, 3), (1, 2, 3), (3,))
"""Tumour core, whole tumour and enhancing tumour of exclusive classes."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The suite shares its cores, and these maps are too small for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- the loss on masks


def test_dice_and_focal_worked() -> None:
    assert float(sigmoid_dice(LOGITS, TARGET)) == pytest.approx(0.347306, abs=2e-6)
    assert float(sigmoid_focal(LOGITS, TARGET)) == pytest.approx(0.219691, abs=1e-6)
    each = [float(sigmoid_focal(LOGITS[..., i], TARGET[..., i])) for i in range(4)]
    assert each == pytest.approx([0.173287, 0.001804, 0.001804, 0.701868], abs=1e-6)


def test_channels_by_sigmoid_agree_with_monai_as_the_published_logs_call_it() -> None:
    logits = torch.randn(2, 3, 5, 7, 11, dtype=torch.float64)
    target = torch.rand(2, 3, 5, 7, 11) < 0.3
    theirs = DiceLoss(sigmoid=True, smooth_nr=0, smooth_dr=1e-5)
    assert_close(sigmoid_dice(logits, target), theirs(logits, target.double()))
    assert_close(sigmoid_focal(logits, target), FocalLoss(gamma=2)(logits, target.double()).double(), rtol=1e-5, atol=0)


def test_exclusive_classes_agree_with_monai() -> None:
    logits, masks = torch.randn(2, 3, 5, 7, 11, dtype=torch.float64), torch.randint(3, (2, 5, 7, 11))
    dice = DiceLoss(softmax=True, to_onehot_y=True, include_background=False, smooth_nr=0, smooth_dr=1e-5)
    assert_close(class_dice(logits, masks), dice(logits, masks[:, None]))
    focal = FocalLoss(gamma=2, use_softmax=True, to_onehot_y=True)  # a mean over classes too, most of them 0
    assert_close(class_focal(logits, masks), 3 * focal(logits, masks[:, None]).double(), rtol=1e-5, atol=0)


def test_an_absent_class_costs_one_and_pulls_nowhere() -> None:
    logits = torch.randn(1, 2, 3, 5, requires_grad=True)
    loss = class_dice(logits, torch.zeros(1, 3, 5, dtype=torch.int64))
    torch.autograd.backward(loss)
    assert float(loss.detach()) == pytest.approx(1)
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) == 0


def test_regions_are_summed_probabilities_even_where_these_would_vanish() -> None:
    logits = torch.randn(2, 4, 3, 5, 7, dtype=torch.float64)
    probs = logits.softmax(1)
    summed = torch.stack([probs[:, list(region)].sum(1) for region in TUMOUR], dim=1)
    assert_close(region_logits(logits, TUMOUR).sigmoid(), summed)
    far = torch.tensor([[0.0, -300.0, -500.0, -500.0]], requires_grad=True)[..., None]
    assert_close(region_logits(far, TUMOUR), torch.tensor([[-300.0, -300.0, -500.0]])[..., None])
    assert torch.isfinite(torch.autograd.grad(region_logits(far, TUMOUR).sum(), far)[0]).all()


def test_regions_of_a_mask_overlap() -> None:
    masks = torch.tensor([[0, 1, 2, 3]])
    assert regions_of(masks, TUMOUR).int().tolist() == [[[0, 1, 0, 1], [0, 1, 1, 1], [0, 0, 0, 1]]]
    terms = segmentation(50 * torch.eye(4)[None].transpose(1, 2), masks, TUMOUR)
    assert {name: round(float(term), 4) for name, term in terms.items()} == {"dice": 0.0, "focal": 0.0}


@pytest.mark.parametrize("region", [(), (0, 1, 2, 3), (1, 1), (4,), (-1, 2)])
def test_a_region_of_no_or_all_or_unknown_classes_is_refused(region: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="some of the classes 0 to 3, not all"):
        checked((region,), 4)


# --- what is rebuilt

PATCHES = double([[[1, 2], [3, 4], [5, 6]]])
REBUILT = double([[[1.5, 2], [0, 4], [5, 9]]])


def test_masked_l1_worked() -> None:
    assert float(masked_l1(REBUILT, PATCHES, torch.tensor([[True, False, True]]))) == 0.875
    assert float(masked_l1(REBUILT, PATCHES, torch.tensor([[False, True, False]]))) == 1.5, "the other reading"
    literal = ((REBUILT - PATCHES).abs().sum(2) * double([[1, 0, 1]])).sum() / 3
    assert float(literal) == pytest.approx(1.166667, abs=1e-6), "as Eq. 4 divides"


@given(seed=integers(0, 1000))
def test_a_voxel_that_is_not_hidden_counts_for_nothing(seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    hidden = torch.rand(2, 7, generator=draws) < 0.6
    hidden[:, 0] = True
    rebuilt, patches = torch.randn(2, 2, 7, 5, generator=draws)
    other = torch.where(hidden[..., None], rebuilt, torch.randn(2, 7, 5, generator=draws))
    assert_close(masked_l1(other, patches, hidden), masked_l1(rebuilt, patches, hidden), rtol=0, atol=0)


@pytest.mark.parametrize("decoder", ["transformer", "conv"])
@pytest.mark.parametrize("grid", [(2, 3, 5), (3, 5)])
def test_the_predictor_gives_the_voxels_of_every_cell_and_knows_their_place(
    grid: tuple[int, ...], decoder: str
) -> None:
    predictor = Predictor(12, grid, 9, decoder=decoder)
    tokens = 30 if len(grid) == 3 else 15
    out = predictor(torch.randn(2, 12, *grid))
    assert out.shape == (2, tokens, 9)
    flat = predictor(torch.ones(1, 12, *grid)).detach()[0]
    assert float(flat.std(0).min()) > 0, "equal tokens at other places are rebuilt otherwise"
    torch.autograd.backward(out.sum())
    assert all(weight.grad is not None for weight in predictor.parameters())


# --- moving averages


def test_momentum_worked() -> None:
    values = [momentum(step, 100) for step in (0, 25, 50, 75, 100)]
    assert values == pytest.approx([0.996, 0.996586, 0.998, 0.999414, 1.0], abs=5e-7)


def test_average_worked() -> None:
    own, average = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(own.weight, 2.0)
    nn.init.constant_(average.weight, 1.0)
    for _ in range(3):
        follow(average, own, 0.996)
    assert float(average.weight.detach()) == pytest.approx(1.011952064, abs=1e-12)


def test_all_of_itself_keeps_it_and_none_makes_it_the_other_statistics_included() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv3d(1, 3, 1), nn.BatchNorm3d(3)
    own = nn.Sequential(conv, norm)
    average = follower(own)
    assert not any(weight.requires_grad for weight in average.parameters())
    own(torch.randn(2, 1, 3, 5, 7))
    nn.init.normal_(conv.weight)
    before = {name: value.clone() for name, value in average.state_dict().items()}
    follow(average, own, 1.0)
    after = average.state_dict()
    assert int(after.pop("1.num_batches_tracked")) == 1, "counts are no averages"
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    follow(average, own, 0.5)
    assert_close(average.state_dict()["1.running_mean"], own.state_dict()["1.running_mean"] / 2)
    follow(average, own, 0.0)
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in average.state_dict().items())
