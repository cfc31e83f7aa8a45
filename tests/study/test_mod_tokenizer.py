"""The tokenizer's losses against worked figures, and what they may and may not depend on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis.strategies import floats
from torch import Tensor
from torch.testing import assert_close

from study.learners.tokenizer import Heads, Tokenizer, Warmth, moved, target, token_loss, warmth
from study.mod_table import SMALL_HEADS, Mod

TEACHER = torch.tensor([[0.10, 0.20, 0.15], [0, 0.1, 0], [0.2, 0.2, 0]], dtype=torch.float64)
CENTRE = torch.tensor([0.05, 0.10, 0.02], dtype=torch.float64)
STUDENT = torch.tensor([[0.3, 0.1, 0.4], [0.2, 0.2, 0.2], [0.5, 0, 0.1]], dtype=torch.float64)
HIDDEN = torch.tensor([True, False, True])
WARM = Warmth(0.07, still=False)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The suite shares its cores, and these maps are too small for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(**changed: object) -> tuple[Tokenizer, Tensor, Tensor, Tensor]:
    """A tokenizer of 5 channels; maps of 2 × 3 masked views and of both views of 3 crops; hidden cells."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(5, Mod.model_validate({"heads": (13, 11, 7)} | changed))
    hidden = torch.zeros(6, 2, 3, 2, dtype=torch.bool)
    for cells in hidden.flatten(1):
        cells[torch.randperm(12)[:7]] = True
    return tokenizer, torch.randn(6, 5, 2, 3, 2), torch.randn(6, 5, 2, 3, 2), hidden


# --- worked figures


@pytest.mark.parametrize(
    ("temperature", "each", "mean"),
    [(0.07, [1.502730, 1.098612, 1.799703], 1.651217), (0.04, [1.314636, 1.098612, 1.169899], 1.242267)],
)
def test_token_loss_worked(temperature: float, each: list[float], mean: float) -> None:
    losses = token_loss(STUDENT, target(TEACHER, CENTRE, temperature), 0.1)
    assert_close(losses, torch.tensor(each, dtype=torch.float64), atol=1e-6, rtol=0)
    assert float(losses[HIDDEN].mean()) == pytest.approx(mean, abs=1e-6)
    if temperature == 0.07:
        assert float((losses * HIDDEN).sum() / 3) == pytest.approx(1.100811, abs=1e-6), "as Eq. 1 divides"


def test_target_and_gradient_worked() -> None:
    probs = target(TEACHER, CENTRE, 0.07)
    assert_close(probs[0], torch.tensor([0.161853, 0.330622, 0.507525], dtype=torch.float64), atol=1e-6, rtol=0)
    student = STUDENT[0].clone().requires_grad_()
    torch.autograd.backward(token_loss(student, probs[0], 0.1))
    expected = torch.tensor([0.976434, -2.955027, 1.978593], dtype=torch.float64)
    assert_close(student.grad, expected, atol=1e-6, rtol=0)


def test_next_centre_and_eq_3_worked() -> None:
    expected = torch.tensor([0.055, 0.106667, 0.023], dtype=torch.float64)
    assert_close(moved(CENTRE, TEACHER, 0.9), expected, atol=1e-6, rtol=0)
    table = Mod()
    assert table.patch * 0.8 + table.token * 0.4 == pytest.approx(1.4)


# --- properties


@given(shift=floats(-30, 30))
@settings(max_examples=20)
def test_a_constant_on_the_students_logits_or_on_teacher_and_centre_alike_changes_nothing(shift: float) -> None:
    loss = token_loss(STUDENT, target(TEACHER, CENTRE, 0.04))
    assert_close(token_loss(STUDENT + shift, target(TEACHER, CENTRE, 0.04)), loss)
    assert_close(token_loss(STUDENT, target(TEACHER + shift, CENTRE + shift, 0.04)), loss)


def test_a_teacher_equal_to_the_student_leaves_the_entropy() -> None:
    tokenizer, maps, _, hidden = small(token_temperature=0.1)
    terms = tokenizer(maps, maps.roll(0), torch.ones_like(hidden), Warmth(0.1, still=False))
    _, patches = tokenizer.heads(maps.mean((2, 3, 4)), maps.flatten(2).transpose(1, 2).flatten(0, 1))
    probs = (patches / 0.1).softmax(1)
    assert_close(terms["patch"], -(probs * probs.log()).sum(1).mean())


def test_class_tokens_are_crossed_and_patches_are_not() -> None:
    tokenizer, _, teacher, hidden = small(patch_temperature=(0.1, 0.1), token_temperature=0.1)
    alike = torch.cat([teacher[:3], teacher[:3]])  # both views the same: crossing makes no difference
    for maps, same in ((alike, True), (teacher, False)):
        raw_token, raw_patch = tokenizer.average(
            maps.mean((2, 3, 4)), maps.flatten(2).transpose(1, 2)[hidden.flatten(1)]
        )
        terms = tokenizer.eval()(maps, maps, hidden, Warmth(0.1, still=False))
        entropy = [token_loss(raw, target(raw, torch.zeros(13), 0.1)).mean() for raw in (raw_patch, raw_token)]
        assert_close(terms["patch"], entropy[0])
        assert torch.isclose(terms["token"], entropy[1]).item() is same


