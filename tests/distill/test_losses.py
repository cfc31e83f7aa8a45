"""The losses against worked figures, other libraries and their own definitions. Sizes are unequal primes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import floats, integers
from monai.losses.dice import DiceLoss
from torch import Tensor
from torch.testing import assert_close

from distill.losses.attention import attention_printed, attention_transfer
from distill.losses.contrast import contrast_distance
from distill.losses.kl import soften, student_first_kl, teacher_first_kl
from study.dice import dice_loss, one_hot, soft_dice_loss
from study.lovasz import lovasz_softmax

near = partial(assert_close, atol=1e-6, rtol=0.0)


def some_probs(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(1)


def some_mask(seed: int, classes: int, *shape: int) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


def binary(foreground: list[list[float]]) -> Tensor:
    """Foreground probabilities as one slice of two classes, (1, 2, P)."""
    p = torch.tensor(foreground, dtype=torch.float64).flatten()[None]
    return torch.stack([1 - p, p], dim=1)


# --- Dice


@pytest.mark.parametrize(
    ("mask", "smooth", "expected"),
    [([[1, 0], [1, 0]], 0.0, 0.21052632), ([[1, 0], [1, 0]], 1.0, 0.16666667), ([[0, 0], [0, 0]], 1.0, 0.64285714)],
)
def test_dice_loss_worked(mask: list[list[int]], smooth: float, expected: float) -> None:
    loss = dice_loss(binary([[0.9, 0.2], [0.6, 0.1]]), torch.tensor([mask]).flatten(1), smooth=smooth)
    near(loss, torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_dice_loss_agrees_with_monai(classes: int) -> None:
    logits = torch.randn(3, classes, 7, 11, dtype=torch.float64)
    mask = some_mask(1, classes, 3, 7, 11)
    theirs = DiceLoss(
        include_background=False, softmax=True, to_onehot_y=True, smooth_nr=1, smooth_dr=1, reduction="none"
    )
    expected = theirs(logits, mask[:, None]).flatten(1).mean(1)
    assert_close(dice_loss(logits.softmax(1).flatten(2), mask.flatten(1)), expected)


def test_soft_dice_loss_worked() -> None:
    student, teachers = binary([[0.9, 0.2], [0.6, 0.1]]), binary([[0.7, 0.4], [0.6, 0.0]])
    assert_close(soft_dice_loss(student, teachers), torch.tensor([0.5 / 4.5], dtype=student.dtype))
    assert_close(soft_dice_loss(teachers, teachers), torch.zeros(1, dtype=student.dtype))


@pytest.mark.parametrize("classes", [2, 4])
def test_soft_dice_loss_of_a_mask_is_dice_loss(classes: int) -> None:
    probs, mask = torch.randn(3, classes, 77).softmax(1), torch.randint(classes, (3, 77))
    assert_close(soft_dice_loss(probs, one_hot(mask, classes).to(probs.dtype)), dice_loss(probs, mask))


def test_dice_loss_is_nothing_for_the_mask_itself_and_judges_each_slice_alone() -> None:
    mask = some_mask(2, 3, 2, 35)
    exact = one_hot(mask, 3).double()
    assert_close(dice_loss(exact, mask), torch.zeros(2, dtype=torch.float64))
    other = exact.clone()
    other[1] = 1 / 3
    loss = dice_loss(other, mask)
    assert loss[0] == 0
    assert loss[1] > 0.2


def test_one_hot_gives_an_unknown_pixel_no_class() -> None:
    assert not one_hot(torch.full((1, 6), 255), 3).any()


# --- Lovász-Softmax


def test_lovasz_worked() -> None:
    loss = lovasz_softmax(binary([[0.9, 0.2, 0.6, 0.7]]), torch.tensor([[1, 0, 1, 0]]))
    near(loss, torch.tensor([0.44583333], dtype=torch.float64))


def test_lovasz_counts_present_classes_only() -> None:
    loss = lovasz_softmax(binary([[0.7, 0.4, 0.2, 0.1]]), torch.tensor([[0, 0, 0, 0]]))
    near(loss, torch.tensor([0.35], dtype=torch.float64))


def berman(probs: Tensor, mask: Tensor) -> Tensor:
    """The authors' own loop over classes, one image: `lovasz_softmax_flat` and `lovasz_grad` of their code."""
    losses = []
    for c in range(probs.shape[0]):
        fg = (mask == c).double().flatten()
        if fg.sum() == 0:
            continue
        errors, perm = torch.sort((fg - probs[c].flatten()).abs(), 0, descending=True)
        gt = fg[perm]
        intersection = gt.sum() - gt.cumsum(0)
        union = gt.sum() + (1 - gt).cumsum(0)
        jaccard = 1.0 - intersection / union
        jaccard[1:] = jaccard[1:] - jaccard[:-1].clone()
        losses.append(torch.dot(errors, jaccard))
    return torch.stack(losses).mean()


@given(seed=integers(0, 10_000), classes=integers(2, 5), present=integers(1, 5))
def test_lovasz_agrees_with_the_authors_loop(seed: int, classes: int, present: int) -> None:
    probs, mask = some_probs(seed, 3, classes, 5, 7), some_mask(seed + 1, min(present, classes), 3, 5, 7)
    expected = torch.stack([berman(probs[n], mask[n]) for n in range(3)])
    assert_close(lovasz_softmax(probs.flatten(2), mask.flatten(1)), expected)


