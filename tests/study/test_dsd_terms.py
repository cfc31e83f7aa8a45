"""The worked numbers of DSD's equations, in float64, against torch, MONAI and by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import floats, integers
from monai.losses.dice import DiceCELoss
from torch import Tensor
from torch.testing import assert_close

from models.bottleneck import split
from study.dsd_table import Dsd, Variant
from study.learners.dsd_terms import DECODER, ENCODER, Target, dce, divergence, side_term, softened, terms_of

STAGES = ("D1", "D2", "D3", "D4", "E1", "E2", "E3", "E4")
MASKS = torch.tensor([[0, 1, 2, 1]])
TEACHER, STUDENT = torch.tensor([2.0, 0, -1]).double(), torch.tensor([0.0, 1, 0]).double()


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def near(value: Tensor, expected: float) -> None:
    """Equal as far as the expected value is printed."""
    assert_close(value, number(expected), rtol=0, atol=6e-7)


def made(t: int) -> Tensor:
    """Logits of 3 classes at 4 voxels, (1, 3, 4)."""
    k, p = torch.arange(3.0).double()[:, None], torch.arange(4.0).double()
    return torch.sin(1 + 7 * t + 3 * k + p)[None]


def outputs() -> dict[str, Tensor]:
    """Logits of each stage, with gradients, in the order that heads give them."""
    return {name: split(made(t)).requires_grad_() for t, name in enumerate(STAGES, start=1)}


def terms(table: Dsd) -> dict[str, Tensor]:
    return terms_of(made(0), outputs(), MASKS, table)


def kl(teacher: Tensor, student: Tensor, temperature: float = 3) -> Tensor:
    """Of one voxel's logits (K,), without tau²."""
    student, teacher = (softened(logits[None, :, None], temperature) for logits in (student, teacher))
    return divergence([student], teacher)


@pytest.mark.parametrize(
    ("temperature", "value", "scaled"),
    [(1, 0.912983, 0.912983), (2, 0.272806, 1.091222), (3, 0.122071, 1.098641), (4, 0.068001, 1.088009)],
)
def test_kl_of_one_voxel(temperature: float, value: float, scaled: float) -> None:
    found = kl(TEACHER, STUDENT, temperature)
    near(found, value)
    near(temperature**2 * found, scaled)


def test_kl_has_the_teacher_first() -> None:
    near(kl(STUDENT, TEACHER), 0.114979)
    p, q = (TEACHER / 3).softmax(0), (STUDENT / 3).softmax(0)
    assert_close(kl(TEACHER, STUDENT), torch.nn.functional.kl_div(q.log(), p, reduction="sum"))


def test_kl_pulls_the_student_by_the_difference_of_probabilities() -> None:
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(9 * kl(TEACHER, student), student)
    for value, expected in zip(gradient, (-0.711152, 0.414296, 0.296856), strict=True):
        near(value, expected)


@settings(max_examples=25)
@given(seed=integers(0, 99), shift=floats(-50, 50))
def test_kl_is_0_where_logits_differ_by_a_constant_and_above_elsewhere(seed: int, shift: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 2, 3, 5, dtype=torch.float64, generator=draw)
    shifts = shift * torch.randn(2, 1, 5, dtype=torch.float64, generator=draw)
    assert divergence([softened(a + shifts, 3)], softened(a, 3)).abs() < 1e-12
    assert divergence([softened(b, 3)], softened(a, 3)) > 1e-3
    assert_close(divergence([softened(b + shifts, 3)], softened(a, 3)), divergence([softened(b, 3)], softened(a, 3)))


def test_students_added_up_first_diverge_as_one_by_one() -> None:
    teacher, *students = (softened(torch.randn(2, 3, 5, 7), 3) for _ in range(4))
    assert_close(divergence(students, teacher), torch.stack([divergence([one], teacher) for one in students]).sum())
    assert divergence([teacher, teacher, teacher], teacher) == 0


@pytest.mark.parametrize(
    ("squared", "y", "ds", "of"),
    [
        (False, 1.750272, 7.216950, {"ds": 8.967222, "sdd": 10.142657, "sde": 10.136209, "dsd": 11.311644}),
        (True, 1.578653, 6.704341, {"ds": 8.282994, "sdd": 9.458429, "sde": 9.451981, "dsd": 10.627416}),
    ],
)
def test_the_whole_loss(squared: bool, y: float, ds: float, of: dict[Variant, float]) -> None:
    found = terms(Dsd(squared_pred=squared))
    near(found["y"], y)
    near(found["ds"], ds)
    assert list(terms(Dsd(variant="basic", squared_pred=squared))) == ["y"]
    for variant, total in of.items():
        near(torch.stack(list(terms(Dsd(variant=variant, squared_pred=squared)).values())).sum(), total)
    unscaled = terms(Dsd(squared_pred=squared, tau_squared=False))
    near(torch.stack(list(unscaled.values())).sum(), 8.543485 if squared else 9.227713)


