"""Weights of teachers a slice: the worked figures, the limits, and what a missing answer or mask does."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import floats, lists, sampled_from
from torch import Tensor, nn
from torch.testing import assert_close

from distill.losses.kl import teacher_first_kl
from distill.schemes.base import TeacherBatch
from distill.weights import (
    LAWS,
    Judge,
    agreement,
    agreement_softmax,
    as_printed,
    best_of,
    confidence,
    dissent,
    mixture,
    teacher_losses,
    track_record,
)
from study.dice import dice_loss
from study.distill_tables import Law, Weights

near = partial(assert_close, atol=1e-6, rtol=0.0)
JUDGES: dict[Law, Judge] = {
    "agreement": agreement,
    "as-printed": as_printed,
    "agreement-softmax": agreement_softmax,
    "best-of": best_of,
    "confidence": confidence,
}


def weights(law: Law, losses: list[float], answered: list[bool] | None = None) -> Tensor:
    there = torch.tensor([answered if answered is not None else [True] * len(losses)])
    return JUDGES[law](torch.tensor([losses], dtype=torch.float64), there)[0]


@pytest.mark.parametrize(
    ("law", "losses", "expected"),
    [
        ("as-printed", [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        ("agreement", [0.2, 0.3, 0.5], [0.4, 0.35, 0.25]),
        ("agreement-softmax", [0.2, 0.3, 0.5], [0.70538451, 0.25949646, 0.03511903]),
        ("agreement", [0.1, 0.9], [0.9, 0.1]),
        ("as-printed", [0.0, 0.0], [0.5, 0.5]),
        ("confidence", [0.2, 1.0, 2.0], [0.44609274, 0.38002718, 0.17388008]),
        ("best-of", [0.5, 0.2, 0.2], [0.0, 0.5, 0.5]),
        ("agreement", [1.0, 1.0], [0.5, 0.5]),
    ],
)
def test_weights_worked(law: Law, losses: list[float], expected: list[float]) -> None:
    near(weights(law, losses), torch.tensor(expected, dtype=torch.float64))


@given(law=sampled_from(sorted(JUDGES)), losses=lists(floats(0, 1), min_size=1, max_size=5))
def test_every_law_shares_out_one(law: Law, losses: list[float]) -> None:
    got = weights(law, losses)
    assert_close(got.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert (got >= 0).all()


@pytest.mark.parametrize("law", sorted(JUDGES))
@pytest.mark.parametrize("loss", [0.0, 0.4, 1.0])
def test_one_teacher_gets_all(law: Law, loss: float) -> None:
    assert weights(law, [loss]).tolist() == [1.0]


@pytest.mark.parametrize("law", sorted(JUDGES))
def test_a_missing_answer_weighs_nothing_and_the_others_fill_its_place(law: Law) -> None:
    got = weights(law, [0.2, 0.0, 0.5], [True, False, True])
    assert_close(got[[0, 2]], weights(law, [0.2, 0.5]))
    assert got[1] == 0
    assert weights(law, [0.2, 0.5], [False, False]).tolist() == [0.0, 0.0]


def test_the_mixture_is_the_weighted_mean_of_probabilities() -> None:
    probs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], dtype=torch.float64)[None, :, :, None, None]
    w = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    mixed = mixture(probs, w)
    near(mixed.flatten(), torch.tensor([0.46, 0.54], dtype=torch.float64))
    even = torch.zeros(1, 2, 1, 1, dtype=torch.float64)
    kl = teacher_first_kl(even, mixed, temperature=1.0)
    apart = sum(float(w[0, j]) * teacher_first_kl(even, probs[:, j], temperature=1.0) for j in range(3))
    near(torch.stack([kl, torch.as_tensor(apart)]).flatten(), torch.tensor([0.00320342, 0.17602587]).double())


def three_teachers() -> tuple[Tensor, Tensor]:
    """Probabilities of three teachers on two slices of three classes, (2, 3, 3, 5, 7), and a mask."""
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(2, 3, 3, 5, 7, generator=generator).mul(3).softmax(2)
    return probs, torch.randint(3, (2, 5, 7), generator=generator)


def test_a_labelled_slice_is_judged_by_its_mask_and_the_other_by_the_mixture() -> None:
    probs, mask = three_teachers()
    everyone = torch.ones(2, 3, dtype=torch.bool)
    mask[1] = 255
    losses = teacher_losses(probs, mask, torch.tensor([True, False]), everyone)
    together = probs[1].mean(0)
    for j in range(3):
        assert_close(losses[0, j], dice_loss(probs[:1, j].flatten(2), mask[:1].flatten(1))[0])
        dice = [
            (2 * (p * m).sum() + 1) / ((p * p).sum() + (m * m).sum() + 1)
            for p, m in zip(probs[1, j], together, strict=True)
        ]
        assert_close(losses[1, j], 1 - torch.stack(dice).mean())


def test_teachers_that_say_the_same_do_not_dissent() -> None:
    probs, _ = three_teachers()
    same = probs[:, :1].expand(-1, 3, -1, -1, -1)
    assert_close(dissent(same, torch.ones(2, 3, dtype=torch.bool)), torch.zeros(2, 3), atol=1e-6, rtol=0.0)


def test_one_that_finds_a_small_organ_alone_is_not_silenced_by_two_that_miss_it() -> None:
    organ = torch.zeros(20, 20)
    organ[8:12, 8:12] = 1
    foreground = torch.stack([0.98 * organ, 0.001 * torch.ones(20, 20), 0.03 * torch.ones(20, 20)])
    probs = torch.stack([1 - foreground, foreground], dim=1)[None]
    there = torch.ones(1, 3, dtype=torch.bool)
    weights = agreement(dissent(probs, there), there)
    assert weights[0, 0] > 1 / 3
    assert weights.min() > 0.2


def test_an_absent_teacher_has_no_say_in_the_mixture() -> None:
    probs, _ = three_teachers()
    answered = torch.tensor([[True, True, True], [False, True, False]])
    assert_close(dissent(probs, answered)[1, 1], torch.tensor(0.0), atol=1e-6, rtol=0.0)
    assert_close(dissent(probs, answered)[0], dissent(probs[:1], answered[:1])[0])


def test_a_record_is_how_much_worse_than_the_others_a_teacher_outlined_what_it_answered() -> None:
    probs, mask = three_teachers()
    answered = torch.tensor([[True, True, False], [True, False, False]])
    parts = [(TeacherBatch(probs[n : n + 1].log(), answered[n : n + 1]), mask[n : n + 1]) for n in range(2)]
    outlines = nn.functional.one_hot(probs.argmax(2), probs.shape[2]).movedim(-1, 2).float()
    losses = dice_loss(outlines.flatten(3), mask.flatten(1)[:, None])[0]
    usual = losses[:2].mean()
    expected = torch.stack([losses[0] - usual, losses[1] - usual, torch.tensor(0.0)])
    assert losses[0] != losses[1]
    assert_close(track_record(parts), expected)


def test_a_record_is_no_better_for_easy_slices_or_a_clean_background() -> None:
    """A: finds the organ, with a trace of probability all over. B: half the organ, and a background of zeros."""
    mask = torch.zeros(4, 16, 16, dtype=torch.int64)
    mask[2:, 4:12, 4:12] = 1
    a, b = torch.full((4, 16, 16), 0.01), torch.full((4, 16, 16), 1e-6)
    a[mask == 1], b[2:, 4:8, 4:12] = 0.99, 0.99
    organ = torch.stack([a, b], dim=1)
    logits = torch.stack([1 - organ, organ], dim=2).log()
    everywhere, half = torch.ones(4, 2, dtype=torch.bool), torch.tensor([[True, True]] * 2 + [[True, False]] * 2)
    good, bad = track_record([(TeacherBatch(logits, everywhere), mask)])
    assert good < bad
    twins = TeacherBatch(logits[:, [0, 0]], half)
    assert_close(track_record([(twins, mask)]), torch.zeros(2))


def test_a_record_counts_as_much_as_dissent_where_a_slice_has_no_mask_and_nowhere_else() -> None:
    probs, mask = three_teachers()
    labelled, answered = torch.tensor([True, False]), torch.ones(2, 3, dtype=torch.bool)
    teachers = TeacherBatch(probs.log(), answered, record=torch.tensor([0.1, 0.6, 0.2]))
    weights = LAWS["record"](teachers, mask, labelled, Weights(tau=0.3))
    without = LAWS["agreement-softmax"](teachers, mask, labelled, Weights(tau=0.3))
    assert_close(weights[0], without[0])
    assert_close(weights[1], (-(dissent(probs, answered)[1] + torch.tensor([0.1, 0.6, 0.2])) / 0.3).softmax(0))
    assert_close(LAWS["record"](replace(teachers, record=None), mask, labelled, Weights(tau=0.3)), without)


def test_weights_carry_no_gradient() -> None:
    probs, mask = three_teachers()
    probs.requires_grad_()
    assert not teacher_losses(
        probs, mask, torch.ones(2, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    ).requires_grad