def test_one_masked_view_is_the_first_of_two() -> None:
    tokenizer, student, teacher, hidden = small()
    tokenizer.eval()
    both, first = tokenizer(student, teacher, hidden, WARM), tokenizer(student[:3], teacher, hidden[:3], WARM)
    swapped = tokenizer(student[3:], teacher.roll(3, 0), hidden[3:], WARM)
    for name in both:
        assert_close(both[name], (first[name] + swapped[name]) / 2)


def test_a_token_that_is_not_hidden_counts_for_no_patch() -> None:
    tokenizer, student, teacher, hidden = small()
    before = tokenizer.eval()(student, teacher, hidden, WARM)["patch"]
    moved_on = torch.where(hidden[:, None], student, student + 3)
    assert_close(tokenizer(moved_on, teacher, hidden, WARM)["patch"], before, rtol=0, atol=0)
    assert not torch.isclose(tokenizer(student + 3, teacher, hidden, WARM)["patch"], before)


def test_the_centre_tends_to_the_mean_of_a_repeated_batch_and_rests_in_evaluation() -> None:
    tokenizer, student, teacher, hidden = small()
    for _ in range(200):
        tokenizer(student, teacher, hidden, WARM)
    token, patch = tokenizer.average(teacher.mean((2, 3, 4)), teacher.flatten(2).transpose(1, 2).flatten(0, 1))
    assert_close(tokenizer.centre_token, token.mean(0))
    assert_close(tokenizer.centre_patch, patch.mean(0))
    before = tokenizer.centre_token.clone()
    tokenizer.eval()(student + 1, teacher + 1, hidden, WARM)
    assert torch.equal(tokenizer.centre_token, before)


def test_the_centre_moves_after_the_loss() -> None:
    tokenizer, student, teacher, hidden = small(centre_momentum=0.0)
    first = tokenizer(student, teacher, hidden, WARM)
    tokenizer.centre_patch.zero_()
    tokenizer.centre_token.zero_()
    assert_close(tokenizer(student, teacher, hidden, WARM), first, rtol=0, atol=0)
    assert not torch.isclose(tokenizer(student, teacher, hidden, WARM)["patch"], first["patch"])


def test_the_class_token_teaches_patches_where_that_is_asked_for() -> None:
    tokenizer, student, teacher, hidden = small()
    without = tokenizer.eval()(student, teacher, hidden, WARM)
    tokenizer.table = tokenizer.table.model_copy(update={"class_on_patches": True})
    terms = tokenizer(student, teacher, hidden, WARM)
    token, _ = tokenizer.average(teacher.mean((2, 3, 4)), teacher.flatten(2).transpose(1, 2)[:, 0])
    probs, each = target(token, tokenizer.centre_token, 0.04).roll(3, 0), []
    for n in range(6):
        cells = student[n].flatten(1).T[hidden[n].flatten()]
        each.append(token_loss(tokenizer.heads(cells, cells)[1], probs[n]).mean())
    assert_close(terms["token"] - without["token"], torch.stack(each).mean())
    assert_close(terms["patch"], without["patch"])


def test_centres_of_several_processes_are_one(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        assert_close(moved(CENTRE, TEACHER, 0.9)[0], torch.tensor(0.055, dtype=torch.float64))
    finally:
        dist.destroy_process_group()


# --- heads and schedules


@pytest.mark.parametrize(
    ("c", "sizes", "shared", "count"),
    [
        (768, (8192, 2048, 256), True, 8_392_960),
        (768, (8192, 2048, 256), False, 8_392_960 + 2_097_152),
        (128, SMALL_HEADS, True, 180_800),
        (128, (8192, 2048, 256), True, 7_082_240),
    ],
)
def test_parameters_of_the_heads(c: int, sizes: tuple[int, int, int], shared: bool, count: int) -> None:
    with torch.device("meta"):
        heads = Heads(c, sizes, shared=shared)
    assert sum(weight.numel() for weight in heads.parameters()) == count


def test_logits_are_cosines_and_a_layer_apart_tells_patches_from_class_tokens() -> None:
    tokens = torch.randn(3, 5)
    for shared in (True, False):
        token, patch = Heads(5, (13, 11, 7), shared=shared)(tokens, tokens)
        assert token.shape == patch.shape == (3, 13)
        assert float(token.detach().abs().max()) <= 1
        assert torch.allclose(token, patch, atol=1e-5) is shared


def test_a_still_last_layer_gets_no_gradient_and_the_rest_does() -> None:
    tokens = torch.randn(3, 5)
    heads = Heads(5, (13, 11, 7))
    torch.autograd.backward(torch.cat(heads(tokens, tokens, still=True)).sum())
    assert heads.get_parameter("prototypes.0").grad is None
    assert heads.get_parameter("mlp.0.weight").grad is not None


def test_temperature_warms_and_the_last_layer_wakes() -> None:
    table = Mod(warm_up=0.1, still=0.01)
    assert [warmth(step, 1000, table).patch_temperature for step in (0, 50, 100, 999)] == pytest.approx(
        [0.04, 0.055, 0.07, 0.07]
    )
    assert [warmth(step, 1000, table).still for step in (0, 9, 10)] == [True, True, False]
    assert warmth(0, 1000, Mod(warm_up=0, still=0)) == Warmth(0.07, still=False)