def test_lovasz_of_hard_predictions_is_one_minus_iou() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    guess = torch.tensor([[0, 1, 1, 1, 0]])  # IoU 2/4 of the foreground, 1/3 of the background
    loss = lovasz_softmax(one_hot(guess, 2).double(), mask)
    assert_close(loss, torch.tensor([(1 / 2 + 2 / 3) / 2], dtype=torch.float64))


def test_lovasz_gradient_is_that_of_finite_differences() -> None:
    probs = some_probs(3, 2, 3, 15).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: lovasz_softmax(p, some_mask(4, 3, 2, 15)), probs)


# --- KL

ZS = torch.tensor([[[[0.0, 1.0]], [[2.0, -1.0]]]], dtype=torch.float64)
ZT = torch.tensor([[[[1.0, 3.0]], [[0.0, -2.0]]]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("temperature", "teacher_first", "student_first"),
    [(1.0, 0.55348808, 0.53306051), (2.0, 0.78691677, 0.85288669), (4.0, 0.99914191, 1.03771626)],
)
def test_kl_worked(temperature: float, teacher_first: float, student_first: float) -> None:
    teacher = soften(ZT, temperature)
    got = torch.cat([kl(ZS, teacher, temperature=temperature) for kl in (teacher_first_kl, student_first_kl)])
    near(got, torch.tensor([teacher_first, student_first], dtype=torch.float64))


@pytest.mark.parametrize("kl", [teacher_first_kl, student_first_kl])
def test_kl_is_nothing_between_equals_and_finite_where_a_probability_vanishes(kl: object) -> None:
    assert callable(kl)
    logits = torch.randn(2, 3, 5, 7)
    assert_close(kl(logits, soften(logits)), torch.zeros(2), atol=1e-5, rtol=0.0)
    certain = one_hot(some_mask(5, 3, 2, 35), 3).float().view(2, 3, 5, 7)
    assert kl(logits, certain).isfinite().all()


def test_kl_to_a_mixture_pulls_as_the_weighted_teachers_do() -> None:
    student = torch.randn(2, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    teachers = [some_probs(seed, 2, 3, 5, 7) for seed in (6, 7)]
    mixed = teacher_first_kl(student, 0.3 * teachers[0] + 0.7 * teachers[1]).sum()
    apart = (0.3 * teacher_first_kl(student, teachers[0]) + 0.7 * teacher_first_kl(student, teachers[1])).sum()
    assert_close(torch.autograd.grad(mixed, student), torch.autograd.grad(apart, student))
    assert apart > mixed


# --- attention transfer


def test_attention_transfer_worked() -> None:
    student = torch.tensor([[[3.0, 2.0], [2.0, 4.0]]], dtype=torch.float64)
    teacher = torch.tensor([[[3.0, 2.0], [1.0, 5.0]]], dtype=torch.float64)
    near(attention_transfer(student, teacher), torch.tensor([0.36210481], dtype=torch.float64))
    for share in (1.0, 0.001):  # as printed it cannot tell near from far
        nearer = teacher + share * (student - teacher)
        near(attention_printed(nearer, teacher), torch.tensor([1.41421356], dtype=torch.float64))
    near(attention_printed(teacher, teacher), torch.zeros(1, dtype=torch.float64))


@given(gain=floats(0.01, 100))
def test_attention_transfer_ignores_the_gain_of_the_activations(gain: float) -> None:
    maps = torch.rand(2, 5, 7)
    assert_close(attention_transfer(maps, gain * maps), torch.zeros(2), atol=1e-5, rtol=0.0)


def test_attention_transfer_pulls_the_student_to_the_teacher() -> None:
    teacher = torch.rand(1, 5, 7)
    student = torch.rand(1, 5, 7).requires_grad_()
    before = attention_transfer(student, teacher)
    (pull,) = torch.autograd.grad(before.sum(), student)
    assert (attention_transfer(student - 0.01 * pull, teacher) < before).all()


def test_attention_transfer_resizes_the_teacher_and_takes_a_map_of_zeros() -> None:
    teacher = torch.rand(2, 3, 2)
    assert attention_transfer(torch.rand(2, 5, 7), teacher).shape == (2,)
    empty = torch.zeros(1, 5, 7, requires_grad=True)
    attention_transfer(empty, torch.rand(1, 5, 7)).sum().backward()  # type: ignore[no-untyped-call]
    assert empty.grad is not None
    assert empty.grad.isfinite().all()


# --- region contrast


def test_contrast_distance_worked() -> None:
    student = torch.tensor([[0.37139068, 0.94868330, 0.64594224]], dtype=torch.float64)
    teacher = torch.tensor([[0.47809144, 0.42426407, 0.76063883]], dtype=torch.float64)
    distance = contrast_distance(student, teacher, torch.ones(1, 3, dtype=torch.bool))
    near(distance, torch.tensor([0.54731699], dtype=torch.float64))
    binary = contrast_distance(torch.tensor([[0.75925660]]), torch.tensor([[0.88191710]]), torch.tensor([[True]]))
    near(binary, torch.tensor([0.12266050]))


def test_contrast_distance_passes_over_pairs_that_one_net_could_not_measure() -> None:
    student = torch.zeros(2, 3, requires_grad=True)
    valid = torch.tensor([[True, False, True], [False, False, False]])
    distance = contrast_distance(student, torch.tensor([[3.0, 9.0, 4.0], [1.0, 2.0, 3.0]]), valid)
    assert_close(distance, torch.tensor([5.0, 0.0]))
    distance.sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert_close(student.grad, torch.tensor([[-0.6, 0.0, -0.8], [0.0, 0.0, 0.0]]))