def test_dice_and_cross_entropy_of_the_output() -> None:
    entropy = torch.nn.functional.cross_entropy(made(0), MASKS)
    near(entropy, 1.158729)
    near(dce(made(0), Target.of(MASKS, 3)) - entropy, 0.591543)
    near(dce(made(0), Target.of(MASKS, 3), squared=True) - entropy, 0.419924)


def test_each_kl_and_their_sums() -> None:
    found = terms(Dsd())
    near(found["kl_enc"], 1.168987)
    near(found["kl_dec"], 1.175435)
    logs = {name: softened(logits, 3) for name, logits in outputs().items()}
    for teacher, student, value in (
        ("E4", "E1", 0.634225),
        ("E4", "E2", 0.408938),
        ("E4", "E3", 0.125824),
        ("D1", "D2", 0.087223),
        ("D1", "D3", 0.351528),
        ("D1", "D4", 0.736684),
    ):
        near(9 * divergence([logs[student]], logs[teacher]), value)


@pytest.mark.parametrize(
    ("table", "encoder", "decoder"),
    [
        (Dsd(variant="reversed-teacher"), 1.088480, 1.385668),
        (Dsd(variant="mean-teacher"), 0.426481, 0.489391),
        (Dsd(variant="mean-teacher", mean_of="logits"), 0.424775, 0.487816),
        (Dsd(variant="feature-l2"), 1.168987, 1.175435),
    ],
)
def test_other_teachers(table: Dsd, encoder: float, decoder: float) -> None:
    found = terms(table)
    near(found["kl_enc"], encoder)
    near(found["kl_dec"], decoder)
    near(found["ds"], 7.216950)


def test_what_a_mean_teacher_is_the_mean_of() -> None:
    logits = torch.randn(4, 2, 3, 5)
    probs, raw = (logits / 3).softmax(2), (logits.mean(0) / 3).log_softmax(1)
    for of, teacher in (("probabilities", probs.mean(0).log()), ("logits", raw)):
        table = Dsd.model_validate({"variant": "mean-teacher", "mean_of": of, "tau_squared": False})
        assert_close(side_term(list(logits), table), divergence(list(probs.log()), teacher))


@pytest.mark.parametrize(("side", "teacher", "norm"), [(ENCODER, "E4", 0.660242), (DECODER, "D1", 0.630412)])
def test_a_teaching_stage_is_pulled_too_unless_detached(side: tuple[str, ...], teacher: str, norm: float) -> None:
    given = outputs()
    read = [given[name] for name in side]
    pulled = torch.autograd.grad(side_term(read, Dsd()), read)
    near(pulled[side.index(teacher)].norm(), norm)
    detached = torch.autograd.grad(side_term(read, Dsd(detach_teacher=True)), read, allow_unused=True)
    for name, gradient, before in zip(side, detached, pulled, strict=True):
        if name == teacher:
            assert gradient is None
        else:
            assert gradient is not None
            assert_close(gradient, before)


def test_a_detached_mean_still_pulls_every_stage() -> None:
    read = [made(t).requires_grad_() for t in range(4)]
    table = Dsd(variant="mean-teacher", detach_teacher=True)
    whole, bound = (torch.autograd.grad(side_term(read, t), read) for t in (Dsd(variant="mean-teacher"), table))
    assert all(gradient.norm() > 0.01 for gradient in bound)
    assert not torch.allclose(whole[0], bound[0])


def test_without_alpha_the_gradients_are_those_of_deep_supervision() -> None:
    gradients = []
    for table in (Dsd(variant="ds"), Dsd(alpha_encoder=0, alpha_decoder=0)):
        given = outputs()
        sum(terms_of(made(0), given, MASKS, table).values(), number(0)).backward()  # type: ignore[no-untyped-call]
        gradients.append([output.grad for output in given.values()])
    assert_close(*gradients, rtol=0, atol=0)
    assert [gradient is None for gradient in gradients[0]] == 4 * [False] + 4 * [True]


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_repeating_an_image_leaves_cross_entropy_and_kl(axis: int) -> None:
    def wider(tensor: Tensor, place: int) -> Tensor:
        return torch.cat([tensor, tensor], place)

    masks = torch.randint(0, 3, (2, 4, 2, 6))
    logits = torch.randn(2, 3, 4, 2, 6, dtype=torch.float64)
    stages = {name: torch.randn(2, 3, 4, 2, 6, dtype=torch.float64) for name in STAGES}
    once = terms_of(logits, {name: split(stage) for name, stage in stages.items()}, masks, Dsd())
    twice = {name: split(wider(stage, axis + 1)) for name, stage in stages.items()}
    again = terms_of(wider(logits, axis + 1), twice, wider(masks, axis), Dsd())
    for name in ("kl_enc", "kl_dec"):
        assert_close(again[name], once[name])
    for name in ("y", "ds"):
        assert_close(again[name], once[name], rtol=0, atol=1e-5)  # Dice has its smoothing
    squared = [terms_of(wider(logits, axis + 1), twice, wider(masks, axis), Dsd(squared_pred=True))["ds"]]
    squared.append(terms_of(logits, {n: split(s) for n, s in stages.items()}, masks, Dsd(squared_pred=True))["ds"])
    assert_close(*squared)


@pytest.mark.parametrize("size", [(5, 7, 3), (11, 13)])
def test_dice_and_cross_entropy_are_monais(size: tuple[int, ...]) -> None:
    logits = (3 * torch.randn(2, 4, *size)).requires_grad_()
    masks = torch.randint(0, 3, (2, *size))  # nothing is of the last class
    reference = DiceCELoss(include_background=True, to_onehot_y=True, softmax=True)
    found, expected = dce(logits, Target.of(masks, 4)), reference(logits, masks[:, None])
    assert_close(found, expected, rtol=0, atol=1e-6)
    assert_close(torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits), rtol=0, atol=1e-6)


def test_printed_dice_is_monais_without_smoothing() -> None:
    logits = torch.randn(2, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    masks = torch.randint(0, 3, (2, 5, 7))
    reference = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0, smooth_dr=0)
    found, expected = dce(logits, Target.of(masks, 3), squared=True), reference(logits, masks[:, None])
    assert_close(found, expected)
    assert_close(torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits))


def test_losses_are_taken_in_float32_of_halved_logits() -> None:
    halved = {name: logits.detach().bfloat16() for name, logits in outputs().items()}
    with torch.autocast("cpu", torch.bfloat16):
        found = terms_of(made(0).bfloat16(), halved, MASKS, Dsd())
    whole = terms_of(made(0).bfloat16().float(), {n: h.float() for n, h in halved.items()}, MASKS, Dsd())
    assert {term.dtype for term in found.values()} == {torch.float32}
    assert_close(found, whole, rtol=0, atol=0)


def test_logits_far_apart_stay_finite() -> None:
    given = [(1e4 * torch.randn(1, 3, 8)).requires_grad_() for _ in ENCODER]
    for variant, of in itertools.product(("dsd", "mean-teacher"), ("probabilities", "logits")):
        table = Dsd.model_validate({"variant": variant, "mean_of": of})
        total = side_term(given, table) + dce(given[0], Target.of(torch.randint(0, 3, (1, 8)), 3))
        assert total.isfinite()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(total, given))


def test_a_weight_multiplies_its_term_and_0_leaves_it_out() -> None:
    plain, heavy = terms(Dsd()), terms(Dsd(eta=0.5, alpha_encoder=2, alpha_decoder=3))
    assert_close(
        heavy, {"y": plain["y"], **{n: w * plain[n] for n, w in {"ds": 0.5, "kl_enc": 2, "kl_dec": 3}.items()}}
    )
    assert list(terms(Dsd(alpha_encoder=0))) == ["y", "ds", "kl_dec"]
    assert list(terms(Dsd(eta=0))) == ["y", "kl_enc", "kl_dec"]
    assert list(terms(Dsd(variant="sde", alpha_decoder=5))) == ["y", "ds", "kl_enc"]
    assert Dsd(variant="feature-l2").weights == {"ds": 1, "kl_enc": 1, "kl_dec": 1, "l2": 1e-4}


@pytest.mark.parametrize("squared", [False, True])
def test_a_class_that_is_absent_and_out_of_the_question_leaves_the_loss_finite(squared: bool) -> None:
    logits = torch.zeros(1, 3, 2, 2, 2)
    logits[:, 2] = -100.0
    masks = torch.tensor([0, 1] * 4).reshape(1, 2, 2, 2)
    assert torch.isfinite(dce(logits, Target.of(masks, 3), squared=squared))
